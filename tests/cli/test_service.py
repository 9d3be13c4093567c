"""`service`: what is printed names what is there, and what it starts works."""

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparkle_lite import config
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.cli.main import main
from sparkle_lite.cli.service import Deployment, unit

ROOT = Path(__file__).parents[2]


def printed(*arguments: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert main(["service", *arguments]) == 0
    return out.getvalue()


def keys_of(text: str) -> dict[str, str]:
    """What a unit says, the last value of each key."""
    return dict(line.split("=", 1) for line in text.splitlines() if re.match("[A-Za-z]+=", line))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to install in, with a blank in its name, and a free port in its configuration."""
    place = tmp_path / "a server"
    place.mkdir()
    monkeypatch.chdir(place)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (place / "config.toml").write_text(f'[server]\nport = {port}\npublic_url = "https://btn.example.org"\n')
    return place


def analyse(what: str, file: Path, *more: str) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")
    done = subprocess.run([program, what, *more, str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@contextlib.contextmanager
def manager(path: Path) -> Iterator[socket.socket]:
    """The socket that a service manager listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(20)
        yield listening


def test_the_unit_starts_a_server_that_says_how_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = keys_of(printed("systemd", "--user", "nobody"))
    assert (said["User"], said["WorkingDirectory"], said["Type"]) == ("nobody", str(folder), "notify")
    # The folder is made before the service is shut in.
    data = folder / "data"
    assert said["ReadWritePaths"] == f'"{data}"'
    assert shlex.split(said["ExecStartPre"])[-1] == str(data)
    assert shlex.split(said["ExecStartPre"].removeprefix("+"))[0] in ("/usr/bin/install",)
    command = shlex.split(said["ExecStart"])
    if not Path(command[0]).exists():
        pytest.fail(f"{command[0]} is not there")
    with manager(tmp_path / "notify") as listening:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SPARKLE_")}
        environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000", "PYTHONPATH": str(ROOT)}
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        process = subprocess.Popen(
            # The same program, from the code that is tested.
            [sys.executable, "-m", "sparkle_lite", *command[command.index("--config") :]],
            cwd=said["WorkingDirectory"],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            messages = [listening.recv(100) for _ in range(3)]
            assert messages == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
            health = re.search(r"^HEALTHCHECK.*?CMD (\[.*?\])$", printed("docker"), re.DOTALL | re.MULTILINE)
            assert health
            check = [sys.executable, *yaml.safe_load(health[1])[1:]]
            assert subprocess.run(check, timeout=20, check=False).returncode == 0
            process.send_signal(signal.SIGTERM)
            while listening.recv(100) != b"STOPPING=1":
                pass
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.wait(5)
        assert subprocess.run(check, timeout=20, check=False, stderr=subprocess.DEVNULL).returncode != 0
    assert (data / "sparkle.db").exists()
    # What is there is not made again.
    assert "ExecStartPre" not in keys_of(printed("systemd", "--user", "nobody"))


def test_systemd_takes_the_unit_and_finds_it_shut_in(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "sparkle-lite.service"
    place = Deployment(
        start=[sys.executable, "a $word %n"], folder=folder, writable=(folder / "da $ta",), user="daemon", port=7799
    )
    file.write_text(unit(place))
    assert "sparkle-lite.service" not in analyse("verify", file)
    found = re.search(r"exposure level for sparkle-lite.service: ([\d.]+)", analyse("security", file, "--offline=true"))
    assert found and float(found[1]) <= 1.8
    assert '"a $$word %%n"' in unit(place) and keys_of(unit(place))["ReadWritePaths"] == f'"{folder}/da $ta"'
    (linked := tmp_path / "link").symlink_to("/home/somebody/config.toml")
    assert keys_of(unit(place._replace(start=["/bin/true", str(linked)])))["ProtectHome"] == "read-only"
    low = keys_of(unit(place._replace(port=443)))
    assert low["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE" and "PrivateUsers" not in low
    at_home = keys_of(unit(place._replace(writable=(Path("/home/somebody/data"),))))
    assert (at_home["ProtectHome"], keys_of(unit(place))["PrivateTmp"]) == ("read-only", "false")


def test_the_containers_name_what_is_there(folder: Path) -> None:
    port = config.load(SCHEMA, folder / "config.toml", {}).server.port
    text = printed("docker").replace("\\\n", " ")
    steps = [line.split(None, 1) for line in text.splitlines() if line[:1].isupper()]
    copied = [source for name, rest in steps if name == "COPY" and "--from" not in rest for source in rest.split()[:-1]]
    assert copied and [source for source in copied if not (ROOT / source).exists()] == []
    packages = re.findall(r"packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())[0]
    assert {name.strip(' "').replace(".", "/") for name in packages.split(",")} <= set(copied)
    environ = dict(pair.split("=", 1) for name, rest in steps if name == "ENV" for pair in rest.split())
    compose: dict[str, Any] = yaml.safe_load(printed("compose"))
    service, caddy = compose["services"]["sparkle-lite"], compose["services"]["caddy"]
    inside = config.load(SCHEMA, folder / "config.toml", environ | service["environment"])
    assert (inside.server.host, inside.server.port, str(inside.database.file)) == ("0.0.0.0", port, "/data/sparkle.db")
    assert [str(each).partition("/")[0] for each in inside.server.trusted_proxies] == [
        caddy["networks"]["front"]["ipv4_address"]
    ]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"] and f"sparkle-lite:{port}" in caddy["command"]
    assert "btn.example.org" in caddy["command"] and caddy["profiles"] == ["caddy"]
    assert f"{folder}/config.toml:/data/config.toml:ro" in service["volumes"]
    assert dict(steps)["USER"] == "sparkle" and ("EXPOSE", str(port)) in [tuple(step) for step in steps]
    [addresses] = compose["networks"]["front"]["ipam"]["config"]
    given, fixed = ip_network(addresses["ip_range"]), ip_address(caddy["networks"]["front"]["ipv4_address"])
    assert given.subnet_of(ip_network(addresses["subnet"])) and fixed not in given  # type: ignore[arg-type]
    for host, where in (("10.8.0.1", "10.8.0.1:"), ("::", ""), ("fd00::1", "[fd00::1]:"), ("localhost", "127.0.0.1:")):
        (folder / "config.toml").write_text(f'[server]\nport = 7799\nhost = "{host}"\n')
        assert yaml.safe_load(printed("compose"))["services"]["sparkle-lite"]["ports"] == [f"{where}7799:7799"]
    (folder / "config.toml").write_text("[server]\nport = 0\n")
    with contextlib.redirect_stderr(io.StringIO()):
        assert main(["service", "docker"]) == 1
