"""Decoded bodies on their way from one process to another: bytes that are quickly made rows again, some at a time.

Decoding a large body holds the interpreter lock for as long as it takes, and so does unpickling one. Here rows travel
in pieces of which each takes half a millisecond.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec.msgpack import Decoder

from sparkle_lite.wire.bodies import Batch, Peer, PeerBan, PeerSnapshot, PeerSwarm

# Rows of one piece.
_PIECE = 500


class _PackedSnapshot(PeerSnapshot, kw_only=True, gc=False, array_like=True):
    pass


class _PackedSwarm(PeerSwarm, kw_only=True, gc=False, array_like=True):
    pass


class _PackedHistory(PeerSwarm, kw_only=True, gc=False, array_like=True):
    origin = "history"


class _PackedBan(PeerBan, kw_only=True, gc=False, array_like=True):
    pass


_SNAPSHOTS, _BANS = Decoder(list[_PackedSnapshot]), Decoder(list[_PackedBan])
_SWARMS: dict[str, Decoder[Any]] = {"swarm": Decoder(list[_PackedSwarm]), "history": Decoder(list[_PackedHistory])}
_ORIGIN = attrgetter("origin")


class Packed(NamedTuple):
    """A batch in pieces; the rest is as in Batch. `swarms` says of each piece what its rows are."""

    populate_time: int | None
    snapshots: list[bytes]
    swarms: list[tuple[str, bytes]]
    bans: list[bytes]
    rejected: dict[str, int]
    cut_off: bool


def pack(batch: Batch) -> Packed:
    """A batch in pieces."""
    swarms = [
        (origin, piece)
        for origin, rows in groupby(batch.swarms, _ORIGIN)
        for piece in _pieces(list(rows), _PackedSwarm.__struct_fields__)
    ]
    return Packed(
        populate_time=batch.populate_time,
        snapshots=list(_pieces(batch.snapshots, _PackedSnapshot.__struct_fields__)),
        swarms=swarms,
        bans=list(_pieces(batch.bans, _PackedBan.__struct_fields__)),
        rejected=batch.rejected,
        cut_off=batch.cut_off,
    )


def _pieces(rows: Sequence[Peer], names: Iterable[str]) -> Iterator[bytes]:
    values: Callable[[Peer], tuple[Any, ...]] = attrgetter(*names)
    for start in range(0, len(rows), _PIECE):
        yield msgspec.msgpack.encode([values(row) for row in rows[start : start + _PIECE]])


def unpack(packed: Packed) -> Batch:
    """The batch again."""
    batch = Batch(packed.populate_time, rejected=packed.rejected, cut_off=packed.cut_off)
    for piece in packed.snapshots:
        batch.snapshots += _SNAPSHOTS.decode(piece)
    for origin, piece in packed.swarms:
        batch.swarms += _SWARMS[origin].decode(piece)
    for piece in packed.bans:
        batch.bans += _BANS.decode(piece)
    return batch


def portions(batch: Batch, rows: int) -> Iterator[Batch]:
    """A batch as several of at most so many rows each, in order; the first tells of what was rejected and cut off."""
    first = Batch(batch.populate_time, rejected=batch.rejected, cut_off=batch.cut_off)
    every = [first, *(Batch(batch.populate_time) for _ in range(rows, max(batch.rows, rows), rows))]
    at = 0
    for name in ("snapshots", "swarms", "bans"):
        left: Sequence[Any] = getattr(batch, name)
        while left:
            portion = every[at // rows]
            room = rows - at % rows
            setattr(portion, name, list(left[:room]))
            at += min(room, len(left))
            left = left[room:]
    yield from every
