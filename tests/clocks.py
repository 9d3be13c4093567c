"""Clocks that a test sets: of a server in this process, and of one in a process of its own."""

from pathlib import Path

import pytest

import sparkle_lite.clock
import sparkle_lite.server

DAY = 86_400_000
HOUR = 3_600_000


class SetClock:
    """The time of servers in this process: what the machine says (`ms`), and what has passed (`passed`)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ms, self.passed = 1_800_000_000_000, 5_000_000
        patch.setattr(sparkle_lite.server, "now_ms", lambda: self.ms)
        patch.setattr(sparkle_lite.server, "elapsed_ms", lambda: self.passed)
        # Commands are run in this process too.
        patch.setattr(sparkle_lite.clock, "now_ms", lambda: self.ms)

    def go(self, ms: int) -> None:
        """Let time pass."""
        self.ms += ms
        self.passed += ms

    def turn(self, ms: int) -> None:
        """Set the machine's clock forward, or back."""
        self.ms += ms


class FileClock:
    """The time of a server in a process of its own: real time, and what this file says is added to it.

    `prelude` is for start_server.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_text("0")
        self.prelude = (
            "import time, pathlib, sparkle_lite.clock as clock;"
            f" clock.now_ms = lambda: time.time_ns() // 1_000_000 + int(pathlib.Path({str(file)!r}).read_text())"
        )

    def turn(self, ms: int) -> None:
        """Have the clock be so far from the real time."""
        beside = self._file.with_suffix(".new")
        beside.write_text(str(ms))
        beside.replace(self._file)
