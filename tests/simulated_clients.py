"""The client programs, restated: what each asks on the wire, how it reads the answer, when it tries again.

Each client plays its schedule in virtual time against a real server and keeps a ledger of what it reported, to be
compared with what is stored. How it writes requests and rows is the simulation's, which is held against recorded
requests; nothing here uses the package's code for reading the wire.
"""

import gzip
import json
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import client_parsers as clients
from client_parsers import need
from server import Answer, App, RunningServer, read_answer

from sparkle_lite.simulation import rows
from sparkle_lite.simulation.programs import (
    PROGRAMS,
    PROOF,
    Program,
    chunked,
    credential_lines,
    solve,
    torrent_identifier,
)
from sparkle_lite.simulation.rows import Transfer

# What public_url says; every client "resolves" it to wherever the server listens now.
BASE = "http://btn.example"
START = 1_784_000_000_000
MINUTE = 60_000
HOUR = 60 * MINUTE
_INFO_HASHES = [f"{number:040x}" for number in range(1, 6)]
Outcome = Literal["accepted", "lost", "failed"]
Document = dict[str, Any]


# --- Small parts that more than one client has ------------------------------------------------------------------------


def rust_list(body: bytes) -> set[str]:
    """PeerBanHelper-Rust's reading of a list of addresses: cut at "#", lines with a comma skipped, no reasons."""
    lines = (line.split("#")[0].strip() for line in body.decode().splitlines())
    return {line for line in lines if line and "," not in line}


def panel(body: bytes) -> Document:
    """PeerBanHelper's panel for an address: everything that it reads without looking whether it is there."""
    data: Document = clients.load(body)
    need(isinstance(data["color"], str) and all(isinstance(label, str) for label in data["labels"]), "colour, labels")
    for name in ("bans", "swarms"):
        need(type(data[name]["duration"]) is int and type(data[name]["total"]) is int, name)
        need(isinstance(data[name]["records"], list), f"{name}.records.length")
    for name in ("concurrent_download_torrents_count", "concurrent_seeding_torrents_count"):
        need(type(data["swarms"][name]) is int, name)
    for name in ("duration", "to_peer_traffic", "from_peer_traffic"):
        need(type(data["traffic"][name]) is int, name)
    need(isinstance(data["traffic"]["share_ratio"], float), "share_ratio")
    need(type(data["torrents"]["duration"]) is int and type(data["torrents"]["count"]) is int, "torrents")
    for record in data["bans"]["records"]:
        _panel_record(record, ("populate_time",), ("peer_progress", "reporter_progress"))
        need(all(isinstance(record[name], str) for name in ("module_name", "rule", "description")), "text of a ban")
        need(isinstance(record["structured_data"], dict | None), "structured_data")
    for record in data["swarms"]["records"]:
        offsets = ("from_peer_traffic_offset", "to_peer_traffic_offset")
        _panel_record(record, ("first_time_seen", "last_time_seen", *offsets), ("peer_progress", "user_progress"))
    return data


def _panel_record(record: Document, numbers: Sequence[str], fractions: Sequence[str]) -> None:
    for name in ("peer_port", "to_peer_traffic", "from_peer_traffic", *numbers):
        need(type(record[name]) is int, f"{name}={record[name]!r}")
    for name in fractions:
        need(isinstance(record[name], float) and 0 <= record[name] <= 1, f"{name}={record[name]!r}")
    need(isinstance(record["torrent"], str) and isinstance(record["peer_ip"], str), "torrent, peer_ip")
    for name in ("peer_id", "peer_client_name", "peer_flags", "flags"):
        need(isinstance(record.get(name), str | None), name)


# --- What a client's downloader sees ----------------------------------------------------------------------------------


@dataclass
class Seen:
    """A peer, with running totals in bytes; `earlier` of what it got went over connections that are closed."""

    number: int
    ip: str
    port: int
    info_hash: str
    first: int
    last: int
    up: int
    down: int
    earlier: int = 0


