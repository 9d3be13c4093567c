"""The manual and the README against the program that they are about: files, links, commands, keys, paths."""

import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from server import served_paths

import sparkle_lite
from sparkle_lite import config
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.cli.main import main
from sparkle_lite.config.keys import is_struct, keys_of, split_annotation
from sparkle_lite.http.web.manual import TOPICS, headings, topic
from sparkle_lite.texts import languages

ROOT = Path(__file__).parents[1]
MANUAL = Path(sparkle_lite.__file__).parent / "manual"
PAGES = [MANUAL / language / f"{name}.md" for language in languages() for name in TOPICS]
DOCUMENTS = [ROOT / "README.md", *PAGES]
ANY_PAGE = pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
ANY = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def text_of(path: Path) -> str:
    return path.read_text("utf-8")


def prose_of(path: Path) -> str:
    """A document without its blocks of code."""
    return FENCE.sub("", text_of(path))


def blocks_of(path: Path, language: str) -> list[str]:
    return [content for name, content in FENCE.findall(text_of(path)) if name == language]


def codes_of(path: Path) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose_of(path))


def slugs_of(path: Path) -> list[str]:
    """The anchors that a browser of repositories gives the headings, and those that are written out."""
    prose = prose_of(path)
    found = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found] + re.findall(
        r'<a id="(\w+)">', prose
    )


# --- Both languages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", languages())
def test_every_topic_has_its_file_and_every_file_is_a_topic(language: str) -> None:
    assert {path.stem for path in (MANUAL / language).glob("*")} == set(TOPICS)


@pytest.mark.parametrize("name", TOPICS)
def test_the_languages_are_in_step(name: str) -> None:
    def parts(language: str) -> list[str]:
        return re.findall(r"^(?:#+ |- |\d+\. |\| |```\w*)", text_of(MANUAL / language / f"{name}.md"), re.MULTILINE)

    first, *others = languages()
    assert all(parts(other) == parts(first) for other in others)
    assert len({heading.anchor for heading in headings(first, name)}) == len(headings(first, name))


@pytest.mark.parametrize("name", TOPICS)
def test_the_languages_link_to_the_same_passages(name: str) -> None:
    targets = [
        re.findall(r'href="(?:/manual/\w+)?([^"]+)"', str(topic(language, name).content)) for language in languages()
    ]
    assert all(sorted(each) == sorted(targets[0]) for each in targets)


# --- Links ------------------------------------------------------------------------------------------------------------


@ANY
def test_a_link_leads_somewhere(path: Path) -> None:
    for link in LINK.findall(prose_of(path)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), link
        assert not anchor or anchor in slugs_of(target), link


@ANY
def test_code_says_what_language_it_is_in(path: Path) -> None:
    assert "" not in [name for name, _ in FENCE.findall(text_of(path))]


# --- Commands ---------------------------------------------------------------------------------------------------------


@cache
def help_of(*command: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0, f"there is no command {' '.join(command)}"
    return out.getvalue()


def commands_in(path: Path) -> Iterator[list[str]]:
    """Every command of the program in a document, as words: in blocks for a shell, and between backticks."""
    for block in blocks_of(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\||&&|\$\(|;", line.partition("  #")[0]):
                words = shlex.split(part.strip().rstrip(")"), comments=True) if "sparkle" in part else []
                at = max((i for i, word in enumerate(words) if word.endswith("sparkle-lite")), default=None)
                if at is not None and not part.lstrip().startswith(
                    ("pipx", "uvx", "git", "cd", "sudo useradd", "sudo chown")
                ):
                    yield words[at + 1 :]
    for code in codes_of(path):
        words = code.split()
        if words[0] == "sparkle-lite":
            yield words[1:]
        elif re.match(r"(?:user|app|rules|config|analyse|serve)(?: [a-z]|$)", code) and not code.endswith(("=", ":")):
            yield words


@ANY
def test_every_command_and_option_is_one(path: Path) -> None:
    for words in commands_in(path):
        named = [word.strip("[]") for word in words]
        depth = 2 if named and named[0] in ("user", "app", "rules", "config", "service") else 1
        verbs = [word for word in named[:depth] if re.fullmatch("[a-z-]+", word) and not word.startswith("-")]
        if len(verbs) == 1 and verbs[0] in ("rules", "config", "user", "app"):
            continue
        told = help_of(*verbs)
        for option in (word for word in named if word.startswith("--")):
            assert re.search(rf"{re.escape(option)}\b", told), " ".join(words)


def test_the_page_of_commands_names_every_command_and_every_option() -> None:
    for language in languages():
        page = text_of(MANUAL / language / "commands.md")
        for group in ("user", "app", "rules", "config", "service"):
            for verb in re.findall(r"^    ([a-z-]+) ", help_of(group), re.MULTILINE):
                assert f"{group} {verb}" in page, (group, verb)
                for option in re.findall(r"--[a-z-]+", help_of(group, verb)):
                    assert option in ("--help", "--config") or option in page, (group, verb, option)
        for option in re.findall(r"--[a-z-]+", help_of("analyse") + help_of("serve") + help_of("doctor")):
            assert option in page


# --- The configuration ------------------------------------------------------------------------------------------------


@cache
def keys() -> frozenset[str]:
    """Every key and section by its dotted name."""

    def below(kind: Any, path: str) -> Iterator[str]:
        for name, annotation in keys_of(kind).items():
            yield f"{path}{name}"
            inner = split_annotation(annotation)[0]
            if is_struct(inner):
                yield from below(inner, f"{path}{name}.")

    return frozenset(below(SCHEMA, ""))


@ANY
def test_every_key_of_the_configuration_is_one(path: Path) -> None:
    sections = {key.partition(".")[0] for key in keys()}
    for code in codes_of(path):
        dotted = re.match(r"\[*([a-z_]+(?:\.[a-z_]+)*)\]*(?: = .*)?$", code)
        if dotted and "." in dotted[1] and dotted[1].partition(".")[0] in sections - {"rules"}:
            name = dotted[1].removesuffix("_file")
            assert name in keys(), code
        if code.startswith("SPARKLE_") and "<" not in code:
            name = code.partition("=")[0].removeprefix("SPARKLE_").lower().replace("__", ".")
            assert name in keys(), code


@ANY
def test_every_piece_of_a_configuration_can_be_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    for name in ("github", "jwt"):
        (tmp_path / "secrets" / name).write_text("a secret that is long enough to be one")
    for block in blocks_of(path, "toml"):
        file = tmp_path / "config.toml"
        file.write_text(block, "utf-8")
        assert tomllib.loads(block)
        config.load(SCHEMA, file, {})


# --- Paths ------------------------------------------------------------------------------------------------------------


@cache
def routes() -> list[re.Pattern[str]]:
    return [re.compile(re.sub(r"\{[^}]*\}", "[^/]+", each).rstrip("/") or "/") for each in served_paths()]


@ANY
def test_every_path_is_served(path: Path) -> None:
    served = routes()
    for code in codes_of(path):
        if not re.fullmatch(r"/[\w/.{}?=&%|-]*", code) or re.match(r"/(?:\d|etc|opt|var|dev|tmp)", code):
            continue
        asked = re.sub(r"\{[^}]*\}", "x", code.partition("?")[0]).rstrip("/") or "/"
        known = any(each.fullmatch(asked) or re.match(re.escape(asked) + "/", each.pattern) for each in served)
        # The ends of several paths, and the base path of the examples for proxies.
        known |= any(each.pattern.endswith(asked) for each in served) or asked == "/btn"
        assert known, code
