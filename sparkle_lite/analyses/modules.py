"""Which ban modules of clients count as evidence.

Left out are modules that repeat a list (addresses, rule subscriptions, this network's own rules), that judge by name
(peer id and client name lists) or by neighbourhood (range bans), and the user's own scripts: they saw nothing of what
the peer did.
"""

from sparkle_lite.db.evidence import Module

# The first group is what `min_people` counts: a peer that says less than it was given, by measurement.
CHEAT = 0
_DIALING, _TAKING, _IDLE = 1, 2, 3

_PBH = "com.ghostchu.peerbanhelper.module.impl.rule."
_GROUPS = {
    "ProgressCheatBlocker": CHEAT,
    "MultiDialingBlocker": _DIALING,
    "AntiVampire": _TAKING,
    "IdleConnectionDosProtection": _IDLE,
}

# The Rust client leaves PeerBanHelper's package out. qBittorrent-ClientBlocker has one module for all that it sees of a
# peer and says in the rule what it was: Bad-Progress_Uploaded, Bad-Relative_Progress_Uploaded; or Too many ports.
MODULES = (
    *(Module(prefix + name, group) for name, group in _GROUPS.items() for prefix in (_PBH, "")),
    Module("com.SimpleTracker.qBCB.CheckPeer", CHEAT, "Progress_Uploaded"),
    Module("com.SimpleTracker.qBCB.CheckAllIP", _DIALING, "Too many ports"),
)

_BY_NAME = {name: tuple(module for module in MODULES if module.name == name) for name in {m.name for m in MODULES}}


def is_evidence(module: str, rule: str | None) -> bool:
    """Whether a ban of this module, for this rule, counts for an analysis."""
    return any(known.rule in (rule or "") for known in _BY_NAME.get(module, ()))
