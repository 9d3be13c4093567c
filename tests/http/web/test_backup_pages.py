"""The pages of backups: one is made, read again, downloaded, and put in the place of what is there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import DESKTOP, PHONE, visiting
from server import RunningServer, start_server, wait_for
from test_web import asked

PATH = "/admin/settings/backups"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("backups")) as running:
        yield running


def names_on(server: RunningServer, token: str) -> list[str]:
    page = asked(server, PATH, token)
    assert page.status == 200
    return re.findall(rf'href="{PATH}/([0-9-]+)"', page.body.decode())


def made(server: RunningServer, token: str) -> str:
    """Make a backup on the page; its name."""
    before = names_on(server, token)
    assert asked(server, f"{PATH}/make", token, {}).status == 303
    wait_for(lambda: len(names_on(server, token)) > len(before), 15)
    wait_for(lambda: b'id="progress"' not in asked(server, PATH, token).body, 15)
    return names_on(server, token)[0]


def test_one_is_made_read_again_downloaded_and_restored_elsewhere(server: RunningServer, tmp_path: Path) -> None:
    token = server.token()
    name = made(server, token)
    assert asked(server, f"{PATH}/{name}/check", token, {}).status == 303
    wait_for(lambda: b'id="progress"' not in asked(server, PATH, token).body, 15)
    archive = asked(server, f"{PATH}/{name}/archive", token)
    assert (archive.status, archive.headers["content-type"]) == (200, "application/x-tar")
    assert archive.headers["content-disposition"] == f'attachment; filename="sparkle-{name}.tar"'
    (tmp_path / "x.tar").write_bytes(archive.body)
    (tmp_path / "config.toml").write_text("")
    arguments = ["restore", str(tmp_path / "x.tar"), "--config", str(tmp_path / "config.toml")]
    command = [sys.executable, "-m", "sparkle_lite", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    # The same file in the folder of the backups: as somebody has it who comes from another machine.
    brought = server.database.parent / "backups" / "brought.tar"
    brought.write_bytes(archive.body)
    assert f'href="{PATH}/brought.tar"' in asked(server, PATH, token).body.decode()
    assert asked(server, f"{PATH}/brought.tar/archive", token).body == archive.body
    segment = server.database.parent / "backups" / name / "sparkle.db"
    segment.write_bytes(segment.read_bytes()[:-1] + b"x")
    assert asked(server, f"{PATH}/{name}/check", token, {}).status == 303
    wait_for(lambda: b'id="progress"' not in asked(server, PATH, token).body, 15)
    assert b"damaged" in asked(server, PATH, token).body


def test_one_takes_the_place_of_what_is_there_after_it_was_confirmed(server: RunningServer) -> None:
    token = server.token()
    name = made(server, token)
    server.run("user", "add", "too-late")
    page = asked(server, f"{PATH}/{name}", token)
    assert page.status == 200 and str(server.database) in page.body.decode()
    assert asked(server, f"{PATH}/{name}/restore", token, {}).status == 400
    assert "too-late" in server.run("user", "list")
    assert asked(server, f"{PATH}/{name}/restore", token, {"sure": "1"}).status == 303
    wait_for(lambda: list(server.database.parent.glob("sparkle.db.before-restore-*")), 15)
    wait_for(lambda: server.request("GET", "/readyz").status == 200, 15)
    assert "too-late" not in server.run("user", "list")
    # Who was signed in then is signed in, and the client's credentials work.
    assert asked(server, PATH, token).status == 200
    assert server.get("/ping/config").status == 200
    assert server.process.poll() is None


@pytest.mark.parametrize(("language", "viewport"), [("en", DESKTOP), ("zh", PHONE)])
def test_the_pages_are_sound(server: RunningServer, browser: Any, language: str, viewport: dict[str, int]) -> None:
    token = server.token()
    name = made(server, token)
    with visiting(browser, server, token, locale=language, viewport=viewport) as visit:
        for path in (PATH, f"{PATH}/{name}"):
            visit.go(path)
            visit.check()


def test_only_administrators_see_them_and_only_what_is_there(server: RunningServer) -> None:
    token = server.token()
    name = made(server, token)
    server.run("user", "add", "member")
    member = server.token("member")
    for path in (PATH, f"{PATH}/{name}", f"{PATH}/{name}/archive"):
        assert asked(server, path, member).status == 403
        assert asked(server, path, "").status in (303, 401)
    assert asked(server, f"{PATH}/make", member, {}).status == 403
    for name in ("2020-01-01-000000", "..", "%2e%2e%2fsparkle.db", "x"):
        assert asked(server, f"{PATH}/{name}/archive", token).status == 404
        assert asked(server, f"{PATH}/{name}/restore", token, {"sure": "1"}).status in (404, 405)


def test_how_often_one_is_made_is_set_on_the_page_and_offered_by_the_guide(server: RunningServer) -> None:
    token = server.token()
    assert b'name="backup" value="1" checked' in asked(server, "/welcome/connect", token).body
    assert asked(server, "/welcome/done", token, {"backup": "1"}).status == 303
    assert b'value="1d" selected' in asked(server, PATH, token).body
    assert asked(server, f"{PATH}/every", token, {"every": "1s"}).status == 400
    assert asked(server, f"{PATH}/every", token, {"every": "0"}).status == 303
    assert b'value="0" selected' in asked(server, PATH, token).body
