"""Lists of others, as they are downloaded: what each line means, and what is never taken for a list."""

import gzip
import ipaddress
import itertools
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import collected_rules

from sparkle_lite.errors import SparkleError
from sparkle_lite.net import Network, is_public, parse_network
from sparkle_lite.texts import catalogue
from sparkle_lite.wire import list_formats
from sparkle_lite.wire.list_formats import ListRead, cause, read_list
from sparkle_lite.wire.list_lines import Format

NARROW = (24, 56)


def read(text: str, form: Format = "auto", widest: tuple[int, int] = (16, 48)) -> ListRead:
    return read_list(text.encode(), form=form, widest=widest)


def listed(result: ListRead) -> list[str]:
    return [str(network) for network in result.networks]


def comments(result: ListRead) -> dict[str, str]:
    return {str(network): comment for network, comment in result.networks.items()}


# --- Lines ------------------------------------------------------------------------------------------------------------

# A line, its form, what it lists, and its comment.
GOOD = [
    ("1.2.3.4", "address", ["1.2.3.4"], ""),
    (" 1.2.3.4\t", "address", ["1.2.3.4"], ""),
    ("1.2.3.0/24", "network", ["1.2.3.0/24"], ""),
    ("1.2.3.4/32", "network", ["1.2.3.4"], ""),
    ("2001:db8::/64", "network", ["2001:db8::/64"], ""),
    ("::ffff:1.2.3.4", "address", ["1.2.3.4"], ""),
    ("::ffff:1.2.3.0/120", "network", ["1.2.3.0/24"], ""),
    ("1.2.3.4 # it cheats", "address", ["1.2.3.4"], "it cheats"),
    ("1.2.3.4#it cheats", "address", ["1.2.3.4"], "it cheats"),
    ("1.2.3.4 ; seen with 5.6.7.8", "address", ["1.2.3.4"], "seen with 5.6.7.8"),
    ("1.2.3.4;it cheats", "address", ["1.2.3.4"], "it cheats"),
    ("1.2.3.4 // it cheats", "address", ["1.2.3.4"], "it cheats"),
    ("1.2.3.0/24\tit cheats", "network", ["1.2.3.0/24"], "it cheats"),
    ("1.2.3.4 2024-11-28 12:30:45 Xunlei 1.2", "address", ["1.2.3.4"], "2024-11-28 12:30:45 Xunlei 1.2"),
    ("1.2.3.4 - spam", "address", ["1.2.3.4"], "spam"),
    ("1.2.3.4: spam", "address", ["1.2.3.4"], "spam"),
    ("1.2.3.4,", "address", ["1.2.3.4"], ""),
    ("1.2.3.4,12:30:45,x", "address", ["1.2.3.4"], "12:30:45,x"),
    ("1.2.3.4:6881", "address", ["1.2.3.4"], ""),
    ("[2001:db8::1]:6881 text", "address", ["2001:db8::1"], "text"),
    ("001.002.003.004", "address", ["1.2.3.4"], ""),
    ("01.2.3.4", "address", ["1.2.3.4"], ""),
    ("001.002.003.000/24", "network", ["1.2.3.0/24"], ""),
    ("1.2.3.4-1.2.3.7", "range", ["1.2.3.4/30"], ""),
    ("1.2.3.4 - 1.2.3.8", "range", ["1.2.3.4/30", "1.2.3.8"], ""),
    ("1.2.3.4–1.2.3.7 # a dash", "range", ["1.2.3.4/30"], "a dash"),
    ("1.2.3.4,1.2.3.7", "range", ["1.2.3.4/30"], ""),
    ("1.2.3.0,1.2.3.255,US,Some org", "range", ["1.2.3.0/24"], "US,Some org"),
    ("2001:db8::-2001:db8::ff", "range", ["2001:db8::/120"], ""),
    ("001.02.3.004 - 001.02.3.007 , 000 , Some, org", "dat", ["1.2.3.4/30"], "Some, org"),
    ("010.020.030.040-010.020.030.040,127,Some org: 5.6.7.8", "dat", ["10.20.30.40"], "Some org: 5.6.7.8"),
    ("1.2.3.4,1.2.3.4,127,x", "dat", ["1.2.3.4"], "x"),
    ("1.2.3.4 - 1.2.3.4 , 128 , x", "dat", [], ""),
    ("1.2.3.4 - 1.2.3.4 , , x", "dat", ["1.2.3.4"], "x"),
    ("1.2.3.4 - 1.2.3.4,200", "dat", [], ""),
    ("Some org:1.2.3.4-1.2.3.7", "p2p", ["1.2.3.4/30"], "Some org"),
    ("Some #1 org: of 3-4, 5:1.2.3.4 - 1.2.3.7", "p2p", ["1.2.3.4/30"], "Some #1 org: of 3-4, 5"),
    ("5.6.7.8:1.2.3.4-1.2.3.7", "p2p", ["1.2.3.4/30"], "5.6.7.8"),
    ("cafe:12:1.2.3.4-1.2.3.7", "p2p", ["1.2.3.4/30"], "cafe:12"),
    ("Some org:2001:db8::1-2001:db8::1", "p2p", ["2001:db8::1"], "Some org"),
    ("Some: org: 2001:db8:0:1::1 - 2001:db8:0:1::1", "p2p", ["2001:db8:0:1::1"], "Some: org"),
    ('"1.2.3.4"', "csv", ["1.2.3.4"], ""),
    ('"1.2.3.4","it ""cheats"", often"', "csv", ["1.2.3.4"], 'it "cheats", often'),
    ('"1.2.3.4";"it cheats, often"', "csv", ["1.2.3.4"], "it cheats, often"),
    ('"1.2.3.4","1.2.3.7",text', "csv", ["1.2.3.4/30"], "text"),
    ("2024.01.02,1.2.3.0/24,text", "csv", ["1.2.3.0/24"], "2024.01.02 text"),
    ("US\t1.2.3.4:6881\ttext", "csv", ["1.2.3.4"], "US text"),
    ("US|1.2.3.4-1.2.3.7|text", "csv", ["1.2.3.4/30"], "US text"),
    ('add bad 1.2.3.0/24 timeout 30 comment "x"', "firewall", ["1.2.3.0/24"], "x"),
    ("-A INPUT -s 1.2.3.4/32 -j DROP", "firewall", ["1.2.3.4"], ""),
    ("deny 1.2.3.0/24;", "firewall", ["1.2.3.0/24"], ""),
    ("Deny from 1.2.3.4", "firewall", ["1.2.3.4"], ""),
]


