"""What README.md tells a newcomer to do, done: every block for a shell is run as it stands."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
HALVES = dict(zip(("en", "zh"), README.split('<a id="zh"></a>'), strict=True))
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What makes the environment needs a network, and is what .ci/run does.
INSTALLING = re.compile(r"python3 -m venv \.venv && \.venv/bin/pip install (?:\.|'\.\[test\]') && ")


def test_it_is_a_front_page() -> None:
    assert len(README.splitlines()) <= 300


def test_both_languages_have_the_same_parts() -> None:
    def parts(half: str) -> list[str]:
        return re.findall(r"^(?:#+ |- |\| |!\[|```\w*)", half, re.MULTILINE)

    assert parts(HALVES["en"]) == parts(HALVES["zh"])


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Path]:
    """A folder in which the program is installed as the README says, though not by its commands."""
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name, call in (("python", ""), ("sparkle-lite", " -m sparkle_lite")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        (tools / name).chmod(0o755)
    yield tmp_path


@pytest.mark.parametrize("language", HALVES)
def test_the_walk_ends_with_a_rule_that_came_back(newcomer: Path, language: str) -> None:
    environ = {"PATH": "/usr/bin:/bin", "SPARKLE_SERVER__PORT": "0", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    run, values, *walk, test = SHELL.findall(HALVES[language])
    assert INSTALLING.sub("", test) == ".venv/bin/python -m pytest\n"

    def shell(script: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-ec", script], cwd=newcomer, env=environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with (newcomer / "printed").open("w") as printed:
        server = subprocess.Popen(
            ["/bin/sh", "-c", "exec " + INSTALLING.sub("", run)], cwd=newcomer, env=environ, stdout=printed
        )
    try:
        for told, own in _printed(newcomer / "printed").items():
            assert told in values
            values = values.replace(told, own)
        report, deny, fetch, why = (f"{values}\n{block}" for block in walk)
        assert "203.0.113.57" not in shell(fetch)
        assert shell(report).startswith("HTTP/1.1 200 OK")
        assert "203.0.113.57" in shell(deny)
        _soon(lambda: '"203.0.113.57"' in shell(fetch))
        assert "is listed" in shell(why)
        _soon(lambda: "203.0.113.57" not in shell(fetch))
    finally:
        server.terminate()
        assert server.wait(20) == 0


def _soon(is_so: Callable[[], bool]) -> None:
    """What a command did is noticed by the server within two seconds; starting curl takes some of them."""
    deadline = time.monotonic() + 4
    while not is_so():
        assert time.monotonic() < deadline


def _printed(output: Path) -> dict[str, str]:
    """What the first start prints, by what the README has in its place."""
    for _ in range(300):
        text = output.read_text("utf-8")
        if found := re.search(r'running at (http://\S+).*app-id: "(.+?)"\s+app-secret: "(.+?)"', text, re.DOTALL):
            url, app_id, secret = found.groups()
            return {
                "http://127.0.0.1:7799": url,
                "APP_ID=…": f"APP_ID={app_id}",
                "APP_SECRET=…": f"APP_SECRET={secret}",
            }
        time.sleep(0.1)
    raise AssertionError(text)
