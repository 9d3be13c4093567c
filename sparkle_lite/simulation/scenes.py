"""What the people of a demo's week do besides running their clients: every page has something to tell of it.

Addresses that are named by hand are of the ranges for documentation and for benchmarks, which are nobody's.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.secrets import Credentials
from sparkle_lite.clock import now_ms
from sparkle_lite.config import ImportEntry
from sparkle_lite.db.orders import Position
from sparkle_lite.net import Network, address_text, parse_network
from sparkle_lite.rules.decisions import Decision, DecisionFilter
from sparkle_lite.rules.imports import ImportOrder
from sparkle_lite.rules.reviews import Request
from sparkle_lite.server import Server
from sparkle_lite.simulation.client import Account, Client
from sparkle_lite.simulation.connection import Connection
from sparkle_lite.simulation.programs import PROGRAMS, chunked, credential_lines, head_bytes
from sparkle_lite.simulation.rows import Document
from sparkle_lite.simulation.world import World
from sparkle_lite.units import DAY_MS, HOUR_MS

# Whose clients they are, in the order of the world's people; the banned one is the last.
_NAMES = ("Ada", "Boris", "小雨", "Dilara", "Emil", "Farid", "Grace", "Mallory")
_PLACES = ("NAS", "desktop", "seedbox", "Raspberry Pi")
# The week is played in so many steps of about an hour; how many of them lie between two of the faulty client.
STEPS = 7 * 24
_FAULTY_EVERY = 5
_LIST = "neighbours"
_OWN_AGENT = "my-first-client/0.1 BTN-Protocol/2.0.1 BTN-Protocol-Version/20"


@dataclass(kw_only=True)
class Stage:
    """Who is there, and what they act with: `admin` is who decides, `clients` are those that still run."""

    server: Server
    world: World
    connection: Connection
    admin: Actor
    users: Mapping[str, int]
    clients: list[Client]
    faulty: Credentials

    @classmethod
    async def set(cls, server: Server, world: World, connection: Connection, developer: Credentials) -> "Stage":
        """Make the accounts: an application for each client of the world, one for a developer, one that is faulty."""
        await server.accounts.note_told()
        await server.settings.note_welcomed()
        owner = await server.users.named("admin")
        admin = Actor.of(owner, "127.0.0.1", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        (first,) = await server.apps.all(owner.id)
        await server.apps.delete(first.app_id, admin)
        users: dict[str, int] = {}
        clients: list[Client] = []
        for name, person in zip(_NAMES, world.people, strict=True):
            users[name] = (await server.users.add(name, "user", admin)).id
            for installation in person.installations:
                place = _PLACES[len(clients) % len(_PLACES)]
                made = await server.apps.add(users[name], f"{installation.program.name} ({place})", admin)
                account = Account(made.userapp.app_id, made.secret)
                clients.append(Client(world, person, installation, account, connection))
        await server.apps.add_known(owner.id, "The client that you develop", developer, admin)
        await server.accounts.feed_keys.add(owner.id, "qBittorrent on the NAS", admin)
        await server.accounts.feed_keys.add(users["Farid"], "Router", admin)
        faulty = await server.apps.add(users["Farid"], "My first client, in the works", admin)
        return cls(
            server=server,
            world=world,
            connection=connection,
            admin=admin,
            users=users,
            clients=clients,
            faulty=Credentials(faulty.userapp.app_id, faulty.secret),
        )

    async def post(self, path: str, lines: list[str], document: Document, address: str) -> None:
        """Send a document with these lines of a head, from an address."""
        body = json.dumps(document).encode()
        head = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"X-Forwarded-For: {address}", *lines]
        head += ["Content-Type: application/json", "Transfer-Encoding: chunked"]
        await self.connection.exchange(head_bytes(head) + chunked(body))

    async def listed(self) -> list[Decision]:
        """What the votes list now, the newest first, and behind it what is imported: some weeks have few votes."""
        found = []
        for origin in ("untrusted_vote", f"import:{_LIST}"):
            wanted = DecisionFilter("deny", "active", origin)
            found += (await self.server.decisions.page(wanted, Position(), 50))[0]
        return found


Scene = Callable[[Stage], Awaitable[None]]


async def play_scenes(stage: Stage, step: int) -> None:
    """What happens beside the clients' reports in a step of the week."""
    if step % _FAULTY_EVERY == 0:
        await send_faulty_rows(stage)
    if step in _SCENES:
        await _SCENES[step](stage)


# --- Clients of another kind ------------------------------------------------------------------------------------------


async def send_faulty_rows(stage: Stage) -> None:
    """A client that is being written: its histories are good, and of its snapshots none is."""
    peer: Document = {"ip_address": "203.0.113.11", "peer_id": "-TR4060-", "client_name": "Transmission 4.0.6"}
    peer |= {"torrent_identifier": "f" * 64, "torrent_size": 734003200, "uploaded": 1 << 20, "downloaded": 0}
    at = now_ms()
    history = peer | {"downloaded_offset": 0, "first_time_seen": at - HOUR_MS, "last_time_seen": at}
    snapshot = peer | {"peer_port": 51413, "peer_progress": 0.5}
    documents = {
        "/ping/histories/submit": {"populate_time": at, "peers": [history]},
        "/ping/peers/submit": {
            "populate_time": at,
            "peers": [snapshot | {"ip_address": f"192.168.1.{number}"} for number in (20, 21, 22)],
        },
    }
    lines = [f"User-Agent: {_OWN_AGENT}", *credential_lines("powershell", *stage.faulty)]
    for path, document in documents.items():
        await stage.post(path, lines, document, "198.51.100.23")


