"""What counts as evidence: which ban, by which client program's module, for which rule. Everything else is none.

What each line was asked is whether an honest peer could cause this report. So nothing counts that repeats a list
(addresses, rule subscriptions, this network's own rules), that judges by a name (peer id and client name lists, and
AntiVampire, which is about Xunlei), by neighbourhood (range bans, multi-dialing's hunt) or by silence (idle
connections: a peer that needs nothing), nor what a user's own script decides.

Nobody stores with a ban which program reported it: the form of the module's name tells. PeerBanHelper writes its Java
classes, and PeerBanHelper-RS the same ones; qBittorrent-ClientBlocker has a prefix of its own; the Rust client and
LibreTorrentEE write a short name. PeerBanHelper's rules are sentences in its user's language, so that its modules alone
are told apart; the others' are fixed words, and have to be equal.
"""

from typing import NamedTuple

from sparkle_lite.db.evidence.untrusted_vote import Module
from sparkle_lite.wire.dialect import Family

# The first group is what `min_people` counts: a peer that says less than it was given, by measurement.
CHEAT, DIALING = 0, 1
_PBH = "com.ghostchu.peerbanhelper.module.impl.rule."
_QBCB = "com.SimpleTracker.qBCB."


class Line(NamedTuple):
    """One line of the table; a `rule` of None means whatever the rule says."""

    family: Family
    module: str
    rule: str | None
    group: int


EVIDENCE = (
    # Progress, measured against what was sent. An honest peer is caught when it loses files or checks them anew, but
    # hardly by several people on several torrents.
    Line(Family.PEERBANHELPER, f"{_PBH}ProgressCheatBlocker", None, CHEAT),
    # Without pcb:fast-test, which disconnects every peer once at a tenth of a torrent, and without
    # pcb:excessive-incomplete: who checks their own files anew has sent everybody more than they have. The others that
    # have this module don't report such tests.
    Line(Family.RUST, "ProgressCheatBlocker", "pcb:excessive", CHEAT),
    Line(Family.RUST, "ProgressCheatBlocker", "pcb:difference", CHEAT),
    Line(Family.RUST, "ProgressCheatBlocker", "pcb:rewind", CHEAT),
    Line(Family.LIBRETORRENT, "ProgressCheatBlocker", "ProgressCheatBlocker", CHEAT),
    # The relative check looks at what was sent and gained between two cycles, the other at the totals.
    Line(Family.QBCB, f"{_QBCB}CheckAllTorrent", "Bad-Relative_Progress_Uploaded", CHEAT),
    Line(Family.QBCB, f"{_QBCB}CheckPeer", "Bad-Progress_Uploaded", CHEAT),
    # Many addresses of one network on one torrent. Honest neighbours can cause it, so it never counts among the first.
    Line(Family.PEERBANHELPER, f"{_PBH}MultiDialingBlocker", None, DIALING),
    Line(Family.RUST, "MultiDialingBlocker", "mdb:multi-dialing", DIALING),
)
MODULES = tuple(Module(line.module, line.group, line.rule) for line in EVIDENCE)
"""The table as the analyses ask for it."""
_BY_NAME = {line.module: tuple(other for other in EVIDENCE if other.module == line.module) for line in EVIDENCE}


def is_evidence(module: str, rule: str | None) -> bool:
    """Whether a ban of this module, for this rule, counts for an analysis."""
    return any(line.rule in (None, rule) for line in _BY_NAME.get(module, ()))
