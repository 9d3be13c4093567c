"""The command `demo`: a full server within seconds, for whoever looks and for whoever writes a client."""

import contextlib
import gzip
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from server import PBH20, Answer, RunningServer, wait_for

import sparkle_lite
from sparkle_lite.cli.main import main
from sparkle_lite.simulation.programs import PROGRAMS

ROOT = Path(sparkle_lite.__file__).parent.parent
# What a start may cost, in seconds of CPU: on two cores with a little else to do it is up in ten, then.
CPU_S = 8.0
FIXED = ("--port", "0", "--credentials", "my-client:a-fixed@secret")
CREDENTIALS = {"X-BTN-AppID": "my-client", "X-BTN-AppSecret": "a-fixed@secret"}


class Demo(NamedTuple):
    """A process of the command: where it prints and where its temporary files lie."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def temporary(self) -> Path:
        """What it may leave nothing in."""
        return self.folder / "tmp"

    @property
    def stdout(self) -> str:
        """What it printed."""
        return (self.folder / "stdout").read_text("utf-8")

    @property
    def stderr(self) -> str:
        """What it logged."""
        return (self.folder / "stderr").read_text("utf-8")

    @property
    def url(self) -> str:
        """Where it listens."""
        found = re.search(r"running at (http://127\.0\.0\.1:\d+)\n", self.stdout)
        assert found
        return found[1]

    def is_up(self) -> bool:
        """Whether it has said how to get in."""
        assert self.process.poll() is None, self.stderr
        return "Ctrl+C ends it" in self.stdout

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request; underscores in the names of headers are hyphens."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def reset(self, **headers: str) -> dict[str, str]:
        """Begin anew; how to get in."""
        answer = self.request("POST", "/demo/reset", **headers)
        assert answer.status == 200, answer
        data: dict[str, str] = answer.json()["data"]
        return data


@contextlib.contextmanager
def starting(folder: Path, *options: str) -> Iterator[Demo]:
    """A demo in a folder with a configuration that is wrong, for as long as the block lasts."""
    (folder / "tmp").mkdir()
    (folder / "config.toml").write_text("[server]\nprot = 1\n")
    environ = os.environ | {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT), "SPARKLE_SERVER__PORT": "wrong"}
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        command = [sys.executable, "-m", "sparkle_lite", "demo", *options]
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environ, cwd=folder)
    try:
        yield Demo(process, folder)
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo for the tests of this file. Whatever they did, Ctrl+C ends it, and nothing of it is left."""
    folder = tmp_path_factory.mktemp("demo")
    with starting(folder, *FIXED) as running:
        wait_for(running.is_up, 120)
        yield running
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(12) == 0
        assert list(running.temporary.iterdir()) == []
        assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "stderr", "stdout", "tmp"]
        assert running.stderr == ""


@pytest.fixture(scope="module")
def token(demo: Demo) -> str:
    """An administrator's token, got by the link that was printed."""
    link = re.search(r"/login\?token=(\S+)", demo.stdout)
    assert link
    body = json.dumps({"token": link[1]}).encode()
    answer = demo.request("POST", "/login", body, Content_Type="application/json", Accept="application/json")
    return str(answer.json()["data"]["token"])


