"""Which rules and exceptions a client program is not told, and why: config check, the page of rules, the log."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server import RunningServer, wait_for

from sparkle_lite.cli.main import main
from sparkle_lite.config import RuleEntry
from sparkle_lite.rules.operator import compile_rules
from sparkle_lite.rules.rendering import Published, publish
from sparkle_lite.wire.dialect import READINGS, Exceptions, Reading

# Every release before 7.0.0; between the last two stands a comma or an "and".
OLD = "PeerBanHelper 6.0.0 to 6.4.8, 5.0.0 to 5.1.0, 4.0.6 to 4.4.2, 4.0.3 to 4.0.5, 4.0.2, 3.2.0 to 4.0.1"
LEGACY = OLD.replace("PeerBanHelper", "PeerBanHelper 7.0.0 to 9.1.5,")
PLAIN = "qBittorrent-ClientBlocker, PeerBanHelper-Rust, LibreTorrentEE and other programs"
SCRIPTLESS = f"{OLD}, {PLAIN.replace(' and', ', BTNScriptBC and')}"
NO_METHOD = "there is no way to tell them this method or expression"
NO_CONDITIONS = "they read neither hit, miss nor if"
NO_EXCEPTIONS = "they read no exceptions by peer id or client name, so they get no rules of this kind at all"
NO_NAMES = "not told to BTNScriptBC: they read no rules on client names; nothing is to be done"
HOLES = "addresses are only taken out of their lists, so a peer from there can still be banned for its peer id"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(section: str, kind: str, *content: Any, category: str = "test", more: str = "") -> str:
    """A table of the configuration with each value on a line of its own, the first on its fifth."""
    values = "".join(f"  {_toml(value)},\n" for value in content)
    return f'[[{section}]]\ntype = "{kind}"\ncategory = "{category}"\ncontent = [\n{values}]\n{more}'


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {_toml(item)}' for key, item in value.items()) + " }"
    return json.dumps(value)


def matcher(method: str, content: str = "abc", **more: Any) -> dict[str, Any]:
    return {"method": method, "content": content, **more}


LENGTH = {"method": "LENGTH", "min": 1, "max": 2}
HAN = matcher("REGEX", r"\p{IsHan}+")


def check(text: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The notes of `config check` about a configuration that is right."""
    Path("config.toml").write_text(text)
    assert main(["config", "check"]) == 0
    out, err = capsys.readouterr()
    *notes, last = out.splitlines()
    assert (last, err) == ("OK", "")
    assert all(note.startswith("note: config.toml:") for note in notes)
    return [note.removeprefix("note: config.toml:") for note in notes]