def transfer(peer: Seen, up: int | None = None) -> Transfer:
    """A peer as the simulation writes it; `up` is what it had got at some time, all in all."""
    return Transfer(
        ip=peer.ip,
        port=peer.port,
        info_hash=peer.info_hash,
        size=5_000_000_000,
        up=peer.up if up is None else up,
        down=peer.down,
        earlier_up=peer.earlier,
        first=peer.first,
        last=peer.last,
    )


@dataclass
class Banned:
    """A ban of a peer that was made at some time."""

    number: int
    at: int
    peer: Seen
    up: int


class Downloader:
    """The peers of one installation: some come, grow and are banned whenever it looks."""

    def __init__(self, number: int) -> None:
        self._random = Random(number)
        self._number = number
        self.peers: list[Seen] = []
        self.bans: list[Banned] = []
        self.live: list[Seen] = []

    def look(self, now: int) -> None:
        """A while has passed."""
        for _ in range(3):
            self.peers.append(self._new(now))
        for peer in self._random.sample(self.peers, min(6, len(self.peers))):
            peer.up += self._random.randrange(1, 1 << 30)
            peer.down += self._random.randrange(1 << 20)
            peer.last = now
        self.live = [peer for peer in self.peers if peer.last == now]
        self.ban(now, self._random.choice(self.live))

    def _new(self, now: int) -> Seen:
        number = len(self.peers) + 1
        v4, v6 = f"45.{self._number}.{number >> 8}.{number % 256}", f"2001:db8:{self._number}::{number:x}"
        up, info_hash = self._random.randrange(1 << 30), self._random.choice(_INFO_HASHES)
        return Seen(
            number=number,
            ip=v4 if number % 4 else v6,
            port=1024 + number,
            info_hash=info_hash,
            first=now,
            last=now,
            up=up,
            down=5,
            earlier=up // 2,
        )

    def ban(self, at: int, peer: Seen) -> None:
        """Ban a peer."""
        self.bans.append(Banned(len(self.bans) + 1, at, peer, peer.up))

    def remember(self, count: int) -> None:
        """Bans of earlier years."""
        for number in range(count):
            at = START - (count - number) * 9 * 24 * HOUR
            self.ban(at, self._new(at))
            self.peers.append(self.bans[-1].peer)


# --- Clients ----------------------------------------------------------------------------------------------------------


class NoAnswer(Exception):
    """The connection broke; `arrived`: the server had answered by then."""

    def __init__(self, arrived: bool = False) -> None:
        super().__init__()
        self.arrived = arrived


