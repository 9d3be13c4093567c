"""The commands `rules` and `analyse`: what each prints, changes and refuses, and lists from elsewhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import client_parsers as clients
import pytest
from list_server import list_server
from shell import Shell

from sparkle_lite.analyses.registry import ANALYSES
from sparkle_lite.cli.main import main

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], folder: Path) -> Shell:
    shell = Shell(capsys)
    shell("user", "add", "bob")
    return shell


def listed(shell: Shell) -> dict[str, str]:
    return {str(n): why for n, why in clients.address_list(shell("rules", "export").encode())}


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_an_address_is_listed_explained_pardoned_and_explained_again(shell: Shell) -> None:
    assert re.fullmatch(r"Listed 1\.2\.3\.4 until \d{4}-\d\d-\d\d \d\d:\d\d UTC\.\n", shell("rules", "deny", "1.2.3.4"))
    assert list(listed(shell)) == ["1.2.3.4/32"]
    assert shell("rules", "why", "1.2.3.4").startswith(
        "1.2.3.4 is listed.\n  1  active  deny 1.2.3.4 (admin): listed by"
    )
    assert "  ended: 1.2.3.4 (admin)\n" in shell("rules", "pardon", "1.2.3.4", "--reason", "sorry")
    why = shell("rules", "why", "1.2.3.4")
    assert why.startswith("1.2.3.4 is not listed.\n")
    assert "  An exception protects it.\n" in why
    assert listed(shell) == {}
    assert "exceptions always win" in (shell("rules", "deny", "1.2.3.4", status=1) or shell.err)


def test_decisions_are_listed_as_a_table_and_as_json(shell: Shell) -> None:
    assert shell("rules", "list") == ""
    shell("rules", "deny", "1.2.3.4", "--reason", "noisy", "--forever")
    shell("rules", "allow", "5.6.7.0/24", "--expires", "7d")
    shell("rules", "deny", "--kind", "client_name", "迅雷")
    table = shell("rules", "list").splitlines()
    assert table[0].split() == ["ID", "STATE", "ACTION", "TARGET", "ORIGIN", "UNTIL", "(UTC)", "WHY"]
    assert len(table) == 4
    rules = shell.json("rules", "list", "--origin", "admin", "--state", "active")
    assert [(rule["target"], rule["action"]) for rule in rules] == [
        ('{"method":"CONTAINS","content":"迅雷","miss":"DEFAULT"}', "deny"),
        ("5.6.7.0/24", "allow"),
        ("1.2.3.4", "deny"),
    ]
    assert rules[1]["expiresAt"] - rules[1]["createdAt"] == 7 * 86_400_000
    assert (rules[2]["expiresAt"], rules[2]["note"]) == (None, "noisy")
    assert shell.json("rules", "list", "--state", "held") == []
    assert shell("rules", "list", "--origin", "nobody") == ""


def test_json_of_every_command_is_one_line(shell: Shell) -> None:
    assert shell.json("rules", "deny", "1.2.3.4")["state"] == "active"
    assert shell.json("rules", "allow", "1.2.3.9")["action"] == "allow"
    assert shell.json("rules", "why", "1.2.3.4")["listed"] is True
    done = shell.json("rules", "pardon", "1.2.3.4", "--expires", "2d")
    assert done["exception"]["expiresAt"] - done["exception"]["createdAt"] == 2 * 86_400_000
    assert [one["target"] for one in done["ended"]] == ["1.2.3.4"]
    assert shell.json("analyse", "--dry-run").keys() >= {"untrusted_vote", "over_download"}


def test_names_are_explained_too(shell: Shell) -> None:
    shell("rules", "deny", "--kind", "client_name", "Evil")
    shell("rules", "deny", "--kind", "peer_id", '{"method":"STARTS_WITH","content":"-EV"}')
    assert shell("rules", "why", "--client-name", "evil 3\n").startswith("evil 3\ufffd is listed.\n")
    assert shell.json("rules", "why", "--peer-id=-EV0001")["listed"]
    assert not shell.json("rules", "why", "--client-name", "good")["listed"]


def test_one_decision_is_ended_by_its_number(shell: Shell) -> None:
    shell("rules", "deny", "1.2.3.4")
    assert shell("rules", "withdraw", "1") == "Ended 1.2.3.4.\n"
    assert listed(shell) == {}
    for arguments in (("withdraw", "1"), ("withdraw", "9"), ("approve", "1"), ("refuse", "1"), ("approve",)):
        shell("rules", *arguments, status=1)
    assert shell("rules", "approve", "--origin", "over_download") == "Approved 0 decisions of over_download.\n"
    assert shell("rules", "refuse", "--origin", "over_download") == "Refused 0 decisions of over_download.\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rules", "deny", "10.0.0.1"], "not a public network"),
        (["rules", "deny", "nonsense"], "not an IP address"),
        (["rules", "deny", "1.2.3.4/24"], "host bits"),
        (["rules", "deny", "1.2.3.4", "--reason", "a\nb"], "control characters"),
        (["rules", "deny", "1.2.3.4", "--forever", "--expires", "1d"], "exclude each other"),
        (["rules", "why"], "Name one"),
        (["rules", "why", "1.2.3.4", "--client-name", "x"], "Name one"),
        (["rules", "why", "x"], "not an IP address"),
        (["analyse", "nothing"], "no analysis"),
        (["analyse", "--set", "min_people=1"], "--dry-run"),
        (["analyse", "--dry-run", "--set", "min_people=1"], "NAME"),
        (["analyse", "untrusted_vote", "--dry-run", "--set", "x"], "KEY=VALUE"),
        (["analyse", "untrusted_vote", "--dry-run", "--set", "x=1"], "no number"),
        (["rules", "import", "missing.txt", "--name", "x"], "missing.txt"),
    ],
)
def test_a_refusal_is_one_sentence(shell: Shell, arguments: list[str], says: str) -> None:
    assert shell(*arguments, status=1) == ""
    assert says in shell.err
    assert shell.err.startswith("sparkle-lite: ")
    assert len(shell.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["rules"],
        ["rules", "deny"],
        ["rules", "deny", "1.2.3.4", "--expires", "soon"],
        ["rules", "deny", "1.2.3.4", "--expires", "0"],
        ["rules", "import", "x"],
        ["rules", "list", "--state", "expired"],
        ["analyse", "a", "b"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_without_a_database_there_is_nothing_to_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["rules", "list"]) == 1
    assert "no database" in capsys.readouterr().err
    assert not Path("data").exists()


# --- Export -----------------------------------------------------------------------------------------------------------


def test_the_list_is_exported_as_clients_get_it_or_a_decision_a_line(shell: Shell, folder: Path) -> None:
    Path("config.toml").write_text(
        '[[rules]]\ntype = "ip"\ncategory = "PCDN"\ncontent = ["60.1.1.0/30"]\n'
        '[[exceptions]]\ntype = "ip"\ncategory = "x"\ncontent = ["60.1.1.2/31"]\n'
    )
    shell("rules", "deny", "1.2.3.4")
    Path("out.txt").write_text("old")
    Path("out.txt").chmod(0o640)
    assert shell("rules", "export", "out.txt") == ""
    exported = Path("out.txt").read_bytes()
    assert [str(network) for network, _ in clients.address_list(exported)] == ["60.1.1.0/31", "1.2.3.4/32"]
    assert Path("out.txt").stat().st_mode & 0o777 == 0o640
    assert shell("rules", "export").encode() == exported
    assert shell("rules", "export", "-").encode() == exported
    lines = shell("rules", "export", "--format", "jsonl").splitlines()
    assert [json.loads(line)["target"] for line in lines] == ["1.2.3.4"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "data", "out.txt"]
    shell("rules", "export", "nowhere/out.txt", status=1)


# --- Import -----------------------------------------------------------------------------------------------------------


def test_a_list_is_imported_line_by_line_and_bad_lines_are_named(shell: Shell) -> None:
    Path("list.txt").write_text(
        "\ufeff# a list\r\n1.2.3.4\r\n\n  1.2.4.0/24 # why\n1.4.0.0/15\nnonsense\n10.0.0.1\n2001:db8::/64\n"
        "001.002.005.000 - 001.002.005.003 , 100 , Some org\n1.2.6.1-1.2.6.2\n1.2.7.1,1.2.7.1,200,allowed\n"
    )
    said = shell("rules", "import", "list.txt", "--name", "mine")
    assert said == "import:mine: listed 6, ended 0, keep 0; 0 members' addresses among them.\n"
    assert shell.err.splitlines() == [
        "sparkle-lite: list.txt:6: 'nonsense' is not an IP address, network or range",
        "sparkle-lite: list.txt:7: 10.0.0.1 is, or holds, what no peer on the Internet has as its address",
        "sparkle-lite: list.txt:5: 1.4.0.0/15 is wider than /16, the widest that is taken from this list",
    ]
    six = {*("1.2.3.4/32", "1.2.4.0/24", "2001:db8::/64", "1.2.5.0/30", "1.2.6.1/32", "1.2.6.2/32")}
    assert set(listed(shell)) == six
    assert all(why.startswith("[mine] on a list that the operator") for why in listed(shell).values())
    shell("rules", "import", "list.txt", "--name", "mine", "--widest", "15,48", "--category", "Leeches", "--forever")
    assert set(listed(shell)) == six | {"1.4.0.0/15"}
    assert {rule["expiresAt"] for rule in shell.json("rules", "list")} == {None}
    assert listed(shell)["1.2.3.4/32"] == "[Leeches] on a list that the operator of this server imported"
    for wrong in ("15", "a,b", "7,48", "16,129"):
        with pytest.raises(SystemExit, match="2"):
            shell("rules", "import", "list.txt", "--name", "mine", "--widest", wrong)


def test_importing_again_replaces_that_list_alone_and_a_dry_run_changes_nothing(shell: Shell) -> None:
    Path("a.txt").write_text("1.2.3.4\n1.2.3.9\n")
    Path("b.txt").write_text("1.2.3.9\n")
    shell("rules", "import", "a.txt", "--name", "a")
    shell("rules", "import", "b.txt", "--name", "b", "--expires", "2d")
    plan = shell.json("rules", "import", "b.txt", "--name", "a", "--dry-run")
    assert ([one["target"] for one in plan["removed"]], plan["added"], plan["unchanged"]) == (["1.2.3.4"], [], 1)
    assert len(listed(shell)) == 3 - 1
    shell("rules", "import", "b.txt", "--name", "a")
    assert list(listed(shell)) == ["1.2.3.9/32"]


def test_a_list_that_lost_everything_stays_until_that_is_allowed(shell: Shell) -> None:
    Path("a.txt").write_text("1.2.3.4\n1.2.3.9\n")
    Path("empty.txt").write_text("# nothing\n")
    shell("rules", "import", "a.txt", "--name", "a")
    shell("rules", "import", "empty.txt", "--name", "a", status=1)
    assert "The list a stays as it was. The list is empty." in shell.err and "--allow-empty" in shell.err
    assert "would be held back" in shell("rules", "import", "empty.txt", "--name", "a", "--dry-run")
    assert len(listed(shell)) == 2
    assert shell.json("imports", "list")[0]["state"] == "held"
    shell("rules", "import", "empty.txt", "--name", "a", "--allow-empty")
    assert listed(shell) == {}
    # That it is empty is known now.
    shell("rules", "import", "empty.txt", "--name", "a")


def test_lists_come_by_url_too_from_this_machine_only_where_that_is_said(shell: Shell, tmp_path: Path) -> None:
    with list_server() as web:
        url = web.serve("/list.txt", "1.2.3.4\n") + "?key=s3cret"
        shell("rules", "import", url, "--name", "a", status=1)
        assert "private network" in shell.err and "s3cret" not in shell.err and web.asked == []
        shell("rules", "import", url, "--name", "a", "--allow-private")
        assert list(listed(shell)) == ["1.2.3.4/32"]
        Path("config.toml").write_text(f"""
