"""What a long list costs while reports come in: `python -m tests.bench.lists`.

A server in a process of its own fetches a list of a hundred thousand addresses from a server beside it: the first time,
unchanged, and with a tenth of it others. A member's client reports meanwhile, at a steady pace, and looks at pages.
"""

import argparse
import json
import random
import shutil
import tempfile
import threading
import time
from pathlib import Path

from tests.bench import load
from tests.bench.fairness import Member, Seen
from tests.list_server import ListServer, list_server
from tests.server import RunningServer, start_server

# How long a long list may take beside reports (s).
TARGET_S = 3.0


def a_list(count: int, seed: int, share: float) -> str:
    """So many addresses, one a line, of which a share is by this seed and the others always the same."""
    rng, other = random.Random(1), random.Random(seed)
    changed = int(count * share)
    addresses = [other.getrandbits(32) for _ in range(changed)] + [rng.getrandbits(32) for _ in range(count - changed)]
    return "".join(
        f"{45 + (each >> 24) % 50}.{each >> 16 & 255}.{each >> 8 & 255}.{each & 255}\n" for each in addresses
    )


class Phase(threading.Thread):
    """One fetch by the server itself, begun a second after the member is watched; `took` (s) by its own count."""

    def __init__(self, server: RunningServer, token: str) -> None:
        super().__init__()
        self._server = server
        self._headers = {"Cookie": f"X-BTN-Token={token}", "Sec-Fetch-Site": "same-origin"}
        self.took = 0.0
        self.outcome = ""

    def _last(self) -> dict[str, object]:
        page = self._server.request("GET", "/rules/imports/long", headers=self._headers)
        return {"running": b'id="progress"' in page.body}

    def run(self) -> None:
        time.sleep(1)
        started = time.monotonic()
        form = {**self._headers, "Content-Type": "application/x-www-form-urlencoded"}
        answer = self._server.request("POST", "/rules/imports/long/run", b"accept=1", form)
        assert answer.status == 303
        while self._last()["running"]:
            time.sleep(0.05)
        self.took = time.monotonic() - started
        [listed] = json.loads(self._server.run("imports", "list", "--json"))
        self.outcome = f"{listed['last']['outcome']}, {listed['entries']:,} entries"


def measure(server: RunningServer, web: ListServer, count: int, seconds: float) -> None:
    """Watch a member alone and during each fetch, and print what came out."""
    server.run("user", "add", "alice")
    alice, token = server.add_app("alice"), server.token()
    member = Member(server, alice, server.token("alice"))
    server.request("POST", "/welcome/done", b"", {"Cookie": f"X-BTN-Token={token}", "Sec-Fetch-Site": "same-origin"})
    alone = member.watch(seconds)
    print(f"{'':12}{'s':>7}{'posts':>7}{'p50':>9}{'p99':>9}{'most':>9}")
    tell("alone", 0, alone, alone)
    for name, body in (
        ("first", a_list(count, 0, 0)),
        ("unchanged", a_list(count, 0, 0)),
        ("a tenth new", a_list(count, 5, 0.1)),
    ):
        web.serve("/long.txt", body)
        phase = Phase(server, token)
        phase.start()
        seen = member.watch(seconds)
        phase.join()
        tell(name, phase.took, seen, alone)
        print(f"{'':12}{phase.outcome}; {TARGET_S:.0f} s are allowed")


def tell(name: str, took: float, seen: Seen, alone: Seen) -> None:
    """Print one phase."""
    times = load.percentiles(seen.posts, 50, 99, 100)
    [before] = load.percentiles(alone.posts, 99)
    print(
        f"{name:12}{took:7.2f}{len(seen.posts):7}{''.join(f'{each:9.1f}' for each in times)}  {times[1] / before:.1f}x"
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000, help="how long the list is")
    parser.add_argument("--seconds", type=float, default=8, help="how long each part is watched")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sparkle-lists-"))
    try:
        with list_server() as web:
            config = f"""
[limits]
requests_per_minute = 0
[[imports]]
name = "long"
url = "{web.serve("/long.txt", "# nothing yet")}"
allow_private = true
interval = "30d"
"""
            with start_server(folder / "server", config) as server:
                measure(server, web, options.lines, options.seconds)
                print(f"memory at the most: {server.resident('VmHWM') >> 20} MiB")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
