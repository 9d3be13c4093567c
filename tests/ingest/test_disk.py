"""A disk without room, or that can't be written: what is stored is served, nothing is taken, and that is said."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from server import RunningServer, put_back, start_server, wait_for

TORRENT = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
RULE = '[[rules]]\ntype = "ip"\ncategory = "PCDN"\ncontent = ["60.220.182.0/24"]\n'


def body(number: int) -> dict[str, Any]:
    peers = [{"ip_address": f"198.51.{number}.{n}", "torrent_identifier": TORRENT} for n in range(5)]
    return {"populate_time": number, "peers": peers}


class SmallDisk:
    """A server on a file system of its own."""

    def __init__(self, server: RunningServer, place: Path) -> None:
        self.server = server
        self.place = place
        self.token = server.token()

    def fill(self) -> None:
        with (self.place / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def empty(self) -> None:
        (self.place / "ballast").unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.place)], check=True)

    def shown(self) -> set[int]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        answer = self.server.request("POST", "/api/snapshot/query", b'{"pageSize": 100}', headers)
        assert answer.status == 200, answer
        return {int(row["peerIp"].split(".")[2]) for row in answer.json()["data"]["results"]}

    def is_ready(self) -> bool:
        """What /readyz says; its status and its parts agree."""
        answer = self.server.request("GET", "/readyz")
        state = answer.json()
        assert (answer.status == 200) is state["ready"] is (state["writer"] and state["rules_published"])
        assert state["writer"] is (state.get("writer_failure", "coming up") is None)
        return bool(state["ready"])

    def check_that_it_only_reads(self, bodies: set[int]) -> None:
        server = self.server
        assert not self.is_ready()
        assert self.shown() == bodies
        assert server.request("GET", "/healthz").status == 200
        assert server.get("/ping/config").status == 200
        assert "60.220.182.0/24" in server.get("/ping/rules/retrieve").body.decode()
        page = server.request("GET", "/admin/settings", headers={"Authorization": f"Bearer {self.token}"})
        assert page.status == 200
        refused = server.post(body(99))
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1

    def check_that_it_resumes(self, bodies: set[int]) -> None:
        server = self.server
        wait_for(self.is_ready, 20)
        assert server.post(body(50)).status == 200
        assert self.shown() == bodies | {50}
        assert "admin" in server.run("user", "list")
        server.restart()
        assert self.shown() == bodies | {50}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A server with some rows on a file system of 8 MB, where mounting is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if not mount or os.geteuid() != 0:
        pytest.skip("only root can mount")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    text = f"{RULE}[database]\npath = {json.dumps(str(place / 'sparkle.db'))}\n"
    try:
        with start_server(tmp_path / "server", text) as server:
            server.database, server.segments = place / "sparkle.db", place / "sparkle.db.segments"
            assert server.post(body(1)).status == 200
            yield SmallDisk(server, place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_readiness_sees_a_full_disk_before_any_client_does(disk: SmallDisk) -> None:
    assert disk.is_ready()
    disk.fill()
    wait_for(lambda: not disk.is_ready(), 3)
    assert disk.shown() == {1}
    disk.empty()
    wait_for(disk.is_ready, 3)
    assert disk.server.post(body(2)).status == 200


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_start_on_a_full_disk_serves_what_is_stored_and_resumes(disk: SmallDisk, end: str) -> None:
    getattr(disk.server, end)()
    disk.fill()
    disk.server.start()
    disk.check_that_it_only_reads({1})
    disk.empty()
    disk.check_that_it_resumes({1})


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_start_on_a_read_only_disk_serves_what_is_stored_and_resumes(disk: SmallDisk, end: str) -> None:
    getattr(disk.server, end)()
    disk.remount("ro")
    disk.server.start()
    disk.check_that_it_only_reads({1})
    disk.remount("rw")
    disk.check_that_it_resumes({1})


def test_a_first_start_on_a_full_disk_is_one_sentence(disk: SmallDisk) -> None:
    disk.server.stop()
    for path in disk.place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    disk.fill()
    ended = subprocess.run(disk.server.command(), capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert str(disk.place) in ended.stderr
    assert "room" in ended.stderr


def test_a_limit_on_the_size_of_files_is_seen_as_a_full_disk_is(tmp_path: Path) -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of another process can be changed on Linux only")
    with start_server(tmp_path / "server") as server:
        assert server.request("GET", "/readyz").status == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        wait_for(lambda: server.request("GET", "/readyz").status == 503, 3)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_for(lambda: server.request("GET", "/readyz").status == 200, 3)
        assert server.post(body(1)).status == 200


def test_an_upgrade_without_room_for_its_copy_is_one_sentence_and_leaves_nothing(disk: SmallDisk) -> None:
    disk.server.stop()
    put_back(disk.server.database, 11)
    before = {path.name for path in disk.place.iterdir()}
    for free in (64, 150):
        disk.fill()
        os.truncate(disk.place / "ballast", (disk.place / "ballast").stat().st_size - free * 1024)
        ended = subprocess.run(disk.server.command(), capture_output=True, text=True, timeout=20, check=False)
        assert ended.returncode == 1
        assert f"There is no room for {disk.place}" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
        disk.empty()
        left = {path.name for path in disk.place.iterdir() if path.suffix not in (".db-wal", ".db-shm")}
        assert left == before
    disk.server.start()
    assert disk.shown() == {1}
    assert list(disk.place.glob("sparkle.db.before-v*"))