[[imports]]
name = "good"
url = "{web.serve("/good.txt", "5.5.5.5")}"
allow_private = true
[[imports]]
name = "bad"
url = "{web.serve("/bad.txt", "<!DOCTYPE html><title>Gone</title>")}"
allow_private = true
[[imports]]
name = "off"
file = "nowhere.txt"
enabled = false
""")
        said = shell("imports", "run", status=1)
        assert said.splitlines()[0] == "good: listed 1, ended 0, 1 entries"
        assert said.splitlines()[1].startswith("bad: stays as it was. What came is a web page")
        assert {one["name"]: one["state"] for one in shell.json("imports", "list")} == {
            "a": "on", "good": "on", "bad": "failed", "off": "off",
        }  # fmt: skip
        assert shell("imports", "run", "good") == "good: unchanged\n"
        shell("imports", "run", "off", status=1)
        shell("imports", "run", "nothing", status=1)
        assert len(listed(shell)) == 2


def test_a_file_without_one_usable_line_leaves_the_list_alone(shell: Shell) -> None:
    Path("a.txt").write_text("1.2.3.4\n")
    shell("rules", "import", "a.txt", "--name", "a")
    Path("a.txt").write_bytes(b"oops\n\xff\xfe\x00" + b"x" * 5000 + b"\n" * 3 + b"0.0.0.0/0\n" + b"bad\n" * 50)
    shell("rules", "import", "a.txt", "--name", "a", status=1)
    assert len(shell.err.splitlines()) == 23
    assert "32 more lines" in shell.err
    assert "stays as it was" in shell.err
    assert list(listed(shell)) == ["1.2.3.4/32"]
    Path("a.txt").write_bytes(b"<!DOCTYPE html>\n<p>Not found\n")
    shell("rules", "import", "a.txt", "--name", "a", status=1)
    assert list(listed(shell)) == ["1.2.3.4/32"]
    shell("rules", "import", "a.txt", "--name", "../x", status=1)


def test_a_list_comes_from_standard_input_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparkle_lite", "rules", "import", "-", "--name", "x", "--json"],
        input=b"1.2.3.4\nbad\x1b[31m\n",
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["bad"] == 1
    assert b"\x1b" not in done.stderr


# --- Analyses ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_would_change_with_other_numbers(shell: Shell) -> None:
    said = shell("analyse", "untrusted_vote", "--dry-run", "--preset", "solo", "--set", "min_torrents=1")
    assert said == "untrusted_vote: would list 0, end 0, keep 0; 0 members' addresses among them.\n"
    assert len(shell("analyse").splitlines()) == len(ANALYSES)
    plan = shell.json("analyse", "over_download", "--dry-run")["over_download"]
    assert (plan["added"], plan["removed"], plan["held"], plan["dropped"], plan["brake"]) == ([], [], [], {}, None)
    assert (plan["shadow"], plan["unchanged"], plan["members"]) == (0, 0, 0)