class Client:
    """What all clients share: a clock, a timetable, a way to the server, and a ledger."""

    program: ClassVar[Program]
    retry_config: ClassVar[int] = 10 * MINUTE
    # How often the HTTP library itself sends a POST again when its connection breaks.
    transport_retries: ClassVar[int] = 0

    def __init__(self, server: RunningServer, app: App, number: int) -> None:
        self.server, self.app = server, app
        self.now = START
        self.sees = Downloader(number)
        self.active = True
        self.abilities: dict[str, Document] = {}
        self.due: dict[str, int] = {"config": START}
        self.revs: dict[str, str] = {}
        self.version = ""
        self.rules: clients.Ruleset | None = None
        self.denied: set[str] = set()
        # What shall happen to the next submissions: their answers get lost, or they are cut off right after sending.
        self.accidents: list[Literal["lost", "cut"]] = []
        self.answers: Counter[tuple[str, int | None]] = Counter()
        self.configured = 0
        # The ledger: rows that reached the server, the bans among them, and the last totals of each peer.
        self.snapshots: Counter[tuple[int, str, int]] = Counter()
        self.bans: set[tuple[str, int, int]] = set()
        self.totals: dict[tuple[str, str], tuple[int, int]] = {}
        self._random = Random(number)

    def run_until(self, end: int) -> None:
        """Do everything that is due until then."""
        while min(self.due.values()) <= end:
            name = min(self.due, key=self.due.__getitem__)
            # Nothing happens twice in the same millisecond: some cursors are times.
            self.now = max(self.now + 1, self.due[name])
            self.due[name] = self.now + self.pause(name)
            act: Callable[[], None] = getattr(self, f"do_{name}")
            act()

    def pause(self, name: str) -> int:
        """How long until an ability's next turn (ms)."""
        return int(self.abilities[name]["interval"]) if name in self.abilities else 10**12

    def identifier(self, peer: Seen) -> str:
        """A peer's torrent as this client names it."""
        return torrent_identifier(peer.info_hash, self.program.byte_order)

    def look(self) -> list[Seen]:
        """The peers that are connected now."""
        if self.active:
            self.sees.look(self.now)
        return self.sees.live if self.active else []

    # --- The network --------------------------------------------------------------------------------------------------

    def credentials(self) -> list[str]:
        """The lines that say who this is."""
        return credential_lines(self.program.transport, self.app.app_id, self.app.secret)

    def frame(self, body: bytes) -> tuple[list[str], bytes]:
        """The lines and bytes of a packed body."""
        if self.program.chunk:
            return ["Transfer-Encoding: chunked"], chunked(body, self.program.chunk)
        return [f"Content-Length: {len(body)}"], body

    def exchange(self, method: str, url: str, body: bytes | None = None, *more: str, accident: str = "") -> Answer:
        """One request on a new connection. Raises NoAnswer."""
        need(url.startswith(f"{BASE}/"), f"{url} is not absolute")
        lines = [
            f"{method} {url.removeprefix(BASE)} HTTP/1.1",
            "Host: btn.example",
            f"User-Agent: {self.program.agent}",
        ]
        lines += [*self.credentials(), *more]
        data = b""
        if body is not None:
            framing, data = self.frame(body)
            lines += framing
        try:
            with self.server.connect(self.app) as sock:
                self.send(sock, "\r\n".join([*lines, "", ""]).encode(), data)
                if accident == "lost":
                    need(select.select([sock], [], [], 15)[0], "no answer")
                if accident:
                    raise NoAnswer(accident == "lost")
                return _unpacked(read_answer(sock, method))
        except OSError as error:
            raise NoAnswer from error

    def send(self, sock: socket.socket, head: bytes, body: bytes) -> None:
        """Put a request on the wire."""
        sock.sendall(head + body)

    def get(self, name: str, url: str, *more: str) -> Answer | None:
        """A GET, None if nothing or no success came; counted under a name."""
        try:
            answer = self.exchange("GET", url, None, *more)
        except NoAnswer:
            self.answers[name, None] += 1
            return None
        self.answers[name, answer.status] += 1
        return answer if answer.status in (200, 204) else None

    def prove(self, name: str) -> tuple[str, ...]:
        """The lines that prove the work which an ability asks for."""
        return ()

    def submit(self, name: str, document: Document) -> Outcome:
        """POST rows, packed."""
        body = self.program.encode(document)
        # What the HTTP library sends again by itself is the same to the last byte, proof of work included.
        kind = () if "Content-Type: application/json" in self.credentials() else ("Content-Type: application/json",)
        more = (*kind, "Content-Encoding: gzip", *self.prove(name))
        arrived = False
        for _ in range(1 + self.transport_retries):
            accident = self.accidents.pop(0) if self.accidents else ""
            try:
                answer = self.exchange("POST", self.abilities[name]["endpoint"], body, *more, accident=accident)
            except NoAnswer as lost:
                self.answers[name, None] += 1
                arrived |= lost.arrived
                continue
            self.answers[name, answer.status] += 1
            return "accepted" if answer.status == 200 else "failed"
        return "lost" if arrived else "failed"

    # --- Configuration ------------------------------------------------------------------------------------------------

    def parse(self, body: bytes) -> clients.Configured:
        """What this client makes of the document."""
        raise NotImplementedError

    def first_turn(self, name: str, ability: Document) -> int:
        """When an ability begins (ms from now): after its interval, but rules soon."""
        soon = self._random.randrange(int(ability["random_initial_delay"]))
        return soon if name in ("rules", "exception") else int(ability["interval"]) + soon

    def do_config(self) -> None:
        """Fetch the configuration and start all over with it, or try again later."""
        answer = self.get("config", f"{BASE}/ping/config")
        if answer is None:
            self.due["config"] = self.now + self.retry_config
            return
        taken = self.parse(answer.body)
        document: Document = answer.json()["ability"]
        self.abilities = {name: document[name] for name in taken.abilities}
        self.version = self.abilities.get("reconfigure", {}).get("version", "")
        self.configured += 1
        self.due = {
            name: self.now + self.first_turn(name, ability)
            for name, ability in self.abilities.items()
            if name != "ip_query"
        }

    def fetch(self, name: str, first: str | None) -> Answer | None:
        """A document by its `rev`, at first `first`; None when it is unchanged or did not come."""
        rev = self.revs.get(name, first)
        url = self.abilities[name]["endpoint"] + ("" if rev is None else f"?rev={rev}")
        answer = self.get(name, url, *self.prove(name))
        if answer is None:
            return None
        # Without a set of its own PeerBanHelper fails on 204.
        need(answer.status == 200 or name in self.revs, f"204 to a client without {name}")
        return answer if answer.status == 200 else None

    # --- The ledger ---------------------------------------------------------------------------------------------------

    def note_snapshots(self, at: int, peers: Iterable[Seen]) -> None:
        """These rows reached the server."""
        self.snapshots.update((at, peer.ip, peer.up) for peer in peers)

    def all_bans(self) -> set[tuple[str, int, int]]:
        """The bans that there were, as the ledger notes them."""
        return {(ban.peer.ip, ban.peer.port, ban.up) for ban in self.sees.bans}

    def note_bans(self, bans: Iterable[Banned]) -> None:
        """These bans reached the server; a legacy one has no time of its own."""
        self.bans.update((ban.peer.ip, ban.peer.port, ban.up) for ban in bans)

    def note_totals(self, peers: Iterable[Seen]) -> None:
        """These totals reached the server."""
        self.totals.update({(peer.ip, self.identifier(peer)): (peer.up, peer.down) for peer in peers})


