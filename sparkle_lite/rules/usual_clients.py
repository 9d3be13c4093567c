"""What usual clients say of themselves: a rule of somebody else's that bans one of these would ban everybody."""

from typing import Literal

from sparkle_lite.wire.matchers import Matcher, Patience, PatternTimeout

# The first eight characters of peer ids (BEP 20), and client names, each of a release that many have; none at all is
# what peers say of whom nobody knows more yet.
_USUAL = {
    "peer_id": (
        "", "-qB4650-", "-qB5020-", "-TR3000-", "-TR4060-", "-UT355W-", "-UM1870-", "-BT7a5W-", "-lt0D80-", "-LT2000-",
        "-DE2110-", "-BI3600-", "-AZ5760-", "-BC0200-", "A2-1-37-", "-KT5200-", "TIX0320-", "-FD6200-", "-WW0105-",
    ),
    "client_name": (
        "", "qBittorrent/4.6.5", "qBittorrent v5.0.2", "qBittorrent 5.1.0", "Transmission 3.00", "Transmission 4.0.6",
        "\u00b5Torrent 3.5.5", "\u03bcTorrent 3.5.5", "BitTorrent 7.10.5", "libtorrent/2.0.10",
        "libTorrent (Rakshasa) 0.13.8", "rTorrent 0.9.8", "Deluge 2.1.1", "BiglyBT 3.6.0.0", "Vuze 5.7.6.0",
        "BitComet 2.02", "aria2/1.37.0", "KTorrent 5.2.0", "Tixati 3.20", "Free Download Manager 6.20",
        "WebTorrent 1.5.0",
    ),
}  # fmt: skip
# A rule that takes longer on one of these is nobody's to ban by.
_PATIENCE_S = 0.2


def bans_usual(kind: Literal["peer_id", "client_name"], matcher: Matcher) -> bool:
    """Whether a rule bans any usual client, or takes too long to say so. Call it off the event loop."""
    patience = Patience(_PATIENCE_S)
    try:
        return any(matcher.matches(text, patience) for text in _USUAL[kind])
    except PatternTimeout:
        return True
