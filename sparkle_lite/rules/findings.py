"""What an analysis says: a target, why in numbers, and who counted. plan.py makes decisions of it."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from sparkle_lite.net import Network


class Identity(NamedTuple):
    """Peers by what they say of themselves; `matcher` is the canonical JSON text of a rule matcher."""

    kind: Literal["peer_id", "client_name"]
    matcher: str


Target = Network | Identity


class Finding(NamedTuple):
    """A target that an analysis would list.

    `code` names the reason, `numbers` holds everything that its sentence says (counts, bytes, ratios 0..1, ms), never
    text that a client sent. `people` are the votes: people collapsed by their networks. `decisive` names (by user row
    id) the people without any one of whom the target would not be listed. `vouched`: whether somebody for whom an
    administrator vouches saw it too; None where nobody had to see anything. Times in ms; `expires` is None where it
    stands for as long as it is found. `note` is what a list says of it, `neighbour` which server decided it: see
    wire/decisions_document.py.
    """

    target: Target
    code: str
    numbers: Mapping[str, int | float]
    people: int
    decisive: tuple[int, ...]
    vouched: bool | None
    first_seen: int
    last_seen: int
    expires: int | None
    note: str | None = None
    neighbour: Mapping[str, object] | None = None

    def is_over(self, now_ms: int) -> bool:
        """Whether what it is from is too long ago."""
        return self.expires is not None and self.expires <= now_ms
