"""The command `simulate`: its options, a server of its own, a server of somebody's, and an end in between."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from server import RunningServer, wait_for

from sparkle_lite.analyses.numbers import PRESETS
from sparkle_lite.cli import simulate
from sparkle_lite.cli.main import main
from sparkle_lite.simulation.liars import STYLES, Style


@contextlib.contextmanager
def ended(command: list[str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that never outlives the test."""
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    try:
        yield run
    finally:
        run.kill()
        run.communicate()


TINY = ("--people", "3", "--days", "0.05")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--people", "1"], "'1' is not a number from 2 to 500"),
        (["--people", "many"], "'many' is not a number from 2 to 500"),
        (["--days", "0"], "'0' is not a number of days from 0.01 to 365"),
        (["--days", "nan"], "'nan' is not a number of days from 0.01 to 365"),
        (["--poison", "1.5"], "'1.5' is not a share from 0 to 1"),
        (["--style", "rude"], "invalid choice: 'rude'"),
        (["--preset", "huge"], "invalid choice: 'huge'"),
        (["--seed", "-1"], "'-1' is not a number from 0"),
        (["--token", "x"], "--token belongs to a URL"),
        (["--really"], "--really belongs to a URL"),
        (["ftp://127.0.0.1"], "is no address of a server"),
        (["http://127.0.0.1:77x"], "77x"),
        (["http://127.0.0.1:7799/ping"], "has more than the address of a server"),
        (["http://127.0.0.1:7799"], "needs --token"),
        (["http://192.0.2.7:7799", "--token", "x"], "192.0.2.7 is not this machine"),
        (["https://btn.example", "--token", "x"], "btn.example is not this machine"),
        (["--truth", "/no/such/folder/truth.json"], "there is no folder /no/such/folder"),
    ],
)
def test_wrong_options_get_a_sentence(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *options])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_the_options_are_those_of_the_simulation() -> None:
    assert tuple(STYLES) == simulate._STYLES == get_args(Style)
    assert PRESETS == simulate._PRESETS


def test_it_prints_a_report_and_writes_who_was_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = tmp_path / "truth.json"
    assert main(["simulate", *TINY, "--truth", str(truth)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 people, ")
    assert "progress cheater" in printed
    assert re.search(r"\d+ rows sent, \d+ acknowledged, 0 rejected, 0 not taken", printed)
    said = json.loads(truth.read_text())
    assert len(said["people"]) == 3
    assert {one["kind"] for one in said["bad"]} >= {"progress cheater", "multi-dialer /56"}


def test_it_prints_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *TINY, "--json", "--poison", "0.4", "--style", "mixed"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    document = json.loads(line)
    assert document["order"]["people"] == 3
    assert document["liars"] == 1
    assert document["traffic"]["accepted"] > 0


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_stopped_in_between_it_tells_what_there_is_and_leaves_nothing(tmp_path: Path) -> None:
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "sparkle_lite", "simulate", "--people", "4", "--days", "300"]
    with ended(command, env=environ, cwd=tmp_path) as run:
        assert run.stderr
        assert run.stderr.readline().startswith(b"  0%  day ")
        assert list(tmp_path.glob("sparkle-simulation-*/data/sparkle.db"))
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=30)
    assert run.returncode == 1
    assert b"Stopped before its end" in out
    assert b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# --- Against somebody's server ----------------------------------------------------------------------------------------


def test_it_plays_against_a_running_server(
    start: Callable[..., RunningServer], capsys: pytest.CaptureFixture[str]
) -> None:
    server = start('[server]\ntrusted_proxies = ["127.0.0.0/8"]\n')
    # 0.01 days are a quarter of an hour: it is stopped as soon as everybody has been there once.
    command = [sys.executable, "-m", "sparkle_lite", "simulate", server.url, "--token", server.token()]
    command += ["--people", "12", "--days", "0.01", "--json"]
    token = server.token()
    with ended(command) as run:
        wait_for(lambda: b"person-012" in _users(server, token) and _stored(server) > 5, 60)
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=30)
    assert b"Traceback" not in err
    document = json.loads(out)
    traffic = document["traffic"]
    assert traffic["sent"] == traffic["accepted"]
    assert document["interrupted"]
    assert list(document["lists"]) == ["ours"]


def _stored(server: RunningServer) -> float:
    # As through a proxy, since this machine is one to the server.
    text = server.request("GET", "/metrics", headers={"X-Forwarded-For": "127.0.0.1"}).body.decode()
    return sum(float(value) for value in re.findall(r"^sparkle_rows_accepted_total\{.*\} (\S+)$", text, re.MULTILINE))


def _users(server: RunningServer, token: str) -> bytes:
    return server.request("GET", "/api/admin/users", headers={"Authorization": f"Bearer {token}"}).body


def test_a_token_that_is_none_gets_the_servers_sentence(
    start: Callable[..., RunningServer], capsys: pytest.CaptureFixture[str]
) -> None:
    server = start("")
    assert main(["simulate", server.url, "--token", "none"]) == 1
    said = capsys.readouterr().err
    assert "made no account for a simulated client (status 403)" in said
    assert "Traceback" not in said


def test_a_server_that_is_not_there_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "http://127.0.0.1:9", "--token", "x"]) == 1
    assert "There is no answer from http://127.0.0.1:9" in capsys.readouterr().err