def _unpacked(answer: Answer) -> Answer:
    if answer.headers.get("content-encoding") != "gzip":
        return answer
    return answer._replace(body=gzip.decompress(answer.body))


def _ban(ban: Banned, why: rows.Why) -> rows.Ban:
    """A ban as the simulation writes it: of the peer with the traffic that it had then."""
    return rows.Ban(ban.number, ban.at, transfer(ban.peer, ban.up), why)


class PeerBanHelper(Client):
    """What all PeerBanHelper share."""

    protocol: ClassVar[int]

    def parse(self, body: bytes) -> clients.Configured:
        return clients.pbh_config(body, self.protocol)

    def do_reconfigure(self) -> None:
        """Look at the configuration again; with another version, fetch it once more and start all over."""
        answer = self.get("reconfigure", f"{BASE}/ping/config")
        if answer and answer.json()["ability"]["reconfigure"]["version"] != self.version:
            self.do_config()


class LegacyPeerBanHelper(PeerBanHelper):
    """PeerBanHelper 7.1.5: the JDK's client, which offers h2c; bans and histories again until they are accepted."""

    program = PROGRAMS["PeerBanHelper 7.1.5"]
    protocol = 8

    def __init__(self, server: RunningServer, app: App, number: int) -> None:
        super().__init__(server, app, number)
        self._bans_until = self._histories_until = 0

    def do_submit_peers(self) -> None:
        """All peers; what is not accepted is dropped."""
        peers = self.look()
        document = {"populate_time": self.now, "peers": [self._snapshot(peer) for peer in peers]}
        if self.submit("submit_peers", document) != "failed":
            self.note_snapshots(self.now, peers)

    def do_submit_bans(self) -> None:
        """The bans since the last accepted report."""
        bans = [ban for ban in self.sees.bans if ban.at > self._bans_until]
        outcome = self.submit("submit_bans", {"populate_time": self.now, "bans": [self._ban(ban) for ban in bans]})
        if outcome != "failed":
            self.note_bans(bans)
        if outcome == "accepted":
            self._bans_until = max((ban.at for ban in bans), default=self._bans_until)

    def _snapshot(self, peer: Seen) -> Document:
        return rows.snapshot(self.program, transfer(peer))

    def _ban(self, ban: Banned) -> Document:
        return rows.ban(self.program, _ban(ban, "identity"), self.app.app_id, modern=False)

    def do_submit_histories(self) -> None:
        """What changed since the last accepted report, newest first."""
        peers = sorted((p for p in self.sees.peers if p.last > self._histories_until), key=lambda p: -p.last)
        told = [rows.history(self.program, transfer(peer)) for peer in peers[:10_000]]
        outcome = self.submit("submit_histories", {"populate_time": self.now, "peers": told})
        if outcome != "failed":
            self.note_totals(peers)
        if outcome == "accepted":
            self._histories_until = max((peer.last for peer in peers), default=self._histories_until)

    def do_rules(self) -> None:
        """The rules, kept in a file with their version."""
        if answer := self.fetch("rules", "initial"):
            self.rules = clients.pbh_rules(answer.body, before_7=self.protocol < 8)
            self.revs["rules"] = self.rules.version


