"""Every key: a struct for each table, a field for each key.

A field's name is its key, its annotation carries the bounds, and the struct's default is the key's default. What a
running server can take over stands here too.
"""

import functools
import typing
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from sparkle_lite.config.values import (
    Check,
    Duration,
    ListURL,
    Secret,
    Size,
    between,
    breadths,
    category_name,
    category_or_empty,
    file_name,
    folder_name,
    host_name,
    key_length,
    list_name,
    list_url,
    no_line_breaks,
    url,
    url_or_empty,
)
from sparkle_lite.net import Network, parse_network
from sparkle_lite.units import DAY_MS, HOUR_MS, KIB, MIB, MINUTE_MS, SECOND_MS

RuleType = Literal["ip", "port", "peer_id", "client_name", "script"]


# qBittorrent-ClientBlocker reads both times of an ability as uint32 milliseconds and rejects the whole document beyond.
_UINT32 = Duration(0xFFFF_FFFF)
_NEVER_RUNS = ": clients never run such an ability"
_SECOND = Duration(SECOND_MS)
# How long an address is a member's after a client came from there: no rule lists it, and it is kept at least so long.
MEMBER_MS = Duration(14 * DAY_MS)

Interval = Annotated[Duration, between(_SECOND, _UINT32, _NEVER_RUNS)]
# PeerBanHelper draws a random number below it, which throws for 0.
InitialDelay = Annotated[Duration, between(Duration(1), _UINT32, _NEVER_RUNS)]
Patience = Annotated[Duration, between(Duration(1), Duration(HOUR_MS))]
Age = Annotated[Duration, between(_SECOND)]
Bytes = Annotated[Size, between(Size(KIB))]