@pytest.mark.parametrize(("line", "form", "networks", "comment"), GOOD, ids=lambda value: str(value))
def test_a_line_means_what_its_writer_meant(line: str, form: str, networks: list[str], comment: str) -> None:
    is_private = networks == ["10.20.30.40"]
    result = read(line + "\n")
    assert result.formats == {form: 1}
    if is_private:
        assert result.refused == {"list.not_public": 1}
        return
    assert (listed(result), result.bad, result.wide, result.is_cut) == (networks, (), (), False)
    assert set(result.networks.values()) == ({comment} if networks else set())
    assert result.skipped == ({} if networks else {"not_blocked": 1})


# A line, why it is refused, and a part of the sentence.
BAD = [
    ("1.2.3.4/24", "address.host_bits", "1.2.3.0/24"),
    ("2001:db8::1/64", "address.host_bits", "2001:db8::/64"),
    ("256.1.2.3", "list.bad_octet", "'256'"),
    ("1.2.3.300-1.2.3.4", "list.bad_octet", "'300'"),
    ("1.2.3.4,5.6.7.300", "list.bad_octet", "'300'"),
    ("Some org:1.2.3.4-1.2.3.300", "list.bad_octet", "'300'"),
    ("1.2.3.*", "list.bad_octet", "'*'"),
    ('"999.1.1.1","text"', "list.bad_octet", "'999'"),
    ("1.2.3.4.5", "list.not_four_numbers", "5 numbers"),
    ("1.2.3/24", "list.not_four_numbers", "3 numbers"),
    ("1.2.3.4/33", "list.bad_prefix", "'/33'"),
    ("1.2.3.4/x", "list.bad_prefix", "'/x'"),
    ("1.2.3.0/", "list.bad_prefix", "'/'"),
    ("::1/129", "list.bad_prefix", "128"),
    ("::ffff:1.2.3.0/90", "address.bad_prefix", "32"),
    ("2001:db8:::1", "list.bad_ipv6", "2001:db8:::1"),
    ("1.2.3.7-1.2.3.4", "list.end_before_start", "1.2.3.7"),
    ("Some org:1.2.3.7-1.2.3.4", "list.end_before_start", "1.2.3.4"),
    ("2001:db8::9-2001:db8::1", "list.end_before_start", "2001:db8::9"),
    ("1.2.3.4 -", "list.half_range", "1.2.3.4 -"),
    ("1.2.3.4 - 1.2", "list.half_range", "1.2.3.4 - 1.2"),
    ("1.2.3.4 - 1.2.3", "list.not_four_numbers", "3 numbers"),
    ("1.2.3.4-2001:db8::1", "list.mixed_families", "2001:db8::1"),
    ("016.0.0.1", "list.leading_zero", "016"),
    ("08.1.2.3", "list.leading_zero", "08"),
    ("1.2.3.4:99999", "address.bad_port", "65535"),
    ("1.2.3.0:80/24", "address.has_port", "1.2.3.0"),
    ("1.2.3.4 5.6.7.8", "list.two_addresses", "two addresses"),
    ("1.2.3.0 255.255.255.0", "list.two_addresses", "two addresses"),
    ("1.2.3.0,255.255.255.0", "list.netmask", "255.255.255.0"),
    ('"1.2.3.4","255.255.255.255",x', "list.netmask", "255.255.255.255"),
    ("1.2.3.4 hosting:5.6.7.8-5.6.7.9", "list.two_addresses", "two addresses"),
    ("1.2.3.4,US,5.6.7.8", "list.two_addresses", "two addresses"),
    ("US,1.2.3.4,5.6.7.8", "list.two_addresses", "two addresses"),
    ("1.2.3.4,5.6.7.8,9.9.9.9", "list.two_addresses", "two addresses"),
    ("1234:2001:db8::1-2001:db8::2", "list.ambiguous", "1234:2001"),
    ("ads.example.org", "list.host_name", "ads.example.org"),
    ("https://example.org/list", "list.host_name", "example.org"),
    ("10.0.0.1", "list.not_public", "10.0.0.1"),
    ("192.168.0.0/16", "list.not_public", "192.168.0.0/16"),
    ("0.0.0.0 ads.example.org", "list.not_public", "0.0.0.0"),
    ("::ffff:10.0.0.1", "list.not_public", "10.0.0.1"),
    # All of IPv4, by its other name.
    ("::ffc0:0:0/90", "list.not_public", "::ffc0:0:0/90"),
    ("fe80::1%3", "list.not_public", "fe80::1"),
    ("add good 1.2.3.0/24 nomatch", "list.no_address", "nomatch"),
    ("１.2.3.4", "list.no_address", "１"),
    ("nothing", "list.no_address", "nothing"),
    ("1.2.3.4:999999", "list.no_address", "1.2.3.4:999999"),
    ("-", "list.no_address", "-"),
    ("1.2.3.4 " + "x" * 2000, "list.long_line", "1024"),
]


