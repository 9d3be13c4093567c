"""The address query as a page that PeerBanHelper's interface shows in a frame. Every text in it is hostile."""

import base64
import hashlib
from html import escape

from sparkle_lite.texts import phrase
from sparkle_lite.wire.answers import IpQuery

_STYLE = (
    ":root{color-scheme:light dark;font:14px system-ui,sans-serif}body{margin:8px}h1{font-size:1.1em;margin:0 0 .5em}"
    "table{border-collapse:collapse}td,th{padding:2px 12px 2px 0;text-align:left;font-weight:normal}"
    ".red{color:#d33}.orange{color:#c60}.green{color:#283}.gray{color:#777}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest())

HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    # Any interface may embed it; it loads nothing, runs nothing, and sends its URL (with the credentials) nowhere.
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'sha256-" + _STYLE_HASH + b"'; frame-ancestors *; base-uri 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def render(address: str, report: IpQuery) -> bytes:
    """The page for one address, in English and Chinese."""
    rows = (
        ("bans", str(report.bans.total)),
        ("swarms", str(report.swarms.total)),
        ("torrents", str(report.torrents.count)),
        ("downloading", str(report.swarms.concurrent_download_torrents_count)),
        ("seeding", str(report.swarms.concurrent_seeding_torrents_count)),
        ("to_peer", _size(report.traffic.to_peer_traffic)),
        ("from_peer", _size(report.traffic.from_peer_traffic)),
    )
    labels = "; ".join(report.labels)
    table = "".join(
        f"<tr><th>{escape(phrase(f'address_report.{name}').raw(' / '))}</th><td>{escape(value)}</td></tr>"
        for name, value in rows
    )
    page = (
        f'<!doctype html><html lang="zh"><meta charset="utf-8"><title>{escape(address)}</title><style>{_STYLE}</style>'
        f'<h1>{escape(address)} <span class="{escape(report.color)}">{escape(labels)}</span></h1>'
        f"<table>{table}</table></html>"
    )
    return page.encode()


def _size(size: float) -> str:
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