class OldPeerBanHelper(LegacyPeerBanHelper):
    """PeerBanHelper 6.4.8: no histories, and one port rule switches off all of its rules."""

    program = PROGRAMS["PeerBanHelper 6.4.8"]
    protocol = 7


class OkHttpPeerBanHelper(LegacyPeerBanHelper):
    """PeerBanHelper 9.1.5: the same shapes over OkHttp, which sends a request again when its connection breaks."""

    program = PROGRAMS["PeerBanHelper 9.1.5"]
    protocol = 13
    transport_retries = 1


class _Pages(Client):
    """Clients with a cursor: the same page again and again until it is accepted."""

    ban_page: ClassVar[int] = 100
    swarm_page: ClassVar[int] = 1000
    # Whether a peer that has grown is sent again; else each is sent once.
    by_time: ClassVar[bool] = False

    def __init__(self, server: RunningServer, app: App, number: int) -> None:
        super().__init__(server, app, number)
        self._ban_cursor = self._swarm_cursor = 0
        self.sees.remember(230)

    def ban(self, ban: Banned) -> Document:
        """A row of a ban."""
        return rows.ban(self.program, _ban(ban, "difference"), self.app.app_id, modern=True)

    def swarm(self, peer: Seen) -> Document:
        """A row of a peer's totals."""
        return rows.swarm(self.program, transfer(peer))

    def one_page_of_bans(self) -> bool:
        """Send the next page of bans; whether there may be more."""
        page = [ban for ban in self.sees.bans if ban.number > self._ban_cursor][: self.ban_page]
        if not page:
            return False
        outcome = self.submit("submit_bans", {"bans": [self.ban(ban) for ban in page]})
        if outcome != "failed":
            self.note_bans(page)
        if outcome == "accepted":
            self._ban_cursor = page[-1].number
        return outcome == "accepted"

    def one_page_of_swarms(self) -> bool:
        """Send the next page of totals; whether there may be more."""
        key: Callable[[Seen], int] = (lambda peer: peer.last) if self.by_time else (lambda peer: peer.number)
        found = sorted((peer for peer in self.sees.peers if key(peer) > self._swarm_cursor), key=key)
        page = found[: self.swarm_page]
        if not page:
            return False
        outcome = self.submit("submit_swarm", {"swarms": [self.swarm(peer) for peer in page]})
        if outcome != "failed":
            self.note_totals(page)
        if outcome == "accepted":
            self._swarm_cursor = key(page[-1])
        return outcome == "accepted"


