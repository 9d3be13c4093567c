"""Which credentials a request presents, whatever mixture of headers its client sends."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle_lite.wire.credentials import Presented, present

AUTHORIZATION = (b"authorization", b"Bearer a-id@a-secret")
X_BTN = [(b"x-btn-appid", b"x-id"), (b"x-btn-appsecret", b"x-secret")]
AUTHENTICATION = (b"authentication", b"Bearer n-id@n-secret")
BTN = [(b"btn-appid", b"b-id"), (b"btn-appsecret", b"b-secret")]
INSTALLATION = (b"x-btn-installationid", b"0f8fad5b-d9cb-469f-a165-70867728950e")
EXAMPLE_X_BTN = [(b"x-btn-appid", b"example-app-id"), (b"x-btn-appsecret", b"example-app-secret")]

FORMS = [
    pytest.param([*BTN, AUTHENTICATION, *X_BTN, AUTHORIZATION], ("a-id", "a-secret"), id="Authorization first"),
    pytest.param([*BTN, AUTHENTICATION, *X_BTN], ("x-id", "x-secret"), id="then X-BTN"),
    pytest.param([*BTN, AUTHENTICATION], ("n-id", "n-secret"), id="then Authentication"),
    pytest.param(BTN, ("b-id", "b-secret"), id="then BTN"),
    pytest.param([(b"authorization", b"bEaReR id@secret")], ("id", "secret"), id="any case of bearer"),
    pytest.param([(b"authorization", b"  Bearer   id @ se@cr@et ")], ("id", "se@cr@et"), id="first @ splits, trimmed"),
    pytest.param([(b"x-btn-appid", b" id\t"), (b"x-btn-appsecret", b" s ")], ("id", "s"), id="pairs are trimmed"),
    pytest.param(
        [(b"authorization", b"Basic " + base64.b64encode(b"user:pass@word")), *X_BTN],
        ("x-id", "x-secret"),
        id="a proxy's Basic is skipped",
    ),
    pytest.param([(b"authorization", b"Basic user@host"), *BTN], ("b-id", "b-secret"), id="Basic with @ is skipped"),
    pytest.param([(b"authorization", b"Bearer jwt"), *BTN], ("b-id", "b-secret"), id="a bearer without @ is skipped"),
    pytest.param([(b"authorization", b""), *BTN], ("b-id", "b-secret"), id="empty Authorization is skipped"),
    pytest.param([*EXAMPLE_X_BTN, *BTN], ("b-id", "b-secret"), id="placeholders are skipped"),
    pytest.param([(b"x-btn-appid", b"id"), *BTN], ("b-id", "b-secret"), id="half a pair is skipped"),
    pytest.param([(b"x-btn-appid", b"id"), (b"btn-appsecret", b"s")], ("", ""), id="halves don't make a whole"),
]


@pytest.mark.parametrize(("headers", "expected"), FORMS)
def test_the_first_form_without_a_placeholder_decides(
    headers: list[tuple[bytes, bytes]], expected: tuple[str, str]
) -> None:
    presented = present(headers)
    assert (presented.app_id, presented.secret) == expected


@pytest.mark.parametrize("value", ["", "example-app-id", "example-app-secret", "example", "your_app_id"])
@pytest.mark.parametrize("half", [0, 1])
def test_half_a_placeholder_is_a_placeholder_and_the_installation_id_is_kept(value: str, half: int) -> None:
    pair = [b"real", b"real"]
    pair[half] = value.encode()
    presented = present([(b"btn-appid", pair[0]), (b"btn-appsecret", pair[1]), INSTALLATION])
    assert presented == Presented("", "", INSTALLATION[1].decode(), placeholder=True)


def test_nothing_at_all_is_not_a_placeholder() -> None:
    assert present([(b"user-agent", b"curl/8")]) == Presented("", "", "", placeholder=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"4f5e1f0a9b", "4f5e1f0a9b"),
        (b" id-1 ", "id-1"),
        (b"a" * 64, "a" * 64),
        (b"a" * 65, ""),
        (b"id_1", ""),
        (b"id\xff", ""),
        (b"", ""),
    ],
)
def test_an_installation_id_is_short_and_plain(value: bytes, expected: str) -> None:
    assert present([(b"x-btn-installationid", value)]).installation_id == expected


def test_the_query_counts_only_where_it_is_given_and_after_all_headers() -> None:
    query = b"installationId=i-1&ip=192.0.2.1&appSecret=q+s%40&appId=q-id"
    assert present([], query)[:3] == ("q-id", "q+s@", "i-1")
    assert present([*BTN, INSTALLATION], query)[:3] == ("b-id", "b-secret", INSTALLATION[1].decode())
    assert present([]).app_id == ""


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"authorization", b"authentication", b"x-btn-appid", b"btn-appsecret", b"x-btn-installationid"]
            ),
            st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda tail: b"Bearer " + tail)),
        )
    ),
    st.binary(max_size=60),
)
def test_no_bytes_make_it_raise(headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    presented = present(headers, query)
    assert bool(presented.app_id) == bool(presented.secret)