async def _send_anonymously(stage: Stage) -> None:
    """A client without credentials: it has the id of its installation alone."""
    agent = PROGRAMS["PeerBanHelper 9.5.0"].agent
    lines = [f"User-Agent: {agent}", "X-BTN-InstallationID: 6f1d2c1e-0d5e-4a60-9c54-6c1a3e5b7f20"]
    row = {"ip_address": "203.0.113.40", "peer_port": 6881, "peer_id": "-qB5020-", "client_name": "qBittorrent/5.0.2"}
    row |= {"torrent_identifier": "e" * 64, "torrent_size": 4 << 30, "uploaded": 5 << 20, "peer_progress": 0.25}
    await stage.post("/ping/peers/submit", lines, {"populate_time": now_ms(), "peers": [row]}, "198.51.100.81")


async def _fall_silent(stage: Stage) -> None:
    """Somebody's client is switched off, and nobody notices."""
    stage.clients.pop(1)


# --- What administrators do -------------------------------------------------------------------------------------------


async def _sign_in_everybody(stage: Stage) -> None:
    for user in stage.users.values():
        row = await stage.server.users.get(user)
        await stage.server.sessions.sign_in(row, "login link")


async def _deny_by_hand(stage: Stage) -> None:
    decisions, admin = stage.server.decisions, stage.admin
    await decisions.deny("ip", "203.0.113.66", "sends pieces that fail their hash check", 30 * DAY_MS, admin)
    await decisions.deny("ip", "198.51.100.77", "asked Emil for one torrent 400 times in a night", None, admin)
    await decisions.deny("client_name", "GreedyTorrent", "uploads nothing by design", None, admin)


async def _withdraw_one(stage: Stage) -> None:
    decision = await stage.server.decisions.deny("ip", "203.0.113.9", "a typing error", 7 * DAY_MS, stage.admin)
    await stage.server.decisions.withdraw(decision.id, stage.admin)


async def _import_list(stage: Stage) -> None:
    await _replace_list(stage, 40)


async def _import_newer_list(stage: Stage) -> None:
    await _replace_list(stage, 48)


async def _replace_list(stage: Stage, count: int) -> None:
    """A list of others: most of what was on it before, and some more."""
    random = Random(11)
    networks: list[Network] = []
    for number in range(count):
        octets = f"198.{18 + number % 2}.{random.randrange(256)}"
        networks.append(parse_network(f"{octets}.0/24" if number % 4 == 0 else f"{octets}.{random.randrange(1, 255)}"))
    body = "".join(f"{network}\n" for network in networks[count - 40 :])
    entry = ImportEntry(name=_LIST, file=f"{_LIST}.txt")
    order = ImportOrder(entry, stage.admin, by_hand=True, lifetime_ms=30 * DAY_MS, body=body.encode())
    await stage.server.imports.run(order)


async def _except_some(stage: Stage) -> None:
    """Exceptions: one covers what is listed by hand, which is withheld from then on."""
    decisions, admin = stage.server.decisions, stage.admin
    await decisions.allow("ip", "198.51.100.64/27", "the university's mirror", None, admin)
    await decisions.allow("ip", "2001:db8:77::/48", "Grace's seedboxes", 90 * DAY_MS, admin)


async def _pardon(stage: Stage) -> None:
    for decision in (await stage.listed())[:1]:
        note = "a neighbour of Ada; their client counted wrongly and is mended now"
        await stage.server.decisions.pardon(str(decision.network), note, stage.admin)


async def _ban_mallory(stage: Stage) -> None:
    """Somebody reported honest peers: their clients are refused from now on."""
    await stage.server.users.ban(stage.users["Mallory"], "reported her rivals' seedboxes as cheaters", stage.admin)
    person = stage.world.people[len(_NAMES) - 1]
    stage.clients[:] = [client for client in stage.clients if client.person is not person]


async def _hold_members(stage: Stage) -> None:
    """Addresses of members wait for review, whoever lists them; one was refused already."""
    decisions = stage.server.decisions
    stable = sorted(stage.world.people, key=lambda person: not person.line.is_stable)
    lines = [person.line.address(now_ms()) for person in stable[:3]]
    for address in lines:
        decision = await decisions.deny("ip", address, "seems to upload nothing", 30 * DAY_MS, stage.admin)
        if address == lines[0] and decision.state == "held":
            await decisions.refuse(decision.id, stage.admin)


async def _ask_for_a_look(stage: Stage) -> None:
    """Visitors and members ask about listed addresses; the first was answered already."""
    reviews, listed = stage.server.reviews, await stage.listed()
    messages = (
        ("I have a dynamic address since yesterday; whoever had it before was not me.", "mail@example.org"),
        ("这是我家的地址，客户端已经换成官方版本，请再看一下。", ""),
        ("Our whole dormitory shares this exit, please list single ports instead.", "@dorm:example.org"),
    )
    for number, (decision, (message, contact)) in enumerate(zip(listed[1:], messages, strict=False)):
        assert decision.network is not None
        address = decision.network.address
        own = Actor(None, False, address_text(address), "Mozilla/5.0")
        member = Actor(stage.users["Grace"], False, "198.51.100.12", "Mozilla/5.0")
        await reviews.ask(
            Request(address=address, listed=True, message=message, contact=contact), own if number != 1 else member
        )
    for review in (await reviews.page(True, Position(), 10))[-1:]:
        await reviews.close(review.id, "looked at it: several people were cheated, so it stays", stage.admin)


_SCENES: Mapping[int, Scene] = {
    2: _sign_in_everybody,
    9: _deny_by_hand,
    22: _import_list,
    31: _send_anonymously,
    40: _withdraw_one,
    57: _except_some,
    70: _fall_silent,
    98: _pardon,
    106: _ban_mallory,
    121: _import_newer_list,
    139: _hold_members,
    147: _send_anonymously,
    150: _ask_for_a_look,
}