# --- Its start --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_is_up_for_little_work(demo: Demo) -> None:
    fields = (Path("/proc") / str(demo.process.pid) / "stat").read_text().rpartition(")")[2].split()
    assert (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") < CPU_S


def test_it_says_what_it_is_and_how_to_get_in_to_reset_and_to_end_it(demo: Demo) -> None:
    said = demo.stdout
    assert "Everything in it is invented" in said
    assert f'config-url: "{demo.url}/ping/config"' in said
    assert 'app-id: "my-client"' in said
    assert 'app-secret: "a-fixed@secret"' in said
    assert f"curl -X POST {demo.url}/demo/reset" in said
    assert "Ctrl+C ends it, and nothing of it is left" in said
    assert demo.stderr == ""


# --- Its pages --------------------------------------------------------------------------------------------------------


def pages(demo: Demo, token: str, language: str) -> dict[str, str]:
    """The pages that links lead to, one of each kind, but all of the applications and users."""
    found: dict[str, str] = {}
    kinds: set[str] = set()
    wanted = ["/"]
    for path in wanted:
        kind = re.sub(r"^/(ip|torrent|client|manual/\w+)/.*", r"/\1/…", path)
        if kind in kinds or kind.startswith(("/static", "/language", "/api", "/docs")) or kind.endswith("csv"):
            continue
        kinds.add(kind)
        answer = demo.request("GET", path, Authorization=f"Bearer {token}", Accept_Language=language)
        assert answer.status in (200, 303), path
        if answer.status == 200 and answer.headers["content-type"].startswith("text/html"):
            found[path] = answer.body.decode()
            wanted += re.findall(r'href="(/[^"#?]*)', found[path])
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_has_something_to_see(demo: Demo, token: str, language: str) -> None:
    found = pages(demo, token, language)
    for path in ("/explore/bans", "/explore/swarms", "/explore/torrents", "/rules/held", "/rules/reviews", "/apps/all"):
        assert path in found
    empty = {path for path, text in found.items() if re.search(r'class="[^"]*\bempty\b', text)}
    # Some sent nothing within a day, some are signed in nowhere: that is what there is to see of them.
    alone = {path for path in empty if re.fullmatch(r"/apps/[^/]+|/admin/users/\d+", path)}
    assert empty == alone
    assert "/apps/my-client" in found
    assert len(alone) * 3 < len([path for path in found if re.fullmatch(r"/apps/[^/]+|/admin/users/\d+", path)])


def rest(demo: Demo, token: str, path: str, body: Any = None) -> Any:
    """The data of an answer of the REST API."""
    data = None if body is None else json.dumps(body).encode()
    more = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = demo.request("GET" if body is None else "POST", path, data, **more)
    assert answer.status == 200, answer
    return answer.json()["data"]


def test_its_rules_have_every_origin_and_state(demo: Demo, token: str) -> None:
    rows = rest(demo, token, "/api/rules?limit=1000")["results"]
    assert {row["origin"] for row in rows} >= {"config", "admin", "import:neighbours", "untrusted_vote"}
    assert {row["state"] for row in rows} >= {"active", "held"}
    assert {row["action"] for row in rows} == {"deny", "allow"}


def test_its_users_are_several_and_one_is_banned(demo: Demo, token: str) -> None:
    users = rest(demo, token, "/api/admin/users?pageSize=100")["results"]
    assert len(users) == 10
    assert [user["name"] for user in users if user["bannedAt"]] == ["Mallory"]


def test_one_client_is_told_what_is_wrong_with_it(demo: Demo, token: str) -> None:
    apps = rest(demo, token, "/api/admin/userapp?pageSize=100")["results"]
    (faulty,) = [app for app in apps if app["comment"].startswith("My first client")]
    page = demo.request("GET", f"/apps/{faulty['appId']}", Authorization=f"Bearer {token}", Accept_Language="en")
    assert "their addresses are not public" in page.body.decode()


def test_the_traffic_goes_on(demo: Demo) -> None:
    def requests() -> int:
        lines = demo.request("GET", "/metrics").body.decode().splitlines()
        counts = [
            line.rpartition(" ")[2]
            for line in lines
            if line.startswith("sparkle_http_requests_total") and "/ping/" in line
        ]
        return round(sum(map(float, counts)))

    before = requests()
    wait_for(lambda: requests() >= before + 3, 60)


# --- For who develops a client ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_generation_of_clients_is_served(demo: Demo, name: str) -> None:
    answer = demo.request("GET", "/ping/config", **CREDENTIALS, User_Agent=PROGRAMS[name].agent)
    assert answer.status == 200
    abilities = answer.json()["ability"]
    assert abilities["submit_swarm" if PROGRAMS[name].is_modern else "submit_peers"]["interval"] == 60_000
    assert all(ability["endpoint"].startswith(demo.url) for ability in abilities.values() if "endpoint" in ability)


def submit(demo: Demo, **headers: str) -> Answer:
    """Submit a peer as a client without any other data does."""
    peer = {"ip_address": "203.0.113.200", "peer_port": 6881, "peer_id": "-XX0001-", "client_name": "XX 0.0.0.1"}
    peer |= {"torrent_identifier": "mine", "torrent_size": 1 << 30, "uploaded": 1 << 20}
    body = gzip.compress(json.dumps({"peers": [peer]}).encode())
    return demo.request("POST", "/ping/peers/submit", body, Content_Encoding="gzip", User_Agent=PBH20, **headers)


def mine(demo: Demo, token: str) -> int:
    """How many rows of that peer are stored."""
    return len(rest(demo, token, "/api/snapshot/query", {"peerIp": "203.0.113.200"})["results"])


def test_submissions_are_taken_with_fixed_credentials_and_without_any(demo: Demo, token: str) -> None:
    assert submit(demo, **CREDENTIALS).rejected == 0
    assert mine(demo, token) == 1
    assert submit(demo, X_BTN_InstallationID="0b7e196b-ed88-46c4-ab3c-bb34bab2e9cf").rejected == 0
    assert submit(demo, **CREDENTIALS | {"X-BTN-AppSecret": "wrong"}).status == 403


def test_a_reset_begins_anew_with_the_same_credentials(tmp_path: Path) -> None:
    with starting(tmp_path, *FIXED) as demo:
        wait_for(demo.is_up, 120)
        _reset_twice(demo)


def _reset_twice(demo: Demo) -> None:
    first = demo.reset()
    before = rest(demo, first["token"], "/api/rules?limit=1000")["results"]
    assert submit(demo, **CREDENTIALS).status == 200
    (earlier,) = (demo.temporary).iterdir()
    place = demo.url.replace("127.0.0.1", "localhost")
    second = demo.reset(Host=place.removeprefix("http://"), Origin=place, Sec_Fetch_Site="same-origin")
    assert [path.name != earlier.name for path in demo.temporary.iterdir()] == [True]
    assert {name: second[name] for name in ("url", "configUrl", "appId", "appSecret")} == {
        "url": demo.url,
        "configUrl": f"{demo.url}/ping/config",
        "appId": "my-client",
        "appSecret": "a-fixed@secret",
    }
    assert demo.request("GET", "/api/rules", Authorization=f"Bearer {first['token']}").status == 403
    assert mine(demo, second["token"]) == 0
    assert submit(demo, **CREDENTIALS).status == 200
    assert mine(demo, second["token"]) == 1
    after = rest(demo, second["token"], "/api/rules?limit=1000")["results"]
    # It is a week of the same people, but of another hour of the day.
    for rows in (before, after):
        assert {"admin", "config", "untrusted_vote"} <= {row["origin"] for row in rows}
    assert demo.request("GET", second["loginUrl"].removeprefix(demo.url)).status == 200
    assert second["loginUrl"] in demo.stdout


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example:7799"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost", "Origin": "http://localhost:3000"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Via": "1.1 proxy"},
    ],
)
def test_a_reset_is_refused_to_who_may_be_elsewhere(demo: Demo, headers: dict[str, str]) -> None:
    said = demo.request("POST", "/demo/reset", **headers).refusal(403)
    assert "a program on this machine" in said
    assert "secret" not in said


