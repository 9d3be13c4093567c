"""The sockets that the server listens on, and why one can't be had."""

import errno
import os
import socket
from typing import Any

from sparkle_lite.errors import SparkleError


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to `host`, not listening yet; "::" takes IPv4 too, a name with several addresses binds each.

    Raises SparkleError("conflict") with a sentence that says what to do.
    """
    bound: list[socket.socket] = []
    try:
        for family, _, proto, _, address in _resolve(host, port):
            taken = bound[0].getsockname()[1] if bound and not port else port
            bound.append(_bind_one(family, proto, (address[0], taken, *address[2:])))
    except UnicodeError:
        # A part of a name that is too long for any.
        raise SparkleError("conflict", "server.no_address", host=host) from None
    except OSError as exc:
        # "localhost" may name an IPv6 address on a machine without IPv6: the other one is enough.
        if bound and exc.errno != errno.EADDRINUSE:
            return bound
        for sock in bound:
            sock.close()
        raise bind_error(host, port, exc) from None
    return bound


def _resolve(host: str, port: int) -> list[Any]:
    flags = socket.AI_PASSIVE
    return sorted(set(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)), key=lambda info: info[0])


def _bind_one(family: int, proto: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, proto)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        sock.setblocking(False)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_error(host: str, port: int, exc: OSError) -> SparkleError:
    if exc.errno == errno.EADDRINUSE:
        return SparkleError("conflict", "server.port_in_use", port=port, host=host)
    if exc.errno in (errno.EACCES, errno.EPERM):
        return SparkleError("conflict", "server.port_forbidden", port=port)
    return SparkleError("conflict", "server.no_address", host=host)


def url_of(host: str, sock: socket.socket) -> str:
    """What to type on this machine: a wildcard address is reachable as the loopback address of its family."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    name = f"[{reachable}]" if ":" in reachable else reachable
    return f"http://{name}:{sock.getsockname()[1]}"
