"""`completion` and `man`: what they offer and tell is what the program takes, in a real bash and a real man."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Iterator

import pytest

from sparkle_lite.cli.commands import CommandParser, help_text
from sparkle_lite.cli.main import main, parser
from sparkle_lite.texts import catalogue, languages


def printed(*arguments: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        assert main(list(arguments)) == 0
    return out.getvalue()


def commands(*path: str) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Every command, with its long options, by --help."""
    told = printed(*path, "--help")
    heads = re.findall(r"^  (-.*?)(?:  |$)", told, re.MULTILINE)
    yield path, {option for head in heads for option in re.findall(r"--[a-z-]+", head)}
    below = told.partition("\ncommands:\n")[2]
    for name in re.findall(r"^    ([a-z-]+)(?: |$)", below, re.MULTILINE):
        yield from commands(*path, name)


def test_bash_is_offered_every_command_and_option_and_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("bash")
    assert program
    monkeypatch.setenv("COLUMNS", "200")
    every = list(commands())
    assert len(every) > 45
    lines = [["sparkle-lite", *path, "--"] for path, _ in every]
    lines += [["sparkle-lite", *words, ""] for words in (("user",), ("rules", "list", "--state"), ("completion",))]
    lines += [["sparkle-lite", "doctor", "--bundle", "x", "--d"], ["sparkle-lite", "--config", ""]]
    ask = "".join(
        f"COMP_WORDS=({' '.join(repr(word) for word in line)}); COMP_CWORD={len(line) - 1};"
        ' _sparkle_lite; echo "${COMPREPLY[@]}"\n'
        for line in lines
    )
    script = f"set -u\n{printed('completion', 'bash')}\n{ask}"
    done = subprocess.run([program, "--norc"], input=script, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *offered, users, states, shells, deep, files = [set(line.split()) for line in done.stdout.split("\n")[:-1]]
    assert offered == [options for _, options in every]
    assert {"add", "login-link"} <= users and states == {"active", "held", "shadow"}
    assert shells >= {"bash", "zsh", "fish"} and deep == {"--deep"} and files == set()
    assert "bashcompinit" in printed("completion", "zsh")
    in_fish = printed("completion", "fish")
    for path, options in every:
        for option in options:
            assert f"__sparkle_lite_at {' '.join(('in', *path))}' -l {option[2:]} " in in_fish


def test_the_man_page_tells_every_command_and_option() -> None:
    program = shutil.which("man")
    if program is None:
        pytest.skip("there is no man")
    environ = {**os.environ, "MANWIDTH": "1000", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [program, "--warnings", "-E", "ascii", "-l", "-"],
        input=printed("man"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environ,
    )
    assert (done.returncode, done.stderr) == (0, "")
    page = re.sub(".\b", "", done.stdout)
    for path, options in commands():
        told = printed(*path, "--help")
        if path and "\ncommands:\n" not in told:
            assert re.search(rf"^   {' '.join(path)}\b", page, re.MULTILINE), path
        assert [option for option in options if option not in page] == []
    assert "0 done, 1 failed, 2 wrong usage" in page


def arguments(parser: CommandParser, path: str = "program") -> Iterator[str]:
    """The keys of all that --help may say something of."""
    yield f"help.{path}.about"
    yield from (str(action.help) for action in parser.arguments)
    for name, below in parser.below.items():
        yield from arguments(below, f"{path}_{name}".removeprefix("program_").replace("-", "_"))


def test_every_command_is_told_in_every_language_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = set(arguments(parser()))
    names = {key.rpartition(".")[2] for key in declared}
    for language in languages():
        texts = {key for key in catalogue(language) if key.startswith("help.")}
        assert {key for key in declared if key.endswith(".about")} <= texts
        shared = {key for key in texts if key.startswith("help.any.")}
        assert texts - shared <= declared and {key.rpartition(".")[2] for key in shared} <= names
        # Whoever has an option is told what it does.
        options = {key for key in declared if key.rpartition(".")[2] in ("deep", "json", "host", "expires", "reason")}
        assert len(options) > 15 and all(help_text(key, language) for key in options)
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setenv("COLUMNS", "60")
    told = printed("doctor", "--help")
    assert told.startswith("用法: sparkle-lite doctor") and "\n选项:\n" in told and "\n命令:\n" in told
    assert (
        max(sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in line) for line in told.split("\n")) <= 60
    )