class ServerSection(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server listens and how it is reached."""

    host: Annotated[str, host_name] = "127.0.0.1"
    port: Annotated[int, between(0, 65535)] = 7799
    public_url: Annotated[str, url_or_empty] = ""
    trusted_proxies: tuple[Network, ...] = ()
    log_format: Literal["auto", "text", "json"] = "auto"


class DatabaseSection(msgspec.Struct, frozen=True, kw_only=True):
    """The main database file; `folder` is no key but the folder that a relative `path` starts from."""

    path: Annotated[str, file_name] = "data/sparkle.db"
    synchronous: Literal["full", "normal"] = "full"
    folder: Path = Path()

    @property
    def file(self) -> Path:
        """The absolute path of the main database."""
        return (self.folder / self.path).resolve()


class GitHubSection(msgspec.Struct, frozen=True, kw_only=True):
    """Login with GitHub; on when both credentials are set."""

    client_id: str = ""
    client_secret: Secret = Secret()
    authorize_url: Annotated[str, url] = "https://github.com/login/oauth/authorize"
    token_url: Annotated[str, url] = "https://github.com/login/oauth/access_token"  # noqa: S105 - a URL, no token
    api_url: Annotated[str, url] = "https://api.github.com"


class AuthSection(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions, applications and login; an empty `jwt_secret` is made on first start and kept in the database."""

    session_lifetime: Annotated[Duration, between(Duration(MINUTE_MS), Duration(3650 * DAY_MS))] = Duration.parse("30d")
    max_apps_per_user: Annotated[int, between(0, 1_000_000)] = 10
    anonymous_apps: bool = False
    jwt_secret: Annotated[Secret, key_length] = Secret()
    github: GitHubSection = GitHubSection()


class Ability(msgspec.Struct, frozen=True, kw_only=True):
    """When clients do one thing; the config document that they fetch is built from these."""

    enabled: bool = True
    interval: Interval = Duration.parse("15m")
    random_initial_delay: InitialDelay = Duration.parse("5m")


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """One Ability for each name of the protocol."""

    submit_peers: Ability = Ability()
    submit_bans: Ability = Ability()
    submit_histories: Ability = Ability()
    submit_swarm: Ability = Ability()
    rules: Ability = Ability()
    exception: Ability = Ability()
    reconfigure: Ability = Ability(interval=Duration.parse("3h"))
    rule_peer_identity: Ability = Ability()
    ip_denylist: Ability = Ability()
    ip_allowlist: Ability = Ability()
    heartbeat: Ability = Ability(interval=Duration.parse("1h"))
    ip_query: Ability = Ability()


ProvableAbility = Literal[
    "submit_bans", "submit_swarm", "rule_peer_identity", "ip_denylist", "ip_allowlist", "heartbeat", "ip_query"
]


class ProofOfWorkSection(msgspec.Struct, frozen=True, kw_only=True):
    """Work that PeerBanHelper 9.2+ and LibreTorrentEE must do before a request; others can't, and are never asked."""

    abilities: tuple[ProvableAbility, ...] = ()
    difficulty_bits: Annotated[int, between(1, 32)] = 18
    lifetime: Annotated[Duration, between(Duration(10 * SECOND_MS), Duration(HOUR_MS))] = Duration.parse("10m")


class BtnSection(msgspec.Struct, frozen=True, kw_only=True):
    """What clients are offered; `prefer_legacy` keeps modern PeerBanHelper on the legacy shapes."""

    prefer_legacy: bool = False
    proof_of_work: ProofOfWorkSection = ProofOfWorkSection()
    abilities: Abilities = Abilities()


class RuleEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One [[rules]] or [[exceptions]] table; what `content` (as written) means is read by rules/operator.py.

    `expires` is in UTC. A time without an offset is taken as UTC, a date alone as its first moment in UTC.
    """

    type: RuleType
    category: Annotated[str, category_name]
    content: tuple[str | int | dict[str, Any], ...]
    expires: datetime | None = None


ListFormat = Literal["auto", "cidr", "dat", "p2p", "csv", "sparkle"]
# Networks up to so wide are taken over from a list that says nothing else: prefix lengths of IPv4 and IPv6.
WIDEST = (16, 48)
# Another server is asked at least so often: what it decided ends after a week in which it isn't heard of.
LONGEST_PULL_MS = Duration(3 * DAY_MS)


class ImportEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One [[imports]] table: somebody else's list, where it is and how it is read.

    `url` are tried in order; `file` starts from `folder`, the one of the configuration. `widest` are the prefix lengths
    (IPv4, IPv6) of the widest networks that are taken over. `credit` is shown wherever the list is.
    """

    name: Annotated[str, list_name]
    url: Annotated[tuple[ListURL, ...], list_url] = ()
    file: str = ""
    interval: Annotated[Duration, between(Duration(MINUTE_MS), Duration(365 * DAY_MS))] = Duration.parse("6h")
    format: ListFormat = "auto"
    category: Annotated[str, category_or_empty] = ""
    widest: Annotated[tuple[int, ...], breadths] = WIDEST
    weight: Literal["list", "support"] = "list"
    allow_private: bool = False
    app_id: str = ""
    app_secret: Secret = Secret()
    trust: Literal["support", "create"] = "support"
    enabled: bool = True
    credit: Annotated[str, no_line_breaks] = ""
    folder: Path = Path()

    @property
    def path(self) -> Path:
        """The absolute path of `file`."""
        return (self.folder / self.file).resolve()

    @property
    def shown_category(self) -> str:
        """What clients call its rules."""
        return self.category or self.name

    @property
    def supports_only(self) -> bool:
        """Whether it lists nothing by itself."""
        return (self.trust if self.format == "sparkle" else self.weight) == "support"


Preset = Literal["solo", "friends", "tracker", "public"]
# On, off, or as the preset has it.
PresetSwitch = bool | Literal["preset"]


class AnalysisSection(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds for the size of the circle, and whose word counts.

    Each analysis declares a table of its own, by its name; analyses/registry.py adds them.
    """

    preset: Preset = "friends"
    account_age: Annotated[Duration, between(Duration(0), Duration(3650 * DAY_MS))] = Duration.parse("7d")
    active_days: Annotated[int, between(0, 365)] = 3
    min_harm: Annotated[Size, between(Size(1), or_zero=True)] = Size(0)
    private_torrents: Literal["preset", "count", "ignore"] = "preset"


class FeedsSection(msgspec.Struct, frozen=True, kw_only=True):
    """Who may read the feeds."""

    open: PresetSwitch = "preset"

    def is_open(self, preset: Preset) -> bool:
        """Whether everyone may, or only who shows credentials or a feed key."""
        return preset in ("tracker", "public") if self.open == "preset" else self.open


class BackupSection(msgspec.Struct, frozen=True, kw_only=True):
    """Backups by themselves; `start` is no key but the folder that a relative `folder` starts from."""

    folder: Annotated[str, folder_name] = "data/backups"
    every: Annotated[Duration, between(Duration(HOUR_MS), Duration(365 * DAY_MS), or_zero=True)] = Duration(0)
    keep: Annotated[int, between(1, 1000)] = 7
    start: Path = Path()

    @property
    def path(self) -> Path:
        """The absolute path of the folder."""
        return (self.start / self.folder).resolve()


class RetentionSection(msgspec.Struct, frozen=True, kw_only=True):
    """How long things are kept after their receipt."""

    snapshots: Age = Duration.parse("7d")
    swarms: Age = Duration.parse("14d")
    bans: Age = Duration.parse("45d")
    audit: Age = Duration.parse("30d")
    addresses: Annotated[Duration, between(MEMBER_MS)] = MEMBER_MS
    max_database_size: Annotated[Size, between(Size(MIB), or_zero=True)] = Size(0)


class LimitsSection(msgspec.Struct, frozen=True, kw_only=True):
    """What one request, one application and all of them together may cost."""

    max_body_size: Bytes = Size.parse("16MiB")
    max_inflated_size: Bytes = Size.parse("64MiB")
    max_rows_per_request: Annotated[int, between(1, 10_000_000)] = 50_000
    requests_per_minute: Annotated[int, between(0, 1_000_000_000)] = 600
    rows_per_day: Annotated[int, between(0, 1_000_000_000_000)] = 5_000_000
    text_per_day: Annotated[Size, between(Size(MIB), or_zero=True)] = Size.parse("256MiB")
    query_time: Patience = Duration.parse("3s")
    count_time: Patience = Duration.parse("1s")
    body_timeout: Patience = Duration.parse("60s")
    queue_size: Bytes = Size.parse("64MiB")


class MetricsSection(msgspec.Struct, frozen=True, kw_only=True):
    """Who may read /metrics; nobody when empty."""

    allow: tuple[Network, ...] = (parse_network("127.0.0.0/8"), parse_network("::1"))


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured, but for the tables of the analyses (analyses/registry.py: SCHEMA)."""

    server: ServerSection = ServerSection()
    database: DatabaseSection = DatabaseSection()
    auth: AuthSection = AuthSection()
    btn: BtnSection = BtnSection()
    rules: tuple[RuleEntry, ...] = ()
    exceptions: tuple[RuleEntry, ...] = ()
    imports: tuple[ImportEntry, ...] = ()
    analysis: AnalysisSection = AnalysisSection()
    feeds: FeedsSection = FeedsSection()
    backup: BackupSection = BackupSection()
    retention: RetentionSection = RetentionSection()
    limits: LimitsSection = LimitsSection()
    metrics: MetricsSection = MetricsSection()


# Dotted keys and tables that a running server takes over, and what below them it can't.
RELOADABLE = (
    "btn",
    "rules",
    "exceptions",
    "imports",
    "analysis",
    "feeds",
    "backup",
    "retention",
    "limits",
    "metrics.allow",
    "auth.max_apps_per_user",
    "auth.anonymous_apps",
    "auth.session_lifetime",
    "server.public_url",
    "server.trusted_proxies",
)
FIXED = ("limits.queue_size",)

# The keys that each table of a list must have, and what to write for them.
IMPORT_NEEDS = {"name": 'write a short name, such as name = "some-list"'}
RULE_NEEDS = {
    "type": 'write type = "ip" (or port, peer_id, client_name, script)',
    "category": 'write a name for the kind of peers, such as category = "PCDN"',
    "content": 'write a list, such as content = ["192.0.2.0/24"]',
}


@functools.cache
def keys_of(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """Key -> annotation of one struct, in order; a Path is no key."""
    return {
        name: annotation
        for name, annotation in typing.get_type_hints(cls, include_extras=True).items()
        if annotation is not Path
    }


def split_annotation(annotation: Any) -> tuple[Any, tuple[Check, ...]]:
    """The bare type of an annotation and its checks."""
    if typing.get_origin(annotation) is Annotated:
        kind, *checks = typing.get_args(annotation)
        return kind, tuple(checks)
    return annotation, ()


def entry_of(kind: Any) -> type[msgspec.Struct] | None:
    """The table that a list of tables holds, None for any other kind of key."""
    inside = typing.get_args(kind)
    is_list = typing.get_origin(kind) is tuple and len(inside) == 2 and is_struct(inside[0])
    return inside[0] if is_list else None


def is_struct(kind: Any) -> bool:
    """Whether a type is a table of keys."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def leaves(cls: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key with its bare type, in order."""
    for name, annotation in keys_of(cls).items():
        kind = split_annotation(annotation)[0]
        if is_struct(kind):
            yield from leaves(kind, (*path, name))
        else:
            yield (*path, name), kind