@pytest.mark.parametrize(("line", "key", "part"), BAD, ids=lambda value: str(value)[:40])
def test_a_line_that_says_nothing_sure_is_told_with_its_cause(line: str, key: str, part: str) -> None:
    result = read(f"# a list\n{line}\n")
    assert (listed(result), result.refused) == ([], {key: 1})
    (bad,) = result.bad
    assert (bad.number, bad.why.key) == (2, key)
    assert part in bad.why.text("en") and part.replace("two addresses", "两个地址") in bad.why.text("zh") + part
    assert len(bad.text) <= 80 and line.startswith(bad.text)
    assert cause(key).text("en") and cause(key).text("zh")


def test_every_cause_has_its_common_words() -> None:
    causes = {key.removeprefix("list_cause.") for key in catalogue("en") if key.startswith("list_cause.")}
    assert {key.partition(".")[2] for _, key, _ in BAD} | {"too_many", "too_many_refused"} == causes


@pytest.mark.parametrize(
    ("form", "line", "networks"),
    [
        ("p2p", "1234:2001:db8::1-2001:db8::1", ["2001:db8::1"]),
        ("p2p", "1.2.3.4 hosting:5.6.7.8-5.6.7.9", ["5.6.7.8/31"]),
        ("p2p", "1.2.3.4", []),
        ("cidr", "Some org:1.2.3.4-1.2.3.5", []),
        ("cidr", '"1.2.3.4"', []),
        ("cidr", "1.2.3.4", ["1.2.3.4"]),
        ("dat", "1.2.3.4-1.2.3.5", ["1.2.3.4/31"]),
        ("dat", "Some org:1.2.3.4-1.2.3.5", ["1.2.3.4/31"]),
        ("csv", "1.2.3.4", ["1.2.3.4"]),
        ("csv", "1.2.3.4 text", []),
    ],
)
def test_a_form_that_is_told_is_the_only_one(form: Format, line: str, networks: list[str]) -> None:
    result = read(line + "\n", form)
    assert listed(result) == networks
    assert sum(result.refused.values()) == (not networks)


