"""The client programs of the circle: how each names itself, writes its credentials, frames and encodes its bodies.

Literal, from the programs' sources and from requests that were recorded of them; nothing here uses `wire`, which reads
what is written here.
"""

import base64
import gzip
import hashlib
import itertools
import json
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

Transport = Literal["jdk-old", "jdk", "okhttp", "go", "reqwest", "powershell"]
Order = Literal["little", "big"]
PROOF = ("X-BTN-PowID", "X-BTN-PowSolution")
# The JDK's client offers h2c on plain http.
_UPGRADE = (
    "Connection: Upgrade, HTTP2-Settings",
    "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
    "Upgrade: h2c",
)


class Program(NamedTuple):
    """One version of a client program. `family` and `version` decide on its shapes, `protocol` on its abilities."""

    family: Literal["pbh", "prs", "rust", "qbcb", "lt", "bc"]
    version: tuple[int, ...]
    agent: str
    protocol: int
    transport: Transport
    chunk: int = 0

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{_NAMES[self.family]} {'.'.join(map(str, self.version))}"

    @property
    def byte_order(self) -> Order:
        """In which order it takes the bytes of a torrent's salt."""
        return "big" if self.family == "qbcb" else "little"

    @property
    def is_modern(self) -> bool:
        """Whether it speaks protocol 20: running totals by page, and lists of addresses."""
        return self.protocol >= 20

    @property
    def tells_once(self) -> bool:
        """Whether it tells the totals of a peer once, soon after they began, instead of whenever they have grown."""
        return self.family in ("prs", "lt") or (self.family == "pbh" and self.version >= (9, 3))

    def head(self, method: str, path: str, host: str, credentials: tuple[str, str]) -> list[str]:
        """The lines of a request's head but for what frames its body."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"User-Agent: {self.agent}"]
        return lines + credential_lines(self.transport, *credentials)

    def request(
        self, path: str, host: str, credentials: tuple[str, str], body: bytes, more: tuple[str, ...] = ()
    ) -> bytes:
        """The bytes of a POST with a packed body."""
        lines = self.head("POST", path, host, credentials)
        if not any(line.startswith("Content-Type") for line in lines):
            lines.append("Content-Type: application/json")
        lines += ["Content-Encoding: gzip", *more]
        if self.chunk:
            name = "encoding" if self.transport.startswith("jdk") else "Encoding"
            lines.append(f"Transfer-{name}: chunked")
            data = chunked(body, self.chunk)
        else:
            lines.append(f"Content-Length: {len(body)}")
            data = body
        return head_bytes(lines, lower=self.transport == "reqwest") + data

    def encode(self, document: Mapping[str, Any]) -> bytes:
        """A document as the program writes it, packed."""
        if self.transport == "powershell":
            return gzip.compress(json.dumps(document, indent=4).encode("utf-16"), 1)
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        if self.transport == "go":
            # Go escapes these in every text.
            for char in "<>&":
                text = text.replace(char, f"\\u{ord(char):04x}")
        return gzip.compress(text.encode(), 1)


def credential_lines(transport: Transport, app_id: str, secret: str) -> list[str]:
    """The lines in which a program says who it is, and those that its HTTP library adds to every request."""
    old = [f"BTN-AppID: {app_id}", f"BTN-AppSecret: {secret}"]
    new = [f"X-BTN-AppID: {app_id}", f"X-BTN-AppSecret: {secret}"]
    bearer = f"Bearer {app_id}@{secret}"
    # Sic: PeerBanHelper writes Authentication.
    pbh = ["Content-Type: application/json", *old]
    both = [*pbh, *new, f"Authentication: {bearer}"]
    by_transport: Mapping[Transport, Callable[[], list[str]]] = {
        "jdk-old": lambda: [*_UPGRADE, "Accept-Encoding: deflate, gzip", *pbh],
        "jdk": lambda: [*_UPGRADE, "Accept-Encoding: gzip,deflate", *both],
        "okhttp": lambda: [*both, "Connection: Keep-Alive", "Accept-Encoding: gzip"],
        "go": lambda: [
            f"Authorization: {bearer}",
            f"X-Btn-Appid: {app_id}",
            f"X-Btn-Appsecret: {secret}",
            "Accept-Encoding: gzip",
        ],
        "reqwest": lambda: [*new, *old, f"Authentication: {bearer}", "Accept: */*", "Accept-Encoding: gzip"],
        "powershell": lambda: [f"Authorization: {bearer}", *new],
    }
    return by_transport[transport]()


def head_bytes(lines: list[str], *, lower: bool = False) -> bytes:
    """A head; reqwest writes the names of headers in lower case."""
    if lower:
        split = (line.partition(":") for line in lines[1:])
        lines = [lines[0], *(f"{name.lower()}{colon}{value}" for name, colon, value in split)]
    return "\r\n".join((*lines, "", "")).encode()


def chunked(body: bytes, size: int = 4096) -> bytes:
    """A body in chunks."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@lru_cache(8192)
