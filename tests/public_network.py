"""Run in a network of its own (`unshare -rn`): what is fetched where this machine and a neighbour are on the Internet.

Prints for each attempt what came, or the key of why nothing did, as JSON. The neighbour is a thread in another network.
"""

import asyncio
import ctypes
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from file_site import Site

from sparkle_lite.errors import SparkleError
from sparkle_lite.fetching import FetchLimits, fetch

CLONE_NEWNET = 0x40000000
PORT = 8080
OWN, SECOND, NEIGHBOUR = "198.51.100.1", "198.51.100.2", "198.51.100.9"
OWN_V6 = "2001:db8::1"
NONLOCAL_BIND = Path("/proc/sys/net/ipv4/ip_nonlocal_bind")
NAMES = {
    "neighbour.example": (NEIGHBOUR,),
    "private.example": ("127.0.0.1", "192.168.1.1", NEIGHBOUR),
    "own.example": (OWN, SECOND, OWN_V6),
    "beside.example": (SECOND, NEIGHBOUR),
    "inside.example": ("127.0.0.1",),
}


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def lets_all_be_bound() -> bool:
    """Have this machine let a socket be bound to any address, where that can be set."""
    try:
        NONLOCAL_BIND.write_text("1", "ascii")
    except OSError:
        return False
    return True


class Neighbour(threading.Thread):
    """A machine beside this one that serves."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.has_network, self.may_serve, self.serves = (threading.Event() for _ in range(3))
        self.has_failed = False

    def run(self) -> None:
        self.has_failed = ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0
        self.has_network.set()
        self.may_serve.wait()
        ip(f"address add {NEIGHBOUR}/24 dev far")
        ip("link set far up")
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        site = Site()
        site.gives("/", b"neighbour")
        site.redirects("/loopback", f"http://127.0.0.1:{PORT}/")
        site.redirects("/inside", f"http://inside.example:{PORT}/")
        server = await asyncio.start_server(site.handle, NEIGHBOUR, PORT)
        self.serves.set()
        async with server:
            await server.serve_forever()


async def look_up(host: str, port: int) -> Sequence[str]:
    return NAMES[host]


async def attempt(host: str, path: str = "/") -> str:
    limits = FetchLimits(connect_s=5, read_s=5, total_s=10)
    try:
        fetched = await fetch(f"http://{host}:{PORT}{path}", resolve=look_up, limits=limits)
    except SparkleError as error:
        return error.said.values["why"].key if error.said.key == "fetch.redirected" else error.said.key
    return (fetched.body or b"").decode()


async def attempts() -> dict[str, str | int]:
    own = Site()
    own.gives("/", b"own")
    server = await asyncio.start_server(own.handle, None, PORT)
    async with server:
        results: dict[str, str | int] = {
            "neighbour": await attempt(NEIGHBOUR),
            "neighbour by name": await attempt("neighbour.example"),
            "private beside public": await attempt("private.example"),
            "own first address": await attempt(OWN),
            "own second address": await attempt(SECOND),
            "own address by name": await attempt("own.example"),
            "own IPv6 address": await attempt(f"[{OWN_V6}]"),
            "own beside public": await attempt("beside.example"),
            "redirect to loopback": await attempt(NEIGHBOUR, "/loopback"),
            "redirect to a name that leads to loopback": await attempt(NEIGHBOUR, "/inside"),
        }
        if lets_all_be_bound():
            results["neighbour where all can be bound"] = await attempt(NEIGHBOUR)
            results["own address where all can be bound"] = await attempt(OWN)
    return {**results, "asked of this machine": len(own.asked)}


def build(neighbour: Neighbour) -> None:
    """Connect this machine with its neighbour."""
    ip("link set lo up")
    ip("link add near type veth peer name far")
    ip(f"link set far netns {neighbour.native_id}")
    ip(f"address add {OWN}/24 dev near")
    ip(f"address add {SECOND}/24 dev near")
    ip(f"address add {OWN_V6}/64 dev near nodad")
    ip("link set near up")


def main() -> None:
    """Build both networks, then try."""
    neighbour = Neighbour()
    neighbour.start()
    neighbour.has_network.wait(10)
    if neighbour.has_failed:
        sys.exit("unshare: there can be no second network")
    try:
        build(neighbour)
    except subprocess.CalledProcessError:
        sys.exit("unshare: the networks can't be connected")
    neighbour.may_serve.set()
    neighbour.serves.wait(10)
    print(json.dumps(asyncio.run(attempts())))


if __name__ == "__main__":
    main()