# --- Ranges and what is too wide --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "networks", "wide"),
    [
        # As long as each other, and so as wide as each other, wherever they begin.
        ("1.2.3.0-1.2.4.255", ["1.2.3.0/24", "1.2.4.0/24"], []),
        ("1.2.4.0-1.2.5.255", ["1.2.4.0/24", "1.2.5.0/24"], []),
        ("1.2.4.0/23", [], ["1.2.4.0/23"]),
        ("1.2.4.0-1.2.7.255", [], ["1.2.4.0/22"]),
        ("1.2.5.0-1.2.8.255", ["1.2.5.0/24", "1.2.8.0/24"], ["1.2.6.0/23"]),
        ("0.0.0.0-255.255.255.255", [], ["0.0.0.0/0"]),
        ("2001:db8::-2001:db8:0:1ff:ffff:ffff:ffff:ffff", ["2001:db8::/56", "2001:db8:0:100::/56"], []),
        # What of it is nobody's is told, the rest is listed.
        ("9.255.255.0-10.0.0.255", ["9.255.255.0/24"], []),
    ],
)
def test_only_what_is_too_wide_is_kept_out(line: str, networks: list[str], wide: list[str]) -> None:
    result = read(line + "\n", widest=NARROW)
    assert listed(result) == networks
    assert [str(each.network) for each in result.wide] == wide
    assert (result.wide_count, result.refused) == (len(wide), {"list.not_public": 1} if "10.0" in line else {})


@given(st.integers(11 << 24, 99 << 24), st.integers(1, 3000), st.integers(22, 32))
def test_a_range_loses_nothing_that_is_narrow(first: int, size: int, widest: int) -> None:
    last = first + size - 1
    result = read(f"{ipaddress.ip_address(first)}-{ipaddress.ip_address(last)}\n", widest=(widest, 64))
    networks = [*result.networks, *(each.network for each in result.wide)]
    if result.wide_count <= 20:
        covered = sorted((network.first, network.last) for network in networks)
        assert (covered[0][0], covered[-1][1]) == (first, last)
        assert all(left[1] + 1 == right[0] for left, right in itertools.pairwise(covered))
    assert all(network.prefix >= widest for network in result.networks)
    assert all(each.network.prefix < widest for each in result.wide)
    # Whether anything is kept out hangs on how long the range is, and not on where it begins.
    assert bool(result.wide_count) == (size >= 4 * 2 ** (32 - widest) - 1)


# --- Whole files ------------------------------------------------------------------------------------------------------

