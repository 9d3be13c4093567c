"""A client program at work: what it asks the server for, what it tells it and when, and what it does with the lists."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from sparkle_lite.errors import SparkleError
from sparkle_lite.simulation import lists, rows
from sparkle_lite.simulation.connection import Connection, ServerReply
from sparkle_lite.simulation.downloader import Downloader
from sparkle_lite.simulation.ledger import Ledger
from sparkle_lite.simulation.liars import Lies
from sparkle_lite.simulation.programs import PROOF, Program, head_bytes, solve
from sparkle_lite.simulation.rows import Ban, Document, Transfer
from sparkle_lite.simulation.world import Installation, Member, World

_DOCUMENTS = ("rules", "exception", "rule_peer_identity", "ip_denylist", "ip_allowlist")


class Account(NamedTuple):
    """What a client has of an application: its id and secret."""

    app_id: str
    secret: str


class Client:
    """One client program of one person. `sent`, `accepted`, `rejected` count rows, `statuses` answers by ability."""

    def __init__(
        self, world: World, person: Member, installation: Installation, account: Account, connection: Connection
    ) -> None:
        self.person = person
        self.account = account
        self.program: Program = installation.program
        self.sees = Downloader(world, person, installation)
        self.listed = lists.NOTHING
        self.sent = self.accepted = self.rejected = 0
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.connection = connection
        self.lies: Lies | None = None
        self.ledger: Ledger | None = None
        self._random = installation.random
        self._endpoints: dict[str, str] = {}
        self._intervals: dict[str, int] = {}
        self._proven: set[str] = set()
        self._challenges = ""
        self._due: dict[str, int] = {}
        self._revs: dict[str, str] = {}
        self._last_turn = 0
        # Cursors: of bans told, of transfers told, and of the newest that was told.
        self._bans_told = 0
        self._transfers_told = 0
        self._told_until = 0
        self._told: dict[int, tuple[int, int]] = {}
        # What a submission holds at most, where that is less than what its program sends.
        self._page = 1 << 30

    def move(self, connection: Connection, *, page: int) -> None:
        """Go on over another connection, as it is configured there, with at most so many rows in a submission."""
        self.connection, self._page = connection, page
        self._due.clear()

    async def turn(self, now_ms: int) -> None:
        """Look at the peers, and do everything that is due. Raises SparkleError when there is no answer."""
        while_ms = now_ms - self._last_turn if self._last_turn else 0
        self._last_turn = now_ms
        if not self.sees.turn(now_ms, while_ms, self.listed.why):
            return
        if self.lies is not None:
            self.lies.tell(self.sees, now_ms)
        if now_ms >= self._due.get("config", 0):
            await self._configure(now_ms)
        for name in list(self._endpoints):
            if now_ms >= self._due.get(name, 0):
                self._due[name] = now_ms + self._intervals[name]
                await self._do(name, now_ms)

    async def _do(self, name: str, now_ms: int) -> None:
        if name == "submit_peers":
            await self._submit(name, {"populate_time": now_ms}, "peers", self._some(self.sees.live), now_ms)
        elif name == "submit_bans":
            await self._submit_bans(now_ms)
        elif name in ("submit_histories", "submit_swarm"):
            await self._submit_totals(name, now_ms)
        elif name == "heartbeat":
            await self._heartbeat()
        elif name in _DOCUMENTS:
            await self._take(name)

    # --- Asking -------------------------------------------------------------------------------------------------------

    async def _configure(self, now_ms: int) -> None:
        self._due["config"] = now_ms + (3_600_000 if self.program.family == "rust" else 24 * 3_600_000)
        answer = await self._ask("config", "/ping/config")
        if answer.status != 200:
            return
        document = msgspec.json.decode(answer.body)
        abilities: dict[str, Document] = document["ability"]
        self._challenges = _path(document.get("proof_of_work_captcha", {}).get("endpoint", ""))
        self._endpoints = {name: _path(one["endpoint"]) for name, one in abilities.items() if "endpoint" in one}
        self._intervals = {name: int(one["interval"]) for name, one in abilities.items()}
        self._proven = {name for name, one in abilities.items() if one.get("pow_captcha")}

    async def _ask(self, name: str, path: str, more: tuple[str, ...] = ()) -> ServerReply:
        lines = self.program.head("GET", path, self.connection.target.netloc, self.account)
        lines += [*self._from(), *more]
        answer = await self.connection.exchange(head_bytes(lines, lower=self.program.transport == "reqwest"))
        self.statuses[name, answer.status] += 1
        return answer

    @property
    def _is_modern(self) -> bool:
        """Whether the server wants the shapes of protocol 20."""
        return "submit_swarm" in self._endpoints

    def _from(self) -> tuple[str, ...]:
        """Where this comes from: believed by a server that trusts this machine as a proxy."""
        return (f"X-Forwarded-For: {self.person.line.address(self._last_turn)}",)

    async def _take(self, name: str) -> None:
        """Fetch a document by its `rev`; each family has its own way to say that it has none yet."""
        first = {"qbcb": "", "bc": "", "rust": "?rev="}.get(self.program.family, "?rev=initial")
        query = f"?rev={self._revs[name]}" if name in self._revs else first
        answer = await self._ask(name, self._endpoints[name] + query, await self._prove(name))
        if answer.status != 200 or (not answer.body and name not in ("ip_denylist", "ip_allowlist")):
            return
        version = answer.headers.get("x-btn-contentversion") or msgspec.json.decode(answer.body)["version"]
        self._revs[name] = str(version)
        if name == "ip_denylist":
            self.listed = lists.of_text(answer.body)
        elif name == "rules":
            self.listed = lists.of_rules(answer.body)

    async def _heartbeat(self) -> None:
        """Say that it is here, from which the server learns a member's address."""
        body = b'{"ifaddr":"default"}' if self.program.family == "rust" else b'{"ifaddr":"192.168.1.10"}'
        lines = self.program.head("POST", self._endpoints["heartbeat"], self.connection.target.netloc, self.account)
        lines = [line for line in lines if not line.lower().startswith("content-type")]
        lines += ["Content-Type: application/json; charset=utf-8", f"Content-Length: {len(body)}", *self._from()]
        lines += await self._prove("heartbeat")
        answer = await self.connection.exchange(head_bytes(lines, lower=self.program.transport == "reqwest") + body)
        self.statuses["heartbeat", answer.status] += 1

    async def _prove(self, name: str) -> tuple[str, ...]:
        if name not in self._proven or self.program.family not in ("pbh", "lt") or not self._challenges:
            return ()
        answer = await self._ask("captcha", f"{self._challenges}?type={name}")
        if answer.status != 200:
            return ()
        found = solve(msgspec.json.decode(answer.body))
        return tuple(map(": ".join, zip(PROOF, found, strict=True)))

    # --- Telling ------------------------------------------------------------------------------------------------------

    async def _post(self, name: str, document: Document, count: int) -> bool:
        """Send rows; whether they were accepted."""
        body = self.program.encode(document)
        more = (*self._from(), *await self._prove(name))
        request = self.program.request(self._endpoints[name], self.connection.target.netloc, self.account, body, more)
        self.sent += count
        answer = await self.connection.exchange(request)
        self.statuses[name, answer.status] += 1
        if answer.status == 200:
            rejected = int(answer.headers.get("x-sparkle-rejected", 0))
            self.rejected += rejected
            self.accepted += count - rejected
        return answer.status == 200

    async def _submit(self, name: str, head: Document, key: str, transfers: Sequence[Transfer], now_ms: int) -> bool:
        writers: Mapping[str, Callable[[Transfer], Document]] = {
            "submit_peers": lambda one: rows.snapshot(self.program, one),
            "submit_histories": lambda one: rows.history(self.program, one, added=self._added(one), now_ms=now_ms),
            "submit_swarm": lambda one: rows.swarm(self.program, one),
        }
        write = writers[name]
        accepted = await self._post(name, head | {key: [write(one) for one in transfers]}, len(transfers))
        if accepted and self.ledger is not None:
            self.ledger.note_transfers(self.account.app_id, transfers, now_ms)
        return accepted

    def _some(self, transfers: list[Transfer]) -> list[Transfer]:
        return transfers if len(transfers) <= self._page else self._random.sample(transfers, self._page)

    def _added(self, transfer: Transfer) -> tuple[int, int]:
        if self.program.family != "qbcb":
            return 0, 0
        up, down = self._told.get(id(transfer), (0, 0))
        self._told[id(transfer)] = transfer.up, transfer.down
        return transfer.up - up, transfer.down - down

    async def _submit_totals(self, name: str, now_ms: int) -> None:
        """What changed since the last time; PeerBanHelper since 9.3 tells every transfer once, soon after it began."""
        once = self._is_modern and self.program.tells_once
        page = min(1000 if self._is_modern else 5000, self._page)
        if self.program.family == "qbcb":
            # Its list is never emptied; what left is told with the same counters again.
            chosen: Iterable[Transfer] = islice(reversed(self.sees.transfers.values()), 80)
        elif once:
            chosen = islice(self.sees.transfers.values(), self._transfers_told, None)
        else:
            chosen = (one for one in self.sees.transfers.values() if one.last > self._told_until)
        transfers = list(chosen)[:page]
        if not transfers:
            return
        head: Document = {} if name == "submit_swarm" else {"populate_time": now_ms}
        key = "swarms" if name == "submit_swarm" else "peers"
        if await self._submit(name, head, key, transfers, now_ms):
            self._transfers_told += len(transfers)
            self._told_until = max(one.last for one in transfers)

    async def _submit_bans(self, now_ms: int) -> None:
        """The bans since the last report; qBittorrent-ClientBlocker tells all of the last days each time."""
        bans: Sequence[Ban] = self.sees.bans[self._bans_told :]
        if self.program.family == "qbcb":
            bans = self._standing(now_ms)
        page = 100 if self._is_modern else 500
        while bans:
            some = bans[:page]
            head: Document = {} if self._is_modern else {"populate_time": now_ms}
            document: dict[str, Any] = head | {
                "bans": [rows.ban(self.program, one, self.account.app_id, modern=self._is_modern) for one in some]
            }
            if not await self._post("submit_bans", document, len(some)):
                return
            if self.ledger is not None:
                self.ledger.note_bans(self.account.app_id, self.program, some, now_ms)
            self._bans_told += len(some)
            bans = bans[page:]
            if self.program.family == "rust":
                return

    def _standing(self, now_ms: int) -> list[Ban]:
        day = [one for one in self.sees.bans if one.at > now_ms - 24 * 3_600_000]
        by_place = {(one.peer.ip, one.peer.port): one for one in reversed(day)}
        return list(by_place.values())


def _path(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def refused(client: Client) -> SparkleError | None:
    """The error of a client whose credentials are not taken."""
    if client.statuses["config", 200] or not client.statuses["config", 403] + client.statuses["config", 401]:
        return None
    return SparkleError("forbidden", "simulation.refused")
