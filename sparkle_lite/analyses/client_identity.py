"""Clients that pass for others, or for nobody: rules about what they say of themselves, made of our patterns alone."""

from typing import Literal, NamedTuple

from sparkle_lite.analyses.analysis import Analysis, Examined, Need, lasts, told, words_needed
from sparkle_lite.analyses.numbers import Numbers, counts, modes, percents, spans
from sparkle_lite.db.evidence.client_identity import Bearers, Disguise, find_bearers
from sparkle_lite.db.evidence.workspace import Evidence
from sparkle_lite.rules.findings import Finding, Identity
from sparkle_lite.units import DAY_MS
from sparkle_lite.wire.matchers import Matcher, Method

NAME = "client_identity"


class _Pattern(NamedTuple):
    code: str
    kind: Literal["peer_id", "client_name"]
    matcher: Matcher
    disguise: Disguise


def _name(prefix: str, *peer_ids: str) -> _Pattern:
    """A name whose true bearers have a peer_id of their own; the rule is for names that next to nobody bears truly."""
    matcher = Matcher(Method.STARTS_WITH, prefix)
    return _Pattern("mismatched_identity", "client_name", matcher, Disguise(prefix, peer_ids))


# Azureus, Shadow, Mainline and the few with shapes of their own; eight characters are all that is stored of a peer_id.
_SHAPES = ("-[A-Za-z]*", "[A-Za-z0-9]*-*", "exbc*", "FUTB*", "XBT[0-9]*", "OP[0-9]*", "346*", "[AM][0-9]-*", "-*")
_RANDOM = _Pattern(
    "random_identity",
    "peer_id",
    # The same in the grammar of the rules: no dash anywhere, none of the known words in front.
    Matcher(Method.REGEX, "(?!exbc|FUTB|XBT[0-9]|OP[0-9]|346)[^-]{8}.*"),
    Disguise("", _SHAPES, compared=False),
)

PATTERNS = (
    _name("Rain 0.0.0", "-RN*"),
    _name("Gopeed dev", "-GP*"),
    _name("qBittorrent/", "-qB*", "-QB*"),
    _name("qBittorrent v", "-qB*", "-QB*"),
    _name("Transmission ", "-TR*"),
    _name("aria2/", "A2-*"),
    _RANDOM,
)


def _examine(evidence: Evidence, numbers: Numbers, only: bytes | None) -> list[Examined]:
    disguises = [pattern.disguise for pattern in PATTERNS]
    return (
        [_examined(bearers, numbers) for bearers in find_bearers(evidence, disguises, numbers)] if only is None else []
    )


def _examined(bearers: Bearers, numbers: Numbers) -> Examined:
    pattern = PATTERNS[bearers.disguise]
    finding = Finding(
        target=Identity(pattern.kind, pattern.matcher.pbh()),
        code=pattern.code,
        numbers={
            **told(bearers.voices, bearers.words, 0),
            "addresses": bearers.addresses,
            "percent": bearers.percent,
            "torrents": bearers.torrents,
            "days": bearers.days,
            "window_days": numbers["window"] // DAY_MS,
        },
        people=bearers.voices,
        decisive=bearers.decisive,
        vouched=bearers.vouched,
        first_seen=bearers.first,
        last_seen=bearers.last,
        expires=lasts(bearers.last, numbers["lifetime"], 1),
    )
    needs = (
        words_needed(NAME, "min_people", bearers.words, numbers["min_people"]),
        Need(NAME, "min_addresses", bearers.addresses, numbers["min_addresses"]),
        Need(NAME, "min_percent", bearers.percent, numbers["min_percent"]),
        Need(NAME, "min_torrents", max(bearers.torrents, bearers.days), numbers["min_torrents"]),
    )
    return Examined(finding, needs)


ANALYSIS = Analysis(
    name=NAME,
    version=2,
    mode=modes("off"),
    numbers={
        "min_people": counts(1, 3, 4, 5),
        "min_addresses": counts(3, 5, 10, 20),
        "min_percent": percents(95, 95, 95, 98),
        "min_torrents": counts(2),
        "window": spans("14d"),
        "lifetime": spans("14d"),
    },
    codes=("mismatched_identity", "random_identity"),
    examine=_examine,
    of_addresses=False,
)
