"""Expressions of an operator: tried within a time limit beside everything else, and judged by what they may cost."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server import RunningServer

from sparkle_lite.cli.main import main
from sparkle_lite.rules.cautions import unbalanced
from sparkle_lite.wire.java_patterns import java_pattern
from sparkle_lite.wire.matchers import MatcherError, Patience, PatternTimeout, parse

COSTLY = [r".*xunlei.*[0-9]+.*x", r"(a+)+b", r"(.*)(.*)(.*)z", r"(a|aa)+!"]
RULES = f"""
[[rules]]
type = "client_name"
category = "costly"
content = {json.dumps([json.dumps({"method": "REGEX", "content": pattern}) for pattern in COSTLY])}

[[rules]]
type = "client_name"
category = "plain"
content = ["aaaa"]
"""


def expression(pattern: str) -> dict[str, str]:
    return {"method": "REGEX", "content": pattern}


# --- While it is tried ------------------------------------------------------------------------------------------------


def slowest_health(server: RunningServer, until: threading.Event) -> float:
    """The longest time in which /healthz answered until something was done."""
    slowest = 0.0
    while not until.is_set():
        before = time.perf_counter()
        assert server.request("GET", "/healthz").status == 200
        slowest = max(slowest, time.perf_counter() - before)
        time.sleep(0.01)
    return slowest


def test_no_name_keeps_others_waiting(start: Callable[..., RunningServer]) -> None:
    server = start(RULES)
    headers = {"X-BTN-Token": server.token()}
    names = ["xunlei1" * 7000, "a" * 30, "a" * 2000, "a" * 60]
    done, took = threading.Event(), []

    def ask() -> None:
        try:
            for name in names:
                for path in (f"/client/{name}", f"/api/why?client_name={name}"):
                    before = time.perf_counter()
                    # Beyond 8 KiB a request is refused.
                    assert server.request("GET", path[:8_000], headers=headers).status in (200, 303), path[:50]
                    took.append(time.perf_counter() - before)
        finally:
            done.set()

    asking = threading.Thread(target=ask)
    asking.start()
    # Held up by an expression, it would be many seconds.
    assert slowest_health(server, done) < 2
    asking.join()
    assert len(took) == 8 and max(took) < 3


def test_a_rule_that_takes_too_long_is_named_and_the_others_hold(start: Callable[..., RunningServer]) -> None:
    server = start(RULES)
    headers = {"X-BTN-Token": server.token()}
    for _ in range(20):
        answer = server.request("GET", f"/api/why?client_name={'a' * 60}", headers=headers).json()["data"]
        # On a busy machine the second that all of them have may be over before the last is tried.
        if len(answer["untried"]) == 1:
            break
    assert answer["listed"] is True
    assert [json.loads(rule["target"])["content"] for rule in answer["untried"]] == [COSTLY[3]]
    assert [rule["category"] for rule in answer["rules"]] == ["plain"]
    said = server.run("rules", "why", "--client-name", "a" * 60)
    assert "takes too long to be tried" in said and "is listed" in said
    page = server.request("GET", f"/client/{'a' * 60}", headers=headers).body.decode()
    assert "Rules that take too long" in page
    for _ in range(20):
        quick = server.request("GET", f"/api/why?client_name={quote('xunlei 1 x')}", headers=headers).json()["data"]
        if not quick["untried"]:
            break
    assert (quick["listed"], quick["untried"]) == (True, [])


def test_without_patience_nothing_is_tried() -> None:
    with pytest.raises(PatternTimeout):
        parse(expression("a+")).matches("a", Patience(0))
    assert parse(expression("a+")).matches("a", Patience(1)) is True


@pytest.mark.parametrize("pattern", ["(?:(?:a{1000}){1000}){1000}", "(?:" * 26 + "a" + "){2}" * 26])
def test_repetitions_of_repetitions_cost_no_memory(pattern: str) -> None:
    matcher = parse(expression(pattern))
    with pytest.raises(PatternTimeout):
        matcher.matches("a")


def test_groups_within_groups_have_an_end() -> None:
    assert parse(expression("(" * 90 + "a" + ")" * 90)).matches("a") is True
    for deep in ("(" * 200 + "a" + ")" * 200, "(?i)" * 200 + "a"):
        with pytest.raises(MatcherError, match="deep"):
            parse(expression(deep))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            ["a", "b", "1", ".", r"\d", r"\W", "[^a]", "[a-b]", "(", "(?:", ")", "|", "*", "+?", "{2}", "^"]
        )
    ),
    st.text(alphabet="ab1\n ", max_size=6),
)
def test_what_tries_expressions_reads_them_as_python_does(parts: list[str], text: str) -> None:
    import re

    try:
        pattern = java_pattern("".join(parts))
    except MatcherError:
        return
    try:
        matches = pattern.matches(text, Patience(0.5))
    except PatternTimeout:
        return
    assert matches is (re.fullmatch(pattern.python, text, re.ASCII) is not None)


# --- What it may cost -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a|aa)+",
        "(a*)*",
        "(?:a+b?)+c",
        r"(\w|\d)*x",
        "(.*)*b",
        "([a-z]+)*1",
        "(a?){30}b",
        "(?=(a+)+b).*",
        "(x+x+)+y",
        r"(?:\s*\w+\s*)+$",
        "(a|b|ab)*c",
        "(?i)(A|a)*b",
        "(.*,){12}x",
        "((a*b*)*)c",
        "(?:a{1,20})+z",
        "(?>(a+)+b)c",
    ],
)
def test_an_expression_that_may_take_exponential_time_is_known(pattern: str) -> None:
    assert parse(expression(pattern)).may_explode
    assert parse({"method": "CONTAINS", "content": "x", "if": expression(pattern)}).may_explode


@pytest.mark.parametrize(
    "pattern",
    [
        ".*xunlei.*[0-9]+.*x",
        "(.*)(.*)(.*)z",
        r"-XL\d+",
        "(?:ab)+",
        "(?:a[0-9]*)+",
        r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}",
        "a*+b",
        "(?>a+)+b",
        r"(?:\d{12})+",
        "[a-z]+( [a-z]+)*",
        r"(?<n>a|b)\k<n>",
        "(?i)xl.*",
        "(?:-[A-Z]{2}[0-9]{4}-|qB).*",
        "^abc$",
        r"(?:[^\]]*\])*",
        "",
    ],
)
def test_an_expression_that_takes_no_exponential_time_is_left_alone(pattern: str) -> None:
    assert not parse(expression(pattern)).may_explode


# --- config check -----------------------------------------------------------------------------------------------------


def test_config_check_warns_of_what_may_take_for_ever_and_of_broken_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(
        '[[rules]]\ntype = "client_name"\ncategory = "x"\ncontent = [\'{"method":"REGEX","content":"[a-z]+"}\',\n'
        ' \'{"method":"REGEX","content":"(a+)+b"}\']\n'
        '[[rules]]\ntype = "script"\ncategory = "y"\ncontent = ["if (peer.ip == ) {"]\n'
    )
    assert main(["config", "check"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "not told to" not in line]
    assert len(notes) == 3 and notes[-1] == "OK"
    assert "exponential" in notes[0] and "config.toml:5" in notes[0]
    assert "a { in line 1 isn't closed" in notes[1]


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ("if (peer.ip == ) {", "{"),
        ("a['x", "'"),
        ("return 1; }", "}"),
        ("(a]", "]"),
        ("return true", None),
        ('if (a =~ /[(]x/) { return 1; } ## don\'t (\nelse { return "(" }', None),
        ("let x = (a / 2) / b; \"it's\" + 'x\\'('", None),
    ],
)
def test_brackets_and_quotes_of_scripts_are_looked_at(script: str, wrong: str | None) -> None:
    why = unbalanced(script)
    assert (why is None) if wrong is None else (why is not None and f"a {wrong} " in why)
