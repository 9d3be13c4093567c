"""Telling the service manager how the server is, by the protocol of systemd's sd_notify(3), and nothing without one.

One datagram a message to the socket that NOTIFY_SOCKET names. Where WATCHDOG_USEC says so, the manager restarts a
server of which it hears nothing for so long.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

READY, STOPPING, _ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"


class ServiceManager:
    """The manager that started this process, as the environment tells; `is_there` says whether one did."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # One that begins with @ has a name in no folder.
        self._path = f"\0{path[1:]}" if path.startswith("@") else path
        self.is_there = path[:1] in ("/", "@")
        self._period_s = _watchdog_s(environ) if self.is_there else None
        self._task: asyncio.Task[None] | None = None

    def tell(self, message: str) -> None:
        """Send a message; where that fails nobody can be told."""
        if not self.is_there:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.setblocking(False)
            sending.sendto(message.encode(), self._path)

    def begin(self) -> None:
        """Say that the server is up, and from now on that its event loop goes round."""
        self.tell(READY)
        if self._period_s is not None and self._task is None:
            self._task = asyncio.create_task(self._stay_in_touch(self._period_s))

    def end(self) -> None:
        """Say that the server goes down; while it does, it still says that it is alive."""
        self.tell(STOPPING)

    async def _stay_in_touch(self, period_s: float) -> None:
        while True:
            self.tell(_ALIVE)
            await asyncio.sleep(period_s)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """How often to say that the process is alive (s): twice in the time that is given, by sd_watchdog_enabled(3)."""
    micros, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not micros.isdecimal() or not int(micros) or (pid and pid != str(os.getpid())):
        return None
    return int(micros) / 2_000_000
