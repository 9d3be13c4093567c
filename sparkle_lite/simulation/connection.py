"""A client's connection to a server: literal requests, one at a time, and how long each took."""

import asyncio
import gzip
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from sparkle_lite import net
from sparkle_lite.errors import SparkleError

_PATIENCE_S = 60.0


class ServerReply(NamedTuple):
    """A response; names of headers are in lower case, the body is unpacked."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Target(NamedTuple):
    """Where a server is."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """What stands in Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def target_of(url: str) -> Target:
    """The server at an address. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a server, such as http://127.0.0.1:7799")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{url!r} has more than the address of a server")
    return Target(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))


def is_here(host: str) -> bool:
    """Whether a host's name or address is this machine's own, which nobody else reaches."""
    return host == "localhost" or net.is_loopback(host)


class Connection:
    """One connection, opened when it is needed and opened anew when the server has closed it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.seconds: list[float] = []
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, request: bytes) -> ServerReply:
        """Send the bytes of a request and read the answer. Raises SparkleError when there is none."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer = await self._exchange(request)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            await self.close()
            where = f"{self.target.scheme}://{self.target.netloc}"
            raise SparkleError("overloaded", "simulation.no_answer", url=where, reason=error or "timeout") from None
        self.seconds.append(time.perf_counter() - began)
        return answer

    async def _exchange(self, request: bytes) -> ServerReply:
        for attempt in range(2):
            kept = self._streams is not None
            try:
                reader, writer = self._streams or await self._open()
                writer.write(request)
                await writer.drain()
                return await self._read(reader)
            except (OSError, EOFError):
                await self.close()
                # A connection that was kept may have been closed meanwhile; a new one that breaks is a failure.
                if attempt or not kept:
                    raise
        raise AssertionError

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        is_tls = self.target.scheme == "https"
        self._streams = await asyncio.open_connection(self.target.host, self.target.port, ssl=is_tls or None)
        return self._streams

    async def _read(self, reader: asyncio.StreamReader) -> ServerReply:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await _body(reader, status, headers)
        if headers.get("content-encoding") == "gzip" and body:
            body = gzip.decompress(body)
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return ServerReply(status, headers, body)

    async def close(self) -> None:
        """Close it."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()


async def _body(reader: asyncio.StreamReader, status: int, headers: Mapping[str, str]) -> bytes:
    if status in (204, 304) or status < 200:
        return b""
    if "chunked" in headers.get("transfer-encoding", ""):
        pieces = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(pieces)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read()