def torrent_identifier(info_hash: str, byte_order: Order = "little") -> str:
    """What clients send for a torrent; qBittorrent-ClientBlocker alone turns the salt's bytes round."""
    salt = zlib.crc32(info_hash.encode()).to_bytes(4, byte_order).hex()
    return hashlib.sha256((info_hash + salt).encode()).hexdigest()


def solve(session: Mapping[str, Any]) -> tuple[str, str]:
    """PeerBanHelper's proof of work: the id and the Base64 of an 8-byte big-endian nonce."""
    algorithm = {"SHA-256": hashlib.sha256}[session["algorithm"]]
    challenge, bits = base64.b64decode(session["challengeBase64"], validate=True), session["difficultyBits"]
    for number in itertools.count():
        nonce = number.to_bytes(8, "big")
        if int.from_bytes(algorithm(challenge + nonce).digest(), "big") >> (256 - bits) == 0:
            return session["id"], base64.b64encode(nonce).decode()
    raise AssertionError


# --- The programs -----------------------------------------------------------------------------------------------------

_NAMES = {
    "pbh": "PeerBanHelper",
    "prs": "PeerBanHelper-RS",
    "rust": "PeerBanHelper-Rust",
    "qbcb": "qBittorrent-ClientBlocker",
    "lt": "LibreTorrentEE",
    "bc": "BTNScriptBC",
}
_LINUX = "(docker; Linux,6.8.0-45-generic,bookworm unknown)"
_WINDOWS = "(release; Windows 11,10.0,x unknown)"


def _pbh(version: str, protocol: int, agent: str = "") -> Program:
    numbers = tuple(map(int, version.split(".")))
    transport: Transport = "jdk-old" if numbers < (4, 0, 3) else "jdk" if numbers < (8, 0, 5) else "okhttp"
    chunk = 8192 if transport == "okhttp" else 256
    return Program("pbh", numbers, f"PeerBanHelper/{version} {agent}", protocol, transport)._replace(chunk=chunk)


# What each of a hundred installations is.
SHARES: Mapping[Program, int] = {
    _pbh("9.5.0", 20, f"{_LINUX} BTN-Protocol/2.0.1 BTN-Protocol-Version/20"): 30,
    _pbh("9.2.5", 20, f"{_LINUX} BTN-Protocol/2.0.1 BTN-Protocol-Version/20"): 6,
    _pbh("9.2.1", 20, f"{_WINDOWS} BTN-Protocol/2.0.1 BTN-Protocol-Version/20"): 3,
    _pbh("9.1.5", 13, f"{_LINUX} BTN-Protocol/2.0.1 BTN-Protocol-Version/13"): 7,
    _pbh("8.0.7", 11, f"{_LINUX} BTN-Protocol/0.1.0 BTN-Protocol-Version/11"): 4,
    _pbh("7.4.15", 10, f"{_WINDOWS} BTN-Protocol/0.0.3 BTN-Protocol-Version/10"): 8,
    _pbh("7.1.5", 8, "BTN-Protocol/0.0.2"): 4,
    _pbh("6.4.8", 7, "BTN-Protocol/0.0.1"): 3,
    _pbh("5.0.6", 6, "BTN-Protocol/0.0.0-dev"): 2,
    _pbh("4.0.2", 3, "BTN-Protocol/0.0.0-dev"): 1,
    _pbh("3.2.0", 3, "BTN-Protocol/0.0.0-dev"): 1,
    Program("prs", (0, 4), "PeerBanHelper-RS", 20, "okhttp")._replace(chunk=8192): 4,
    Program("rust", (0, 1, 4), "PeerBanHelper-Rust/0.1.4/BTN-Protocol/2.0.1/20", 20, "reqwest"): 7,
    Program("qbcb", (3, 8), "qBittorrent-ClientBlocker/3.8b8 (linux, amd64) BTN-Protocol/0.0.0-dev", 3, "go"): 13,
    Program("lt", (4, 1, 1), "LibreTorrent/4.1.1 BTN-Protocol/v2.0.1 BTN-Protocol-Version/20", 20, "okhttp")._replace(
        chunk=8192
    ): 4,
    Program(
        "bc", (0, 1, 7), "WindowsPowerShell/5.1.19041.4780 BTNScriptBC/0.1.7 BTN-Protocol/0.0.1", 3, "powershell"
    ): 3,
}
PROGRAMS: Mapping[str, Program] = {program.name: program for program in SHARES}