class ModernPeerBanHelper(_Pages, PeerBanHelper):
    """PeerBanHelper 9.5.0: protocol 20, page after page, each peer's totals once."""

    program = PROGRAMS["PeerBanHelper 9.5.0"]
    protocol = 20

    def __init__(self, server: RunningServer, app: App, number: int) -> None:
        super().__init__(server, app, number)
        self._challenges = ""

    def parse(self, body: bytes) -> clients.Configured:
        # Once told, the address is kept until the next start.
        self._challenges = clients.load(body).get("proof_of_work_captcha", {}).get("endpoint", self._challenges)
        return super().parse(body)

    def prove(self, name: str) -> tuple[str, ...]:
        if not self.abilities[name].get("pow_captcha"):
            return ()
        session = self.get("captcha", f"{self._challenges}?type={name}")
        # Without a challenge the request is sent as it is.
        return tuple(map(": ".join, zip(PROOF, solve(session.json()), strict=True))) if session else ()

    def first_turn(self, name: str, ability: Document) -> int:
        soon = self._random.randrange(int(ability["random_initial_delay"]))
        return soon + (int(ability["interval"]) if name == "reconfigure" else 0)

    def do_config(self) -> None:
        """At a start two further requests follow the first at once."""
        if not self.configured:
            for _ in range(2):
                self.get("config", f"{BASE}/ping/config")
        super().do_config()

    def do_submit_bans(self) -> None:
        """Every ban since the beginning of the database, page by page."""
        while self.one_page_of_bans():
            pass

    def do_submit_swarm(self) -> None:
        """Every peer, page by page."""
        self.look()
        while self.one_page_of_swarms():
            pass

    def do_rule_peer_identity(self) -> None:
        """The rules without addresses."""
        if answer := self.fetch("rule_peer_identity", "initial"):
            self.rules = clients.pbh_rules(answer.body)
            need(not self.rules.networks, "addresses among the identities")
            self.revs["rule_peer_identity"] = self.rules.version

    def do_ip_denylist(self) -> None:
        """The addresses to ban, by the version in the header."""
        if answer := self.fetch("ip_denylist", "initial"):
            self.denied = {str(network) for network, reason in clients.address_list(answer.body) if reason}
            self.revs["ip_denylist"] = answer.headers.get("x-btn-contentversion", "unknown")

    def do_ip_allowlist(self) -> None:
        """The addresses never to ban."""
        if answer := self.fetch("ip_allowlist", "initial"):
            clients.address_list(answer.body)
            self.revs["ip_allowlist"] = answer.headers.get("x-btn-contentversion", "unknown")

    def do_heartbeat(self) -> None:
        """One for each address of the machine."""
        for address in ("192.168.1.10", "fe80:0:0:0:215:5dff:fe01:203%eth0"):
            _heartbeat(self, address)

    def query(self, address: str) -> Document:
        """Open the panel of an address."""
        url = f"{self.abilities['ip_query']['endpoint']}?ip={quote(address, safe='')}"
        answer = self.exchange("GET", url, None, *self.prove("ip_query"))
        need(answer.status == 200, f"{answer}")
        return panel(answer.body)


class GrowingPeerBanHelper(ModernPeerBanHelper):
    """PeerBanHelper 9.2.5: larger pages of bans, and a peer's totals again whenever they have grown."""

    program = PROGRAMS["PeerBanHelper 9.2.5"]
    ban_page = 500
    swarm_page = 500
    by_time = True


class PeerBanHelperRS(ModernPeerBanHelper):
    """PeerBanHelper-RS: as PeerBanHelper, but it solves nothing."""

    program = PROGRAMS["PeerBanHelper-RS 0.4"]

    def parse(self, body: bytes) -> clients.Configured:
        taken = super().parse(body)
        need(not any("pow_captcha" in ability for ability in taken.abilities.values()), "it never solves a proof")
        return taken


def _heartbeat(client: Client, address: str) -> None:
    body = json.dumps({"ifaddr": address}, separators=(",", ":")).encode()
    lines = ("Content-Type: application/json; charset=utf-8", f"Content-Length: {len(body)}")
    try:
        with client.server.connect(client.app) as sock:
            path = client.abilities["heartbeat"]["endpoint"].removeprefix(BASE)
            head = [f"POST {path} HTTP/1.1", "Host: btn.example", f"User-Agent: {client.program.agent}"]
            said = [line for line in client.credentials() if not line.lower().startswith("content-type")]
            sock.sendall("\r\n".join([*head, *said, *client.prove("heartbeat"), *lines, "", ""]).encode() + body)
            answer = read_answer(sock)
    except OSError:
        client.answers["heartbeat", None] += 1
        return
    client.answers["heartbeat", answer.status] += 1
    need(answer.json()["external_ip"] == (client.app.source or "127.0.0.1"), "another address")


