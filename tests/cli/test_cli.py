"""The command line: what each command prints, where, and its exit status."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from server import wait_for

from sparkle_lite.cli.main import main

pytestmark = pytest.mark.usefixtures("folder")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparkle_lite", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def add(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """A user with an application: its id and secret."""
    assert main(["user", "add", name]) == 0
    capsys.readouterr()
    assert main(["app", "add", "--user", name, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    return answer["app_id"], answer["app_secret"]


def test_a_user_and_an_application_from_the_shell() -> None:
    done = python("user", "add", "王小明", "--admin")
    assert (done.returncode, done.stderr) == (0, "")
    done = python("app", "add", "--user", "王小明", "--json")
    assert done.returncode == 0
    [line] = done.stdout.splitlines()
    assert json.loads(line).keys() == {"app_id", "app_secret"}
    assert Path("data/sparkle.db").stat().st_mode & 0o077 == 0


def test_a_failure_is_one_sentence_and_no_stack_trace() -> None:
    python("user", "add", "bob")
    done = python("user", "add", "BOB")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "sparkle-lite: The user 'bob' has this name already, or is shown by it.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["user"],
        ["user", "ban", "bob"],
        ["app", "add"],
        ["serve", "--port", "70000"],
        ["serve", "--po", "1"],
        ["user", "list", "extra"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: sparkle-lite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["serve"], ["user"], ["user", "add"], ["user", "login-link"], ["app", "add"], ["config", "check"]],
)
def test_every_command_has_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    assert "--config FILE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "my.toml", "config", "show"],
        ["config", "--config", "my.toml", "show"],
        ["config", "show", "--config", "my.toml"],
        ["--config", "other.toml", "config", "show", "--config", "my.toml"],
    ],
)
def test_the_config_file_may_be_named_anywhere(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "my.toml").write_text("[server]\nport = 4711\n")
    assert main(arguments) == 0
    assert "port = 4711" in capsys.readouterr().out


def test_config_toml_of_the_working_directory_is_the_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show"]) == 0
    assert "port = 7799" in capsys.readouterr().out
    (folder / "config.toml").write_text('[server]\nport = 4711\n[auth]\njwt_secret = "' + "s" * 40 + '"\n')
    assert main(["config", "show"]) == 0
    shown = capsys.readouterr().out
    assert "port = 4711" in shown
    assert "s" * 40 not in shown


def test_config_check_says_ok_or_names_every_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "OK\n"
    (folder / "config.toml").write_text(
        '[server]\nprot = 1\n[[rules]]\ntype = "ip"\ncategory = "x"\ncontent = ["nonsense"]\n'
    )
    assert main(["config", "check"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("sparkle-lite: config.toml:2: server.prot")
    assert lines[1].startswith("sparkle-lite: config.toml:6: rules")


def test_config_check_prints_notes_about_a_configuration_that_is_right(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '[btn.proof_of_work]\nabilities = [\n  "submit_bans",\n  "heartbeat",\n]\n'
    (folder / "config.toml").write_text(text)
    assert main(["config", "check"]) == 0
    out, err = capsys.readouterr()
    note, ok = out.splitlines()
    assert note.startswith("note: config.toml:4: btn.proof_of_work.abilities[1]: each heartbeat costs")
    assert (ok, err) == ("OK", "")
    # Where no client is asked for it there is nothing to say.
    for quiet in ("[btn]\nprefer_legacy = true\n", "[btn.abilities.heartbeat]\nenabled = false\n"):
        (folder / "config.toml").write_text(quiet + text)
        assert main(["config", "check"]) == 0
        assert capsys.readouterr().out == "OK\n"


def test_a_note_names_the_variable_that_it_is_about(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKLE_BTN__PROOF_OF_WORK__ABILITIES", "heartbeat")
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.startswith("note: SPARKLE_BTN__PROOF_OF_WORK__ABILITIES: btn.proof_of_work.")


def test_serve_refuses_a_wrong_configuration_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "config.toml").write_text("[server]\nport = 70000\n")
    assert main([]) == 2
    assert main(["serve"]) == 2
    assert main(["user", "list", "--config", "missing.toml"]) == 2
    assert "missing.toml: there is no such file" in capsys.readouterr().err


def test_lists_without_a_database_are_empty_and_say_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, out in ((["user", "list"], ""), (["app", "list"], ""), (["user", "list", "--json"], "[]\n")):
        assert main(command) == 0
        captured = capsys.readouterr()
        assert captured.out == out
        assert "There is no database" in captured.err
    assert main(["user", "token", "bob"]) == 1
    assert not (folder / "data").exists()
    (folder / "data").mkdir()
    (folder / "data" / "sparkle.db").touch()
    assert main(["user", "list"]) == 0
    assert "There is no database" in capsys.readouterr().err
    assert (folder / "data" / "sparkle.db").read_bytes() == b""


def test_lists_are_aligned_also_with_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    app_id, _ = add("bob", capsys)
    add("王小明", capsys)
    main(["user", "ban", "bob", "--reason", "sends junk"])
    capsys.readouterr()
    main(["user", "list"])
    head, bob, wang = capsys.readouterr().out.splitlines()
    column = head.index("ROLE")
    assert bob[column:].startswith("user")
    assert wang[column - 3 :].startswith("user")
    assert bob.endswith(": sends junk")
    assert wang.endswith("active")
    main(["app", "list"])
    table = capsys.readouterr().out
    assert app_id in table
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", table)


def test_lists_as_json_hold_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    app_id, secret = add("bob", capsys)
    main(["app", "list", "--json"])
    out = capsys.readouterr().out
    [app] = json.loads(out)
    assert (app["app_id"], app["user"], app["banned_at"]) == (app_id, "bob", None)
    assert secret not in out
    assert "hash" not in out
    main(["user", "list", "--json"])
    [user] = json.loads(capsys.readouterr().out)
    assert (user["name"], user["role"]) == ("bob", "user")


@pytest.mark.parametrize(
    ("preset", "vouched"), [("solo", True), ("friends", True), ("tracker", False), ("public", False)]
)
def test_whom_an_administrator_adds_is_vouched_for_as_the_preset_or_an_option_says(
    preset: str, vouched: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.toml").write_text(f'[analysis]\npreset = "{preset}"\n', "utf-8")
    for name, *options in (
        ("as the preset",),
        ("yes", "--vouch"),
        ("no", "--no-vouch"),
        ("root", "--admin", "--no-vouch"),
    ):
        assert main(["user", "add", name, *options]) == 0
    capsys.readouterr()
    main(["user", "list", "--json"])
    users = json.loads(capsys.readouterr().out)
    assert [(user["name"], user["vouched"], user["word"]) for user in users] == [
        ("as the preset", vouched, 1 if vouched else None),
        ("yes", True, 1),
        ("no", False, None),
        ("root", True, 1),
    ]


def test_a_preset_that_was_set_on_a_page_says_whom_to_vouch_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["user", "add", "bob"])
    with closing(sqlite3.connect(folder / "data" / "sparkle.db", isolation_level=None)) as connection:
        connection.execute("INSERT INTO setting VALUES ('page:analysis.preset', 'public')")
    main(["user", "add", "carol"])
    capsys.readouterr()
    main(["user", "list", "--json"])
    assert [user["vouched"] for user in json.loads(capsys.readouterr().out)] == [True, False]


def test_a_user_is_vouched_for_and_the_list_tells_every_word(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bob", "carol", "dave"):
        assert main(["user", "add", name, "--no-vouch"]) == 0
    with closing(sqlite3.connect(folder / "data" / "sparkle.db", isolation_level=None)) as connection:
        connection.execute("INSERT INTO word VALUES (2, 0.8333, 5, 0, 2, '{}')")
    capsys.readouterr()
    assert main(["user", "vouch", "bob"]) == 0
    assert capsys.readouterr().out == "bob's word counts from the start.\n"
    main(["user", "list"])
    head, *rows = capsys.readouterr().out.splitlines()
    words = [row[head.index("WORD") :].split()[0] for row in rows]
    assert words == ["vouched", "0.83", "-"]
    assert main(["user", "unvouch", "bob"]) == 0
    assert capsys.readouterr().out == "bob's word is worth what it earns.\n"
    assert main(["user", "vouch", "nobody"]) == 1
    main(["user", "add", "root", "--admin"])
    capsys.readouterr()
    assert main(["user", "unvouch", "root"]) == 1
    assert capsys.readouterr().err == "sparkle-lite: root is an administrator, whose word always counts.\n"


def test_an_application_can_be_banned_reset_and_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    app_id, secret = add("bob", capsys)
    assert main(["app", "reset", app_id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["app_secret"] != secret
    assert main(["app", "ban", app_id, "--reason", "junk"]) == 0
    main(["app", "list", "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])[0]["banned_reason"] == "junk"
    assert main(["app", "unban", app_id]) == 0
    assert main(["app", "delete", app_id]) == 0
    assert main(["app", "delete", app_id]) == 1
    assert "doesn't exist" in capsys.readouterr().err


def test_a_feed_key_is_one_line_is_listed_without_itself_and_revoked_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    add("bob", capsys)
    assert main(["feed-key", "add", "路由器"]) == 0
    key = capsys.readouterr().out
    assert re.fullmatch(r"slf_[A-Za-z0-9_-]{43}\n", key)
    assert main(["feed-key", "add", "路由器"]) == 1
    assert "already" in capsys.readouterr().err
    assert main(["feed-key", "list", "--json"]) == 0
    shown = capsys.readouterr().out
    [row] = json.loads(shown)
    assert (row["name"], row["user"], row["used_at"]) == ("路由器", None, None)
    assert main(["feed-key", "list"]) == 0
    shown += capsys.readouterr().out
    assert "路由器" in shown
    assert key.strip() not in shown
    assert main(["feed-key", "revoke", "路由器", "--user", "bob"]) == 1
    assert "no feed key named" in capsys.readouterr().err
    assert main(["feed-key", "revoke", "路由器"]) == 0
    capsys.readouterr()
    assert main(["feed-key", "list"]) == 0
    assert capsys.readouterr().out == ""


def test_a_secret_for_people_comes_as_lines_for_peerbanhelper(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "config.toml").write_text('[server]\npublic_url = "https://btn.example.org/btn/"\n')
    add("bob", capsys)
    assert main(["app", "add", "--user", "bob", "--comment", "home"]) == 0
    assert '  config-url: "https://btn.example.org/btn/ping/config"\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("", "http://127.0.0.1:7799"),
        ('host = "0.0.0.0"\nport = 80', "http://127.0.0.1:80"),
        ('host = "::"', "http://[::1]:7799"),
        ('host = "2001:db8::1"', "http://[2001:db8::1]:7799"),
        ('host = "nas.local"', "http://nas.local:7799"),
        ('public_url = "https://example.org/btn"', "https://example.org/btn"),
    ],
)
def test_a_login_link_is_one_line_that_a_browser_here_can_open(
    server: str, url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.toml").write_text(f"[server]\n{server}\n")
    main(["user", "add", "bob"])
    capsys.readouterr()
    assert main(["user", "login-link", "bob"]) == 0
    assert re.fullmatch(re.escape(url) + r"/login\?token=[A-Za-z0-9_-]{43}\n", capsys.readouterr().out)


def test_a_token_is_one_line_and_not_for_the_banned(capsys: pytest.CaptureFixture[str]) -> None:
    main(["user", "add", "bob"])
    capsys.readouterr()
    assert main(["user", "token", "bob"]) == 0
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", capsys.readouterr().out)
    main(["user", "ban", "bob", "--reason", "sold"])
    assert main(["user", "token", "bob"]) == 1
    assert main(["user", "login-link", "bob"]) == 1
    assert "sold" in capsys.readouterr().err
    assert main(["user", "unban", "bob"]) == 0
    assert main(["user", "token", "bob"]) == 0
    assert main(["user", "token", "nobody"]) == 1
    assert "There is no user named 'nobody'" in capsys.readouterr().err


def test_an_unreadable_database_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "sparkle.db").write_text("This is no database, but long enough to be looked at. " * 100)
    assert main(["user", "list"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("sparkle-lite: ")
    assert len(err.splitlines()) == 1


def test_a_reader_that_goes_away_causes_no_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    add("bob", capsys)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sparkle_lite", "app", "list"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_standard_streams_are_no_fault(folder: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    command = [sys.executable, "-m", "sparkle_lite"]
    for arguments, status in (("user add bob", 0), ("user list", 0), ("user token nobody", 1)):
        done = subprocess.run(
            [*command, *arguments.split()], capture_output=True, text=True, check=False, timeout=60, preexec_fn=close
        )
        assert done.returncode == status
        assert "fault" not in done.stderr
    # A file in the place of a closed stream would be written to by whoever means the stream.
    with subprocess.Popen(
        [*command, "serve", "--port", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=close
    ) as server:
        try:
            wait_for((folder / "data" / "sparkle.db.lock").exists, 20)
            links = [Path(f"/proc/{server.pid}/fd/{number}").readlink() for number in closed]
            assert links == [Path(os.devnull)] * len(closed)
        finally:
            server.terminate()
            assert server.wait(20) == 0


def test_a_host_that_is_no_name_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("a" * 300, "nosuch.invalid", "[::1]", "127.0.0.1:80"):
        assert main(["serve", "--port", "0", "--host", host]) == 1
        assert "This machine has no address" in capsys.readouterr().err


def test_a_command_does_not_wait_for_the_servers_libraries() -> None:
    code = (
        "import sys; from sparkle_lite.cli.main import main; main(['user', 'list']); print('litestar' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