MIXED = """# A list of all sorts
! made by hand

// one of them
1.2.3.4
; two
; lines
1.2.3.8/30
001.02.4.000 - 001.02.4.255 , 100 , Café; 迅雷
Some org:1.2.5.4-1.2.5.5
"1.2.6.1","quoted, too"
2001:db8::1
1.2.3.4 # again
ip,first_seen,reason
1.2.7.1,9.9.9.9,by column
1.2.8.0/23
oops
"""
MIXED_COMMENTS = {
    "1.2.3.4": "one of them",
    "1.2.3.8/30": "two lines",
    "1.2.4.0/24": "Café; 迅雷",
    "1.2.5.4/31": "Some org",
    "1.2.6.1": "quoted, too",
    "2001:db8::1": "",
    "1.2.7.1": "by column",
}
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-le": lambda text: text.encode("utf-16-le"),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "utf-16-be with a mark": lambda text: ("\ufeff" + text).encode("utf-16-be"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip of utf-16": lambda text: gzip.compress(text.encode("utf-16")),
    "gzip in pieces": lambda text: b"".join(gzip.compress(line.encode()) for line in text.splitlines(keepends=True)),
    "gzip and more": lambda text: gzip.compress(text.encode()) + b"\0\0\0",
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("name", ENCODINGS)
def test_a_file_says_the_same_in_every_encoding(name: str, end: str) -> None:
    result = read_list(ENCODINGS[name](MIXED.replace("\n", end)), widest=NARROW)
    assert comments(result) == MIXED_COMMENTS
    assert result.lines == MIXED.count("\n")
    assert result.skipped == {"comment": 5, "blank": 1, "header": 1}
    assert result.formats == {"address": 3, "network": 1, "dat": 1, "p2p": 1, "csv": 3}
    assert [(bad.number, bad.text) for bad in result.bad] == [(17, "oops")]
    assert [(wide.number, str(wide.network)) for wide in result.wide] == [(16, "1.2.8.0/23")]
    assert (result.looks_like, result.is_cut) == ("list", False)


def test_bytes_of_old_encodings_cost_no_line_and_comments_are_one_clean_line() -> None:
    body = (
        b"1.2.3.4 # Caf\xe9 \x80 \x00\x1b[31mred\x07\n1.2.3.5 # \xd1\xb8\xc0\xd7\n1.2.3.6 # "
        + "x\u202e ".encode() * 200
    )
    result = read_list(body + b"\n1.2.3.7 \x00\n")
    assert comments(result) == {
        "1.2.3.4": "Café € [31mred",
        "1.2.3.5": "Ѹ\N{LATIN CAPITAL LETTER A WITH GRAVE}\N{MULTIPLICATION SIGN}",
        "1.2.3.6": ("x " * 60).strip(),
        "1.2.3.7": "",
    }


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("Start\tEnd\tNetblock\tName\n1.2.3.0\t1.2.3.255\t24\tthey\n", {"1.2.3.0/24": "they"}),
        ('date;ip address;note\n5.6.7.8;1.2.3.4;"a; b"\n', {"1.2.3.4": "a; b"}),
        ('"network","votes"\n"1.2.3.0/24","7"\n1.2.4.0/24,8\n', {"1.2.3.0/24": "7", "1.2.4.0/24": "8"}),
        ("ip\n1.2.3.4\n", {"1.2.3.4": ""}),
        ("network,prefix length,x\n1.2.3.0,24,y\n1.2.4.0/24,,z\n", {"1.2.3.0/24": "y", "1.2.4.0/24": "z"}),
        ("Network\n1.2.3.4 - 1.2.3.4 , 200 , x\n1.2.3.5 - 1.2.3.5 , 100 , y\n", {"1.2.3.5": "y"}),
        ("start,end\n1.2.3.4,1.2.3.5\n\n", {"1.2.3.4/31": ""}),
        ("reason,ip\nx,1.2.3.4\nip,reason\n1.2.3.5,y\n", {"1.2.3.4": "x", "1.2.3.5": "y"}),
    ],
)
def test_a_table_is_read_by_its_header(text: str, networks: dict[str, str]) -> None:
    result = read(text)
    assert (comments(result), result.bad) == (networks, ())


def test_the_list_that_everybody_knows_is_read_whole() -> None:
    body = collected_rules()
    result = read_list(body)
    assert (len(result.networks), result.bad, result.refused) == (825, (), {})
    assert [str(wide.network) for wide in result.wide] == ["2a0c:a9c4::/30"]
    assert sum(result.formats.values()) == 826
    whole = read_list(body, widest=(16, 30))
    assert (len(whole.networks), whole.wide) == (826, ())
    assert {network.prefix for network in whole.networks if network.bits == 32} >= {18, 23, 24, 32}
    assert all(re.fullmatch(r"some-ips\.txt \[AutoGen\] .+", comment) for comment in whole.networks.values())