class Rust(_Pages):
    """PeerBanHelper-Rust: everything at once at the start and every hour anew, one page a turn, totals in two parts."""

    program = PROGRAMS["PeerBanHelper-Rust 0.1.4"]
    by_time = True

    def parse(self, body: bytes) -> clients.Configured:
        return clients.rust_config(body)

    def pause(self, name: str) -> int:
        return HOUR if name == "config" else super().pause(name)

    def first_turn(self, name: str, ability: Document) -> int:
        return 0

    def do_config(self) -> None:
        """Every hour, forgetting the timers and all revs."""
        super().do_config()
        self.revs.clear()
        self.due.setdefault("config", self.now + HOUR)

    def _list(self, name: str) -> bytes | None:
        answer = self.fetch(name, "")
        if answer is None:
            return None
        self.revs[name] = answer.headers.get("x-btn-contentversion", "")
        return answer.body

    def do_submit_bans(self) -> None:
        """One page at a time."""
        self.one_page_of_bans()

    def do_submit_swarm(self) -> None:
        """One page at a time."""
        self.look()
        self.one_page_of_swarms()

    def do_rule_peer_identity(self) -> None:
        """The rules without addresses."""
        if body := self._list("rule_peer_identity"):
            self.rules = clients.rust_rules(body)

    def do_ip_denylist(self) -> None:
        """The addresses to ban."""
        body = self._list("ip_denylist")
        if body is not None:
            self.denied = rust_list(body)

    def do_ip_allowlist(self) -> None:
        """The addresses never to ban."""
        self._list("ip_allowlist")

    def do_heartbeat(self) -> None:
        """One, of no particular address."""
        _heartbeat(self, "default")


class LibreTorrent(ModernPeerBanHelper):
    """LibreTorrentEE: protocol 20 on a phone, of a rule only method and content, totals in two parts."""

    program = PROGRAMS["LibreTorrentEE 4.1.1"]

    def parse(self, body: bytes) -> clients.Configured:
        super().parse(body)
        return clients.libretorrent_config(body, self.protocol)

    def do_rule_peer_identity(self) -> None:
        """The rules without addresses."""
        if answer := self.fetch("rule_peer_identity", "initial"):
            self.rules = clients.method_rules(answer.body)
            self.revs["rule_peer_identity"] = self.rules.version


