"""`decisions.json`: every decision in force, for another Sparkle Lite and for whoever wants them with their numbers.

Written by this server and read from others, so what is read is bounded and believed in nothing: a target is parsed as
the operator's own would be. The JSON Schema stands in the manual ("feeds"); fields that it doesn't name are skipped.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from sparkle_lite.errors import SparkleError
from sparkle_lite.net import Network, parse_network
from sparkle_lite.wire.matchers import Matcher, parse

# What a reader must know to understand the document: a later format has another number.
FORMAT = 1

# A document of somebody else has at most so many decisions, a decision so many targets (a wide network with many holes
# is many), a chain so many nodes. Whoever fetches it bounds its bytes.
MOST_DECISIONS, MOST_TARGETS, MOST_NODES = 500_000, 1_000_000, 16
# The year 9999 in ms.
_LAST_MS = 253_402_300_799_999

_Id = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}-[0-9]{1,18}\\Z")]
_Node = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}\\Z")]
_Instant = Annotated[int, msgspec.Meta(ge=0, le=_LAST_MS)]
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Sentence = Annotated[str, msgspec.Meta(max_length=1024)]
_Target = Annotated[str, msgspec.Meta(min_length=1, max_length=1 << 16)]
_Numbers = Annotated[dict[_Word, int | float], msgspec.Meta(max_length=64)]
TargetKind = Literal["ip", "peer_id", "client_name"]


class Reasons(msgspec.Struct, frozen=True):
    """Why, as a sentence in English and in Chinese."""

    en: _Sentence
    zh: _Sentence


class TradedDecision(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One decision in force.

    `id` is the same wherever it is passed on: the node where it began and its number there. `targets` are networks, or
    one matcher as PeerBanHelper writes it; a network with holes is several. `code` and `evidence` are what the sentence
    was made of. `since` and `until` are epoch ms, `until` None for never. `chain` are the nodes that it went through,
    from where it began to whose document this is. `formula` is the version of the analysis, 0 where there is none.
    """

    id: _Id
    kind: TargetKind
    targets: Annotated[list[_Target], msgspec.Meta(min_length=1, max_length=MOST_TARGETS)]
    category: _Sentence
    origin: _Word
    code: _Word
    reason: Reasons
    since: _Instant
    chain: Annotated[list[_Node], msgspec.Meta(min_length=1, max_length=MOST_NODES)]
    until: _Instant | None = None
    evidence: _Numbers = {}
    formula: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0

    def networks(self) -> list[Network]:
        """The targets of kind ip. Raises AddressError."""
        return [parse_network(text) for text in self.targets]

    def matchers(self) -> list[Matcher]:
        """The targets of the other kinds. Raises MatcherError."""
        return [parse(text) for text in self.targets]


class DecisionsDocument(msgspec.Struct, frozen=True):
    """A whole document: whose it is, a hash of what it says, and the decisions."""

    format: Literal[1]
    node: _Node
    version: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}\\Z")]
    decisions: Annotated[list[TradedDecision], msgspec.Meta(max_length=MOST_DECISIONS)]


class _Head(msgspec.Struct):
    format: int


_head, _document = msgspec.json.Decoder(_Head), msgspec.json.Decoder(DecisionsDocument)


def encode(node: str, decisions: Sequence[TradedDecision]) -> bytes:
    """The document of a node. The same decisions are the same bytes, whenever it is made."""
    entries = b",\n".join(map(msgspec.json.encode, decisions))
    version = hashlib.sha256(entries).hexdigest()[:16]
    head = f'{{"format":{FORMAT},"node":"{node}","version":"{version}","decisions":[\n'
    return head.encode() + entries + b"\n]}\n"


def decode(body: bytes) -> DecisionsDocument:
    """A document that another server wrote; its targets are still text. Call it off the event loop.

    Raises SparkleError: bad_request that says where it is wrong, too_large.
    """
    try:
        if (version := _head.decode(body).format) != FORMAT:
            raise SparkleError("bad_request", "decisions_document.format", format=version, known=FORMAT)
        document = _document.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SparkleError("bad_request", "decisions_document.unreadable", why=str(error)) from None
    if sum(len(entry.targets) for entry in document.decisions) > MOST_DECISIONS:
        raise SparkleError("too_large", "decisions_document.too_many", most=MOST_DECISIONS)
    return document