def test_a_reset_is_a_post(demo: Demo) -> None:
    answer = demo.request("GET", "/demo/reset")
    assert answer.refusal(405)
    assert answer.headers["allow"] == "POST"


def test_no_other_server_has_a_reset(shared: RunningServer) -> None:
    assert shared.request("POST", "/demo/reset").status == 404


# --- Its end ----------------------------------------------------------------------------------------------------------


def test_an_end_while_it_begins_leaves_nothing(tmp_path: Path) -> None:
    with starting(tmp_path, "--port", "0") as demo:
        wait_for(lambda: any(demo.temporary.iterdir()), 60)
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(20) == 0
    assert list(demo.temporary.iterdir()) == []
    assert (demo.stdout, demo.stderr) == ("", "")


def test_an_end_in_the_middle_of_a_reset_leaves_nothing(tmp_path: Path) -> None:
    with starting(tmp_path, "--port", "0", "--config", "config.toml") as demo:
        wait_for(demo.is_up, 120)
        assert demo.stderr == "sparkle-lite: a demo has a configuration of its own; config.toml is not read\n"
        (earlier,) = demo.temporary.iterdir()
        host = demo.url.removeprefix("http://")
        with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as connection:
            connection.request("POST", "/demo/reset")
            wait_for(lambda: [path for path in demo.temporary.iterdir() if path != earlier], 60)
            demo.process.send_signal(signal.SIGHUP)
            assert connection.getresponse().status == 503
        assert demo.process.wait(20) == 0
    assert list(demo.temporary.iterdir()) == []
    assert demo.stderr.count("\n") == 1


# --- Its options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--port", "70000"], "'70000' is not a port (0 to 65535)"),
        (["--credentials", "only-an-id"], "'only-an-id' has no colon: write APP_ID:SECRET"),
        (["--credentials", ":secret"], "the id '' is not 1 to 64 of the characters"),
        (["--credentials", "a@b:secret"], "the id 'a@b' is not 1 to 64 of the characters"),
        (["--credentials", "id:"], "the secret is not 1 to 128 characters of ASCII without blanks"),
        (["--credentials", "id:two words"], "the secret is not 1 to 128 characters of ASCII without blanks"),
        (["--credentials", "id:秘密"], "the secret is not 1 to 128 characters of ASCII without blanks"),
        (["--credentials", "example-app-id:x"], "is what example configurations hold, which the server refuses"),
    ],
)
def test_wrong_options_get_a_sentence(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *options])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_told_at_once(shared: RunningServer, tmp_path: Path) -> None:
    with starting(tmp_path, "--port", str(shared.port)) as demo:
        assert demo.process.wait(20) == 1
    assert demo.stdout == ""
    assert f"Port {shared.port} can't be had" in demo.stderr
    assert list(demo.temporary.iterdir()) == []
