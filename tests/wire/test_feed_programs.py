"""Feeds in the programs that read them, where they are installed: Debian's packages, without any network.

Packages: nftables, ipset, transmission-daemon, deluged, qbittorrent-nox.
"""

import ipaddress
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import feed_consumers as consumers
import pytest
from feed_consumers import AnyNetwork, Range

from sparkle_lite.net import parse_network
from sparkle_lite.rules.feed_rendering import ListOrder, Rendered, render_list
from sparkle_lite.rules.operator import Rules
from sparkle_lite.rules.rendering import Listing, publish
from sparkle_lite.wire.feeds import Credit

NETWORKS = (
    "1.0.0.0/8", "198.51.100.128/25", "203.0.113.0/24", "203.0.114.9", "255.0.0.0/8", "2001:db8::/48", "2001:db9::1",
)  # fmt: skip
V4 = {ipaddress.ip_network(text) for text in NETWORKS if ":" not in text}
V6 = {ipaddress.ip_network(text) for text in NETWORKS if ":" in text}
DELUGE = Path("/usr/lib/python3/dist-packages/deluge/plugins")
# With the reader that Deluge itself chooses.
DELUGE_SCRIPT = """
import glob, json, sys
sys.path[:0] = glob.glob(sys.argv[1])
from deluge_blocklist.detect import create_reader, detect_compression, detect_format
ranges = []
reader = create_reader(detect_format(sys.argv[2]), detect_compression(sys.argv[2]))
reader(sys.argv[2]).read(lambda first, last: ranges.append([first.address, last.address]))
json.dump(ranges, sys.stdout)
"""


def written(folder: Path, name: str, *networks: str) -> Path:
    """A feed in a file of its name."""
    denied = [
        Listing("ip", parse_network(text), "over_download", "took 400% of it: 3 GiB, in all", None) for text in networks
    ]
    documents = publish(Rules(), [], 0, denied=denied)
    file = folder / name
    file.write_bytes(
        render_list(ListOrder.of(name, Rendered(documents, 1, 0, [Credit("mine", "me & you, CC BY 4.0")]))).body
    )
    return file


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} isn't installed")
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network of its own can't be made")


def alone(*command: str) -> str:
    """Run a command in a network of its own; what it printed."""
    ended = subprocess.run(["unshare", "-rn", *command], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def running(*command: str) -> Iterator[None]:
    """A program in a network of its own, and its end."""
    process = subprocess.Popen(
        ["unshare", "-rn", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def is_filled(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_nftables_replaces_its_sets(tmp_path: Path) -> None:
    needs("nft")
    script = ""
    for listed in (("192.0.2.0/24", "2001:db8::/32"), (), NETWORKS):
        script += f"nft -f {written(folder_for(tmp_path), 'nftables.conf', *listed)} || exit 1\n"
    told = json.loads(alone("sh", "-c", f"{script}nft -j list ruleset"))["nftables"]
    sets = {each["set"]["name"]: set(map(nft_network, each["set"]["elem"])) for each in told if "set" in each}
    assert sets == {"sparkle4": V4, "sparkle6": V6}
    alone("sh", "-c", f"nft -c -f {written(folder_for(tmp_path), 'nftables.conf')}")


def folder_for(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    return folder


def nft_network(element: str | dict[str, dict[str, str]]) -> AnyNetwork:
    if isinstance(element, str):
        return ipaddress.ip_network(element)
    return ipaddress.ip_network(f"{element['prefix']['addr']}/{element['prefix']['len']}")


def test_ipset_swaps_its_sets(tmp_path: Path) -> None:
    needs("ipset")
    if subprocess.run(["unshare", "-rn", "ipset", "list"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel has no ipset")
    script = ""
    for listed in (("192.0.2.0/24", "2001:db8::/32"), (), NETWORKS):
        script += f"ipset restore -f {written(folder_for(tmp_path), 'ipset.txt', *listed)} || exit 1\n"
    lines = [line.split() for line in alone("sh", "-c", f"{script}ipset save").splitlines()]
    assert {line[1] for line in lines if line[0] == "create"} == {"sparkle4", "sparkle6"}
    for name, expected in (("sparkle4", V4), ("sparkle6", V6)):
        assert {ipaddress.ip_network(line[2]) for line in lines if line[:2] == ["add", name]} == expected


def test_transmission_reads_its_blocklist(tmp_path: Path) -> None:
    needs("transmission-daemon")
    for listed, expected in ((NETWORKS, V4), (("2001:db8::1",), {ipaddress.ip_network("192.0.2.1/32")})):
        folder = folder_for(tmp_path)
        (folder / "blocklists").mkdir()
        settings = {"blocklist-enabled": True, "dht-enabled": False, "lpd-enabled": False, "rpc-enabled": False}
        (folder / "settings.json").write_text(json.dumps(settings))
        feed = written(folder / "blocklists", "transmission.txt", *listed)
        compiled = feed.with_name("transmission.txt.bin")
        with running("transmission-daemon", "--foreground", "--config-dir", str(folder)):
            wait_for(partial(is_filled, compiled))
        assert consumers.networks_of(transmission_ranges(compiled.read_bytes())) == expected


def transmission_ranges(compiled: bytes) -> Iterator[Range]:
    """What it made of a list: version 3 writes pairs of IPv4 addresses, version 4 pairs of a type and 16 bytes."""
    head = b"-tr-blocklist-file-format-v3-"
    if compiled.startswith(head):
        data, size = compiled[len(head) :], 20
        ends = [data[at + 4 : at + 8] for at in range(0, len(data), size)]
    else:
        ends = [compiled[at : at + 4][::-1] for at in range(0, len(compiled), 4)]
    for first, last in zip(ends[::2], ends[1::2], strict=True):
        yield Range(ipaddress.IPv4Address(first), ipaddress.IPv4Address(last))


def test_deluge_reads_its_list(tmp_path: Path) -> None:
    needs("deluged")
    if not list(DELUGE.glob("Blocklist*.egg")):
        pytest.skip("Deluge has no blocklist plugin")
    for listed, expected in ((NETWORKS, V4), ((), {ipaddress.ip_network("192.0.2.1/32")})):
        feed = written(folder_for(tmp_path), "peerguardian.p2p", *listed)
        ranges = json.loads(alone("/usr/bin/python3", "-c", DELUGE_SCRIPT, f"{DELUGE}/Blocklist*.egg", str(feed)))
        read = [Range(*map(ipaddress.ip_address, ends)) for ends in ranges]
        assert consumers.networks_of(read) == expected


def test_qbittorrent_applies_every_rule(tmp_path: Path) -> None:
    needs("qbittorrent-nox")
    feed = written(tmp_path, "ipfilter.dat", *NETWORKS)
    folder = tmp_path / "qBittorrent" / "config"
    folder.mkdir(parents=True)
    (folder / "qBittorrent.conf").write_text(
        "[LegalNotice]\nAccepted=true\n[BitTorrent]\nSession\\IPFilteringEnabled=true\n"
        f"Session\\IPFilter={feed}\nSession\\DHTEnabled=false\n[Preferences]\nWebUI\\Enabled=false\n"
    )
    log = tmp_path / "qBittorrent" / "data" / "logs" / "qbittorrent.log"
    with running("qbittorrent-nox", f"--profile={tmp_path}"):
        wait_for(lambda: log.exists() and "IP filter" in log.read_text("utf-8"))
    told = log.read_text("utf-8")
    assert f"Number of rules applied: {len(NETWORKS)}" in told
    assert "malformed" not in told