@pytest.mark.parametrize(
    ("body", "looks_like"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \r\n\n", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (b" " * 9000, "empty"),
        (b"# nothing today\n", "list"),
        (b" " * 5000 + b"\n1.2.3.4\n", "list"),
        (b"[2001:db8::1]:80\n", "list"),
        (b"<!DOCTYPE html>\n<pre>\n1.2.3.4\n", "html"),
        (b"\n  <HTML><body>1.2.3.4", "html"),
        (b'<?xml version="1.0"?>\n1.2.3.4\n', "html"),
        (b'{"error": "gone"}\n1.2.3.4\n', "json"),
        (b'[ {"ip": "1.2.3.4"}]', "json"),
        (b'["1.2.3.4",\n"1.2.3.5"]', "json"),
        (b"PK\x03\x04\n1.2.3.4\n", "binary"),
        (bytes(range(256)) + b"\n1.2.3.4\n", "binary"),
    ],
)
def test_what_is_no_list_is_told(body: bytes, looks_like: str) -> None:
    result = read_list(body)
    assert result.looks_like == looks_like
    assert bool(result.networks) == (looks_like == "list" and not body.startswith(b"#"))
    assert (result.is_cut, result.bad) == (False, ())


@pytest.mark.parametrize(
    ("body", "is_cut"),
    [
        (b"1.2.3.4\n1.2.3.", True),
        (b"1.2.3.4\n1.2.3.4 - 1.2", True),
        (b"1.2.3.4\n1.2.3.5", False),
        (b"1.2.3.4\nbad\n", False),
        (b"1.2.3.4\n10.0.0.1", False),
        ("1.2.3.4\n1.2.3.5\n".encode("utf-16-le")[:-1], True),
        (gzip.compress(random.Random(1).randbytes(9000).hex(" ", 4).replace(" ", "\n").encode(), mtime=0)[:4000], True),
        (gzip.compress(b"1.2.3.4\n", mtime=0)[:-3], True),
        (gzip.compress(b"1.2.3.4\n", mtime=0)[:5], True),
    ],
)
def test_half_a_file_is_told(body: bytes, is_cut: bool) -> None:
    assert read_list(body).is_cut == is_cut


# --- Bounds -----------------------------------------------------------------------------------------------------------


def test_a_list_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_formats, "MAX_ENTRIES", 3)
    result = read("".join(f"1.2.3.{i}\n" for i in (0, 1, 1, 2, 0, 3, 4, 5)))
    assert (len(result.networks), [bad.number for bad in result.bad]) == (3, [6])
    assert (result.refused, result.lines) == ({"list.too_many": 3}, 8)
    # A range counts by its parts, and what is too wide counts too.
    result = read("1.0.0.0/8\n1.2.3.1-1.2.3.254\n1.2.4.4\n")
    assert (len(result.networks), result.wide_count, result.refused) == (2, 1, {"list.too_many": 2})

    monkeypatch.setattr(list_formats, "_MAX_REFUSED", 5)
    result = read("bad\n" * 9)
    assert (result.refused, result.lines) == ({"list.no_address": 5, "list.too_many_refused": 4}, 9)


def refusal(body: bytes) -> SparkleError:
    with pytest.raises(SparkleError) as refused:
        read_list(body)
    assert refused.value.message.endswith(".") and refused.value.text("zh").endswith("。")
    return refused.value


def test_what_is_too_large_or_damaged_is_refused_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(gzip.compress(bytes(list_formats.MAX_LIST_BYTES + 1))).code == "too_large"
    assert refusal(b"\n" * (list_formats.MAX_LINES + 1)).code == "too_large"
    assert refusal(gzip.compress(b"") * 10_001).code == "too_large"
    packed = bytearray(gzip.compress(b"1.2.3.4\n" * 99))
    packed[-5] ^= 1
    assert refusal(bytes(packed)).code == "bad_request"
    monkeypatch.setattr(list_formats, "MAX_LIST_BYTES", 7)
    assert refusal(b"1.2.3.4\n").code == "too_large"


# --- Whatever comes ---------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [line for line, *_ in (*GOOD, *BAD)]
    + ["\n", "\r\n", "\r", ",", ";", "-", " ", ":", "/", "#", '"', "\t", "0", "255", "1.", "::", "ip,reason", "\ufeff"]
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join)
FORMS = st.sampled_from(["auto", "cidr", "dat", "p2p", "csv"])