# --- config check -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (table("rules", "ip", "1.2.3.0/24", "2001:db8::/64"), []),
        (table("exceptions", "port", 6881), []),
        (
            table("rules", "port", 65000),
            [f"1: rules[0]: not told to {OLD}, LibreTorrentEE and BTNScriptBC: they read no port rules, or fail on "],
        ),
        (
            table("rules", "peer_id", "-XL00"),
            [f"1: rules[0]: not told to {OLD} and BTNScriptBC: they read no rules on peer ids, or compare them with "],
        ),
        (table("rules", "script", "return 1"), [f"1: rules[0]: not told to {SCRIPTLESS}: they run no scripts; "]),
        (table("rules", "client_name", "xunlei"), [f"1: rules[0]: {NO_NAMES}"]),
        (
            table("rules", "client_name", "xunlei", LENGTH, HAN, matcher("ENDS_WITH")),
            [
                f"1: rules[0]: {NO_NAMES}",
                f"6: rules[0].content[1]: not told to {PLAIN}: {NO_METHOD}; write it with CONTAINS or STARTS_WITH",
                f"7: rules[0].content[2]: not told to {PLAIN}: {NO_METHOD}; ",
                # Some take substrings only.
                f"8: rules[0].content[3]: not told to PeerBanHelper-Rust: {NO_METHOD}; ",
            ],
        ),
        (
            table("rules", "client_name", matcher("CONTAINS", **{"if": matcher("CONTAINS", "x")})),
            [
                f"1: rules[0]: not told to {PLAIN}: {NO_CONDITIONS}; write it without hit, miss and if",
                f"1: rules[0]: {NO_NAMES}",
            ],
        ),
        (
            table("rules", "client_name", "abc", matcher("CONTAINS", "good", hit="FALSE")),
            [
                f"1: rules[0]: {NO_NAMES}",
                f"5: rules[0].content[0]: not told to {PLAIN}: in the same category stands an exclusion",
                f"6: rules[0].content[1]: not told to {PLAIN}: {NO_CONDITIONS}; ",
            ],
        ),
        (
            table("exceptions", "ip", "198.51.100.7", "198.51.100.9"),
            [f"1: exceptions[0]: only half told to {LEGACY} and other programs: {HOLES}"],
        ),
        (
            table("exceptions", "client_name", HAN) + table("rules", "client_name", "xunlei"),
            [
                f"1: exceptions[0]: not told to qBittorrent-ClientBlocker: {NO_METHOD}, so they get no rules of this",
                f"1: exceptions[0]: not told to {PLAIN.partition(', ')[2]}: {NO_EXCEPTIONS}",
                f"1: exceptions[0]: {NO_NAMES}",
                f"7: rules[0]: {NO_NAMES}",
            ],
        ),
        (table("rules", "port", 65000, more="expires = 2020-01-01\n"), []),
        (table("exceptions", "client_name", HAN, more="expires = 2020-01-01\n"), []),
    ],
)
def test_config_check_notes_what_which_program_is_not_told_and_why(
    text: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    notes = check(text, capsys)
    for beginning in expected:
        [note] = [note for note in notes if note.startswith(beginning)]
        notes.remove(note)
    assert notes == []


def test_many_values_of_an_entry_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    names = [{"method": "LENGTH", "min": number, "max": 99} for number in range(5)]
    notes = check(table("rules", "client_name", "xunlei", *names), capsys)
    assert [
        note for note in notes if note.startswith(f"1: rules[0]: 5 of its 6 values: not told to {PLAIN}: {NO_METHOD}")
    ]
    assert len(notes) == 2


def test_who_prefers_the_old_shapes_gives_new_releases_no_list_of_exceptions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = table("exceptions", "ip", "198.51.100.7")
    [note] = check(text, capsys)
    assert "9.2.0" not in note
    [note] = check("[btn]\nprefer_legacy = true\n" + text, capsys)
    assert "only half told to PeerBanHelper 9.2.0 or newer, 7.0.0 to 9.1.5, " in note


def test_a_configuration_with_mistakes_is_refused_without_notes(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text(table("rules", "port", 65000) + table("rules", "ip", "nonsense"))
    assert main(["config", "check"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "not told" not in err


# --- What is said is what is done -------------------------------------------------------------------------------------

_CONTENTS = st.sampled_from(["abc", "X", "a.b", "-XL", "客户端"])
_METHODS = st.sampled_from(["STARTS_WITH", "ENDS_WITH", "CONTAINS", "EQUALS", "REGEX"])
_PLAIN = st.builds(matcher, _METHODS, _CONTENTS) | st.just(LENGTH) | st.just(HAN)
_WORDS = st.sampled_from(["TRUE", "FALSE", "DEFAULT"])
_CONDITIONAL = st.builds(lambda rule, hit, miss: {**rule, "hit": hit, "miss": miss}, _PLAIN, _WORDS, _WORDS)


def _entries(matchers: st.SearchStrategy[Any], kinds: list[str]) -> st.SearchStrategy[list[RuleEntry]]:
    def entry(kind: str, category: str, names: list[Any], number: int) -> RuleEntry:
        content = {"port": (number,), "script": (f"return {number}",)}.get(kind, tuple(names))
        return RuleEntry(type=kind, category=category, content=content)  # type: ignore[arg-type]

    return st.lists(
        st.builds(
            entry,
            st.sampled_from(kinds),
            st.sampled_from("AB"),
            st.lists(matchers, min_size=1, max_size=3),
            st.integers(1, 9),
        ),
        max_size=4,
    )


def _document(published: Published, kind: str, reads: Reading) -> dict[str, dict[str, list[Any]]]:
    found: dict[str, dict[str, list[Any]]] = json.loads(published.documents[kind, reads.variant].body)  # type: ignore[index]
    return found


@settings(max_examples=150, deadline=None)
@given(
    _entries(_PLAIN | _CONDITIONAL, ["port", "script", "peer_id", "client_name"]),
    _entries(_PLAIN, ["peer_id", "client_name"]),
)
def test_every_rule_is_in_a_document_or_said_to_be_left_out(
    rules: list[RuleEntry], exceptions: list[RuleEntry]
) -> None:
    compiled = compile_rules(rules, exceptions)
    published = publish(compiled, [], 0)

    def wanted(section: Any, kind: str) -> set[tuple[str, Any]]:
        return {
            (rule.category, value)
            for rule in section
            for value in {"port": rule.ports, "script": rule.scripts}.get(kind, rule.matchers)
            if rule.type == kind
        }

    for reads in READINGS:
        left_out = published.omissions[reads.variant]
        document = _document(published, "rules", reads)
        for kind in ("port", "script", "peer_id", "client_name"):
            missing = [one for one in left_out if (one.section, one.kind) == ("rules", kind)]
            every = wanted(compiled.rules, kind)
            shown = document[kind]
            told = len(shown) if kind == "script" else sum(map(len, shown.values()))
            if reads.exceptions is Exceptions.EXCLUSIONS and kind not in ("port", "script"):
                # They stand in front of each category.
                told -= len(shown) * len(wanted(compiled.exceptions, kind))
            assert told + len(missing) == len(every), (reads.variant, kind)
            if kind != "script":
                assert {(one.category, one.item) for one in missing} <= every
        if reads.exceptions is Exceptions.DOCUMENT:
            document = _document(published, "exception", reads)
            for kind in ("peer_id", "client_name"):
                missing = [one for one in left_out if (one.section, one.kind) == ("exceptions", kind)]
                told = sum(map(len, document[kind].values()))
                assert told + len(missing) == len(wanted(compiled.exceptions, kind))


# --- The page and the log ---------------------------------------------------------------------------------------------


def page(server: RunningServer, language: str) -> str:
    """The text of the page of rules, from what some programs are not told on."""
    token = server.token()
    headers = {"Accept": "text/html", "Cookie": f"X-BTN-Token={token}; lang={language}"}
    text = server.request("GET", "/rules", headers=headers).body.decode()
    title = "What some programs are not told" if language == "en" else "哪些程序得不到哪些规则"
    _, found, rest = text.partition(title)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", rest))) if found else ""


def lines(server: RunningServer) -> list[dict[str, Any]]:
    return [line for line in server.logged() if line["message"].startswith("not told to ")]


def test_the_page_and_the_log_say_what_which_program_is_not_told(start: Callable[..., RunningServer]) -> None:
    server = start(table("rules", "client_name", "xunlei") + table("rules", "client_name", LENGTH, category="short"))
    rust = "not told to qBittorrent-ClientBlocker, PeerBanHelper-Rust, LibreTorrentEE and other programs: 1 rule about"
    logged = lines(server)
    [line] = [line for line in logged if line["message"] == f"{rust} client names ({NO_METHOD})"]
    assert (line["rules"], line["exceptions"], line["level"]) == (1, 0, "info")
    assert len(logged) == 2
    text = page(server, "en")
    assert f"LibreTorrentEE and other programs Rules: Client name (1) {NO_METHOD} " in text
    assert '{"method":"LENGTH","min":1,"max":2,"miss":"DEFAULT"}' in text
    text = page(server, "zh")
    assert "LibreTorrentEE、其他程序 规则：客户端名称 (1) 无法用它们的语法准确表达此方法或表达式 " in text

    # What is published anew without a change of this says nothing.
    server.run("rules", "allow", "198.51.100.0/24", "--reason", "x")
    wait_for(lambda: "Exceptions: Address or network" in page(server, "en"), 3)
    # What is as it was is not said again.
    later = lines(server)[len(logged) :]
    assert [line["clients"] for line in later if "BTNScriptBC" in line["clients"]] == []
    assert len(later) == 3
    server.run("rules", "allow", "198.51.101.0/24", "--reason", "x")
    wait_for(lambda: b"198.51.101.0/24" in server.get("/ping/ruleIpAllowlist").body, 3)
    assert lines(server) == logged + later


def test_an_exception_that_an_administrator_makes_may_empty_a_kind(start: Callable[..., RunningServer]) -> None:
    server = start(table("rules", "client_name", "xunlei"))

    def identities() -> Any:
        return server.get("/ping/rulePeerIdentity", agent="PeerBanHelper-Rust/0.1.4").json()["client_name"]

    assert identities() == {"test": ["xunlei"]}
    assert "PeerBanHelper-Rust" not in page(server, "en")
    server.run("rules", "allow", "good client", "--kind", "client_name", "--reason", "x")
    wait_for(lambda: identities() == {}, 3)
    text = page(server, "en")
    assert "Rules: Client name (1) there is an exception of this kind that they can't be told" in text
    assert f"Exceptions: Client name (1) {NO_EXCEPTIONS} " in text
    [line] = [line for line in lines(server) if "PeerBanHelper-Rust" in line["clients"]]
    assert (line["rules"], line["exceptions"]) == (1, 1)
    assert "例外：客户端名称 (1) 它们不读取按 Peer ID 或客户端名称设置的例外，因此它们不会得到任何此类规则 " in page(
        server, "zh"
    )


def test_a_server_without_rules_has_nothing_to_say(start: Callable[..., RunningServer]) -> None:
    server = start("")
    assert page(server, "en") == ""
    assert lines(server) == []