class ClientBlocker(Client):
    """qBittorrent-ClientBlocker: polls the configuration, sends its full state each time, keeps no account of it."""

    program = PROGRAMS["qBittorrent-ClientBlocker 3.8"]
    retry_config = MINUTE

    def __init__(self, server: RunningServer, app: App, number: int) -> None:
        super().__init__(server, app, number)
        self._sent: dict[int, tuple[int, int]] = {}
        # Who is banned, by address and port, and the ban that began it.
        self._blocked: dict[tuple[str, int], Banned] = {}

    def parse(self, body: bytes) -> clients.Configured:
        return clients.qbcb_config(body)

    def do_config(self) -> None:
        """Every minute in truth; each half hour shows as much. Its timers go on."""
        due = {name: at for name, at in self.due.items() if name != "config"}
        super().do_config()
        self.due.update(due)
        self.due["config"] = self.now + (30 * MINUTE if self.configured else MINUTE)

    def do_reconfigure(self) -> None:
        """Asks the endpoint whether its version is still the one."""
        answer = self.get("reconfigure", f"{self.abilities['reconfigure']['endpoint']}?rev={self.version}")
        if answer and answer.status == 200:
            self.do_config()

    def do_submit_peers(self) -> None:
        """All peers, with a time in whole seconds."""
        peers, at = self.look(), self.now // 1000 * 1000
        told = [rows.snapshot(self.program, transfer(peer)) for peer in peers]
        if self.submit("submit_peers", {"populate_time": at, "peers": told}) != "failed":
            self.note_snapshots(at, peers)

    def do_submit_bans(self) -> None:
        """Everybody who was ever banned, each time; whoever is banned already isn't banned once more."""
        for ban in self.sees.bans:
            self._blocked.setdefault((ban.peer.ip, ban.peer.port), ban)
        bans = list(self._blocked.values())
        document = {"populate_time": self.now // 1000 * 1000, "bans": [self._ban(ban) for ban in bans]}
        if self.submit("submit_bans", document) != "failed":
            self.note_bans(bans)

    def all_bans(self) -> set[tuple[str, int, int]]:
        return {(ban.peer.ip, ban.peer.port, ban.up) for ban in self._blocked.values()}

    def _ban(self, ban: Banned) -> Document:
        return rows.ban(self.program, _ban(ban, "identity"), self.app.app_id, modern=False)

    def do_submit_histories(self) -> None:
        """All peers, with what was added since the last turn; each as if seen just now."""
        peers, told = list(self.sees.peers), []
        for peer in peers:
            up, down = self._sent.get(peer.number, (0, 0))
            added = (peer.up - up, peer.down - down)
            told.append(rows.history(self.program, transfer(peer), added=added, now_ms=self.now))
            self._sent[peer.number] = peer.up, peer.down
        if self.submit("submit_histories", {"populate_time": self.now // 1000 * 1000, "peers": told}) != "failed":
            self.note_totals(peers)

    def do_rules(self) -> None:
        """No rev at first; only in memory."""
        if answer := self.fetch("rules", None):
            self.rules = clients.qbcb_rules(answer.body)
            self.revs["rules"] = self.rules.version

    def do_exception(self) -> None:
        """The exceptions, likewise."""
        if answer := self.fetch("exception", None):
            self.revs["exception"] = clients.qbcb_rules(answer.body).version


class BitComet(Client):
    """BTNScriptBC: a PowerShell script; UTF-16 behind `Expect: 100-continue`, and what is not accepted is dropped."""

    program = PROGRAMS["BTNScriptBC 0.1.7"]

    def parse(self, body: bytes) -> clients.Configured:
        return clients.bitcomet_config(body)

    def send(self, sock: socket.socket, head: bytes, body: bytes) -> None:
        if not body:
            sock.sendall(head)
            return
        sock.sendall(head[:-2] + b"Expect: 100-continue\r\n\r\n")
        need(sock.recv(100).startswith(b"HTTP/1.1 100 "), "no 100")
        sock.sendall(body)

    def do_submit_peers(self) -> None:
        """All peers."""
        peers = self.look()
        document = {"populate_time": self.now, "peers": [rows.snapshot(self.program, transfer(peer)) for peer in peers]}
        if self.submit("submit_peers", document) != "failed":
            self.note_snapshots(self.now, peers)

    def do_rules(self) -> None:
        """An empty body means unchanged."""
        answer = self.fetch("rules", None)
        if answer and answer.body:
            self.rules = clients.bitcomet_rules(answer.body)
            self.revs["rules"] = self.rules.version

    def do_reconfigure(self) -> None:
        """Fetches the configuration; plans anew only where an interval has changed."""
        answer = self.get("reconfigure", f"{BASE}/ping/config")
        if answer is None or answer.json()["ability"]["reconfigure"]["version"] == self.version:
            return
        before, due = self.abilities, self.due
        self.do_config()
        for name, ability in self.abilities.items():
            if ability["interval"] == before[name]["interval"]:
                self.due[name] = due[name]


FAMILIES: tuple[type[Client], ...] = (
    OldPeerBanHelper,
    LegacyPeerBanHelper,
    OkHttpPeerBanHelper,
    ModernPeerBanHelper,
    GrowingPeerBanHelper,
    ClientBlocker,
    Rust,
    PeerBanHelperRS,
    LibreTorrent,
    BitComet,
)