@settings(deadline=None)
@given(
    st.binary(max_size=200) | TEXTS.map(str.encode) | TEXTS.map(lambda text: gzip.compress(text.encode())),
    FORMS,
    st.sampled_from([(16, 48), NARROW, (0, 0), (32, 128)]),
)
def test_whatever_a_file_holds_only_public_networks_come_of_it(
    body: bytes, form: Format, widest: tuple[int, int]
) -> None:
    try:
        result = read_list(body, form=form, widest=widest)
    except SparkleError:
        assert body.startswith(b"\x1f\x8b")
        return
    for network, comment in result.networks.items():
        assert parse_network(str(network)) == network
        assert network.prefix >= widest[network.bits == 128]
        assert is_public(network.address) and is_public(network.last.to_bytes(network.bits // 8, "big"))
        assert comment == comment.strip() and len(comment) <= 120 and (comment.isprintable() or not comment)
    for bad in result.bad:
        assert 1 <= bad.number <= result.lines
        assert bad.why.text("en").isprintable() and bad.why.text("zh").isprintable()
        assert len(bad.text) <= 80 and (bad.text.isprintable() or not bad.text)
    assert len(result.bad) <= min(20, sum(result.refused.values()))
    assert result.wide_count >= len(result.wide)


ADDRESSES = st.integers(11 << 24, 99 << 24)
RANGES = st.lists(st.tuples(ADDRESSES, st.integers(0, 2000)), min_size=1, max_size=8)


def dotted(number: int) -> str:
    return str(ipaddress.ip_address(number))


def padded(number: int) -> str:
    return ".".join(part.zfill(3) for part in dotted(number).split("."))


RENDERED: dict[str, Callable[[int, int], str]] = {
    "plain": lambda first, last: f"{dotted(first)}-{dotted(last)}",
    "dat": lambda first, last: f"{padded(first)} - {padded(last)} , 100 , text, and 5.6.7.8",
    "dat of PeerBanHelper": lambda first, last: f"{dotted(first)},{dotted(last)},0,text",
    "p2p": lambda first, last: f"text: 3-4:{dotted(first)}-{dotted(last)}",
    "csv": lambda first, last: f'"{dotted(first)}","{dotted(last)}","text; x"',
    "mapped": lambda first, last: f"::ffff:{dotted(first)} - ::ffff:{dotted(last)} # text",
    "ipset": lambda first, last: f"add bad {dotted(first)}-{dotted(last)} timeout 0",
}


@pytest.mark.parametrize("name", RENDERED)
@settings(deadline=None, max_examples=30)
@given(ranges=RANGES)
def test_what_was_written_is_what_is_read(name: str, ranges: list[tuple[int, int]]) -> None:
    text = "\r\n".join(RENDERED[name](first, first + size) for first, size in ranges)
    parts = [
        Network(part.network_address.packed, part.prefixlen)
        for first, size in ranges
        for part in ipaddress.summarize_address_range(ipaddress.IPv4Address(first), ipaddress.IPv4Address(first + size))
    ]
    result = read(text)
    assert (list(result.networks), result.bad) == (list(dict.fromkeys(parts)), ())


@settings(deadline=None)
@given(st.data())
def test_a_damaged_line_costs_no_other_line(data: st.DataObject) -> None:
    lines = [
        "1.2.3.4",
        "1.2.4.0/24 # x",
        "1.2.5.1 - 1.2.5.2 , 9 , x",
        "org:1.2.6.1-1.2.6.2",
        '"1.2.7.1","x"',
        "2001:db8::1",
    ]
    own = [set(read(line + "\n").networks) for line in lines]
    place = data.draw(st.integers(0, len(lines) - 1))
    line = lines[place]
    at = data.draw(st.integers(0, len(line)))
    cut = data.draw(st.integers(0, 3))
    put_in = data.draw(st.text(alphabet='0123456789abcdef.:/-, #;"\x00x', max_size=3))
    damaged = [*lines]
    damaged[place] = line[:at] + put_in + line[at + cut :]
    result = read("\n".join(damaged) + "\n")
    if re.match(r"\s*[\[{<]", damaged[0]):
        return
    others = set().union(*(networks for number, networks in enumerate(own) if number != place))
    assert others <= set(result.networks)
    assert set(result.networks) - others <= set(read(damaged[place] + "\n").networks)
    assert {bad.number for bad in result.bad} <= {place + 1}
