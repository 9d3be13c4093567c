"""Texts by key: the catalogues agree with each other and with the code, and a language is a catalogue and no more."""

import ast
import json
import pickle
import re
import shutil
import string
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from server import start_server

import sparkle_lite
from sparkle_lite import net, texts
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.problems import problem
from sparkle_lite.rules.reasons import one_line, reason
from sparkle_lite.texts import Phrase, catalogue, joined, languages, phrase, places

PACKAGE = Path(sparkle_lite.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TEMPLATES = sorted((PACKAGE / "http" / "web").rglob("*.html"))
# What a value puts into a key; it may be the name of a feed.
_PART = r"(?:[^.]+|[a-z0-9]+\.(?:txt|dat|p2p|conf|rsc|json))"
_CHINESE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
# Sentences that say the same without a value, by language; those of Sparkle's published API among them.
LEAVES_OUT = {
    "zh": {
        "address.not_single",
        "analysis.bad_number",
        "app.quota",
        "database.newer",
        "database.unavailable",
        "decision.bad_expires",
        "decision.bad_lifetime",
        "decision.bad_target",
        "decision.other_state",
        "page.size_large",
        "query.bad_filter",
        "query.bad_filters",
        "query.bad_peer_ip",
        "query.bad_size",
        "query.bad_sorting",
        "query.bad_value",
        "query.size_above",
        "request.bad_method",
        "request.invalid",
        "request.invalid_field",
    }
}


def names_in(text: str) -> set[str]:
    """The names of the values in a text."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


# --- The catalogues ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", languages())
def test_every_language_says_the_same_things(language: str) -> None:
    english, other = catalogue("en"), catalogue(language)
    assert set(other) == set(english)
    assert all(other.values())
    left_out = {key for key in english if names_in(other[key]) != names_in(english[key])}
    assert left_out == LEAVES_OUT.get(language, set())
    assert [key for key in left_out if not names_in(other[key]) < names_in(english[key])] == []


def test_there_are_english_and_chinese_and_english_is_first() -> None:
    assert languages() == ("en", "zh")
    assert set(texts.SHOWN_RAW) <= set(languages())


def test_reasons_are_ascii_on_one_line_in_english() -> None:
    found = [text for key, text in catalogue("en").items() if key.startswith("reason.")]
    assert found and [text for text in found if text != one_line(text) or text.endswith(".")] == []


def test_no_code_holds_chinese() -> None:
    # But for what client programs write, which is as they write it, and what a demo's people are called and say.
    invented = {PACKAGE / "simulation" / name for name in ("rows.py", "scenes.py")}
    assert {path for path in (*MODULES, *TEMPLATES) if _CHINESE.search(path.read_text("utf-8"))} == invented


def test_no_template_asks_for_a_language() -> None:
    for path in TEMPLATES:
        assert not re.search(r"""["'](en|zh)["']|\.(en|zh)\b""", path.read_text("utf-8")), path


# --- The code ---------------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """A call that says something: where, its key as far as it is written there, and the names of its values."""

    where: str
    key: re.Pattern[str]
    is_whole: bool
    values: frozenset[str | None]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def speakers() -> dict[str, int]:
    """What takes a key and values by name, and the place of the key: functions, and the errors among the classes."""
    found = {"SaidError": 0, "SparkleError": 1}
    bases: dict[str, set[str]] = {}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg and node.args.posonlyargs:
                names = [argument.arg for argument in node.args.posonlyargs]
                if "key" in names and not node.name.startswith("__"):
                    found[node.name] = names.index("key")
            elif isinstance(node, ast.ClassDef):
                own = any(isinstance(each, ast.FunctionDef) and each.name == "__init__" for each in node.body)
                bases[node.name] = set() if own else {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    for name, above in bases.items():
        for base in above & {"SaidError", "SparkleError"}:
            found[name] = found[base]
    # It takes a key as the others do, and its parts as a list.
    return found | {"joined": 0}


def written(node: ast.expr) -> Iterator[tuple[re.Pattern[str], bool]]:
    """The keys that an argument may be."""
    match node:
        case ast.Constant(value=str(text)):
            yield re.compile(re.escape(text)), True
        case ast.IfExp():
            yield from written(node.body)
            yield from written(node.orelse)
        case ast.JoinedStr():
            parts = (re.escape(str(each.value)) if isinstance(each, ast.Constant) else _PART for each in node.values)
            yield re.compile("".join(parts)), False


def said() -> list[Said]:
    """Every call that says something by a key that is written there."""
    found = []
    taking = speakers()
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            is_first = ast.unparse(node.func) == "super().__init__"
            if is_first:
                keys = [each for each in node.args if isinstance(each, ast.Constant) and "." in str(each.value)]
            else:
                keys = node.args[taking[name] :][:1] if name in taking else []
            for argument in keys:
                values = frozenset(keyword.arg for keyword in node.keywords)
                where = f"{path.name}:{node.lineno}"
                values |= {"one", "other"} if name == "joined" else set()
                found += [Said(where, key, is_whole, values) for key, is_whole in written(argument)]
    return found


def test_every_key_that_code_says_is_there_with_its_values() -> None:
    every = said()
    assert len(every) > 150
    for one in every:
        found = [key for key in catalogue("en") if one.key.fullmatch(key)]
        assert found, f"{one.where}: there is no text {one.key.pattern}"
        if one.is_whole and None not in one.values:
            assert places(found[0]) <= one.values, f"{one.where}: {found[0]} lacks {places(found[0]) - one.values}"


def test_every_key_that_a_template_says_is_there() -> None:
    keys = set(catalogue("en"))
    for path in TEMPLATES:
        text = path.read_text("utf-8")
        for called, put_in in re.findall(r"""\bt\(\s*["']([\w.]+)["']\s*[,)]|["']([\w.]+)["']\|t\b""", text):
            assert (called or put_in) in keys, f"{path.name}: {called or put_in}"
        for key in re.findall(r"""\.count\(\s*["']([\w.]+)["']\s*,""", text):
            assert {f"{key}.one", f"{key}.other"} <= keys, f"{path.name}: {key}"


def made_in(template: str) -> Iterator[re.Pattern[str]]:
    """The keys that a template makes of values: "a." ~ value ~ ".b", or "a_%s" % value."""
    piece = r"""["'][\w.]*["']|\([^()]*\)|[\w.\[\]]+(?:\([^()]*\))?"""
    for first, rest in re.findall(rf"""["']([a-z_]+\.[\w.]*)["']((?:\s*~\s*(?:{piece}))+)""", template):
        pieces = re.findall(rf"~\s*({piece})", rest)
        parts = (re.escape(each[1:-1]) if each[0] in "\"'" else _PART for each in pieces)
        yield re.compile(re.escape(first) + "".join(parts))
    for first, last in re.findall(r"""["']([a-z_]+\.[\w.]*)%[sd]([\w.]*)["'] %""", template):
        yield re.compile(re.escape(first) + _PART + re.escape(last))


def test_every_text_is_said_somewhere() -> None:
    whole: set[str] = set()
    made: list[re.Pattern[str]] = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                whole.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                made += [key for key, _ in written(node) if re.match(r"[a-z_]+\\\.", key.pattern)]
    for path in TEMPLATES:
        text = path.read_text("utf-8")
        whole |= set(re.findall(r"""["']([\w.]+)["']""", text))
        made += made_in(text)
    whole |= {f"{key}.{form}" for key in whole for form in ("one", "other")}
    idle = [key for key in catalogue("en") if key not in whole and not any(one.fullmatch(key) for one in made)]
    assert idle == []


# --- What is said -----------------------------------------------------------------------------------------------------


def test_an_error_is_a_key_with_values_and_the_same_in_another_process() -> None:
    with pytest.raises(net.AddressError) as wrong:
        net.parse_network("1.2.3.4/24")
    for error in (
        wrong.value,
        SparkleError("too_many", "address.bad", retry_after=7, why=wrong.value.said),
        SparkleError("conflict", "database.in_use", path=Path("/data")),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.text("zh"), vars(again)) == (str(error), error.text("zh"), vars(error))
    assert (
        wrong.value.message
        == "'1.2.3.4/24' has host bits set; write 1.2.3.0/24 for the network or leave the prefix out"
    )
    assert error.text("zh") == "已有另一个服务器正在使用 /data，请先停止它或更换 database.path。"


def test_clients_are_told_english_and_chinese() -> None:
    error = SparkleError("too_many", "request.too_many", retry_after=3, seconds=3)
    status, headers, body = problem(error)
    assert (status, dict(headers)[b"retry-after"]) == (429, b"3")
    assert json.loads(body)["message"] == "Too many requests; try again in 3 s. 请求过于频繁，请在 3 秒后重试。"


def test_what_somebody_wrote_fills_a_text_and_is_none() -> None:
    error = SparkleError("not_found", "user.none_named", name="{0.__class__} {name}")
    assert error.message == "There is no user named '{0.__class__} {name}'."


def test_a_phrase_holds_phrases_and_a_list_is_joined_in_each_language() -> None:
    said = phrase("decision.obstructed", network="1.2.3.0/24", why=phrase("obstacle.wide"))
    assert [said.text(each) for each in languages()] == [
        "1.2.3.0/24 can't be listed: it is too wide.",
        "1.2.3.0/24 无法列入：它范围过大。",
    ]
    methods = joined("language.or", ("GET", "PATCH", "PUT"))
    assert isinstance(methods, Phrase)
    assert [methods.text(each) for each in languages()] == ["GET or PATCH or PUT", "GET、PATCH、PUT"]
    assert joined("language.or", ("GET",)) == "GET"


def test_a_reason_lacks_its_sentence_where_a_number_is_missing() -> None:
    numbers = {"people": 4, "torrents": 2, "percent": 250, "size_bytes": 1 << 30, "taken_bytes": 3 << 29}
    told = reason("over_downloader", {**numbers, "window_days": 7})
    assert told.text("en") == "took 250% of a torrent of 1 GiB from 4 people (1.5 GiB in all) within 7 days"
    assert reason("over_downloader", numbers).text("en").startswith("over_downloader: people 4, torrents 2")
    assert reason("newer", {}).raw() == "newer newer"


def test_a_reason_tells_the_words_of_people_where_they_are_not_one_each() -> None:
    numbers = {"torrents": 2, "days": 3, "window_days": 14}
    seen = " saw it cheat about its progress on 2 torrents on 3 days within 14 days"
    found = "发现其谎报下载进度，涉及 2 个种子、3 天（14 天内）"
    for more, en, zh in (
        # A decision of an earlier version has no words.
        ({"people": 4}, "4 people", "4 人"),
        ({"people": 4, "words": 4.0}, "4 people", "4 人"),
        ({"people": 4, "words": 3.97}, "4 people", "4 人"),
        ({"people": 4, "words": 3.24}, "4 people (3.2 words between them)", "4 人（合计 3.2 票）"),
        ({"people": 4, "words": 3}, "4 people (3 words between them)", "4 人（合计 3 票）"),
        ({"people": 1, "words": 0.8}, "1 person (0.8 words between them)", "1 人（合计 0.8 票）"),
    ):
        told = reason("progress_cheater", {**more, **numbers})
        assert (told.text("en"), told.text("zh")) == (en + seen, f"{zh}{found}")
        assert told.text("en") == one_line(told.text("en"))
    # Nobody's number is no sentence.
    assert reason("progress_cheater", numbers).text("en").startswith("progress_cheater: torrents 2")


# --- One more language ------------------------------------------------------------------------------------------------


def _translated(table: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table of English texts, each said in another language."""
    for key, value in table.items():
        if isinstance(value, str):
            yield f"{key} = {json.dumps('Nu, ' + value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            for name, below in _tables(value, key):
                yield f"[{name}]"
                yield from (f"{each} = {json.dumps('Nu, ' + text)}" for each, text in below.items())


def _tables(table: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, str]]]:
    yield name, {key: value for key, value in table.items() if isinstance(value, str)}
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _tables(value, f"{name}.{key}")


def test_another_language_is_one_more_catalogue(tmp_path: Path) -> None:
    copy = tmp_path / "program" / "sparkle_lite"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "texts" / "eo").mkdir()
    for file in (copy / "texts" / "en").iterdir():
        lines = "\n".join(_translated(tomllib.loads(file.read_text("utf-8"))))
        lines = lines.replace('tag = "Nu, en"', 'tag = "eo"').replace('"Nu, English"', '"Esperanto"')
        (copy / "texts" / "eo" / file.name).write_text(lines, "utf-8")
    # Not what stands in the folder that the tests run in, nor what is installed.
    env = {"PYTHONPATH": str(copy.parent), "PYTHONSAFEPATH": "1"}
    with start_server(tmp_path / "server", env=env) as server:
        html = {"Accept": "text/html", "Accept-Language": "eo-XX, zh;q=0.5"}
        page = server.request("GET", "/login", headers=html)
        assert page.headers["content-language"] == "eo"
        text = page.body.decode()
        assert '<html lang="eo">' in text and "Nu, Skip to" in text
        assert re.findall(r'hreflang="([\w-]+)">([^<]+)<', text) == [("en", "English"), ("zh-CN", "中文")]
        english = server.request("GET", "/login", headers={"Accept": "text/html"}).body.decode()
        assert re.findall(r'hreflang="([\w-]+)">([^<]+)<', english) == [("eo", "Esperanto"), ("zh-CN", "中文")]
        chosen = server.request("GET", "/language?to=eo&next=/login")
        assert chosen.headers["set-cookie"].startswith("lang=eo;")

        token = server.token()
        signed_in = {**html, "Cookie": f"X-BTN-Token={token}"}
        refused = server.request("GET", "/explore/nothing", headers=signed_in)
        assert refused.status == 404
        assert "Nu, There is no such table." in refused.body.decode()

        server.run("rules", "deny", "203.0.113.7")
        why = server.request("GET", "/ip/203.0.113.7", headers=html).body.decode()
        assert "Nu, Nu, listed by the operator of this server." in why

        # What clients show raw stays in English and Chinese.
        told = server.request("GET", "/api/rules", headers={"Accept-Language": "eo"})
        assert told.json()["message"] == SparkleError("forbidden", "session.none").said.raw()
