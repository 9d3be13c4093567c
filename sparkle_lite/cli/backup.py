"""The commands that back everything up and put it back."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkle_lite.cli.commands import add_command, complain, load, no_database, when

if TYPE_CHECKING:
    from sparkle_lite.db.backup import BackupProgress

# Where nobody looks at a terminal, a line so often (s).
_LINE_S = 10.0
# The rest of the machine comes first.
_NICE = 10


def add_backup_commands(commands: Any) -> None:
    """`backup` and `restore`."""
    add_command(commands, "backup", _backup, "file").add_argument("--force", action="store_true")
    add_command(commands, "restore", _restore, "file")


def _backup(args: argparse.Namespace) -> None:
    from sparkle_lite.clock import now_ms
    from sparkle_lite.db.backup import BackupOrder, back_up_to_file
    from sparkle_lite.db.database import is_there
    from sparkle_lite.db.lock import segment_folder

    path = load(args).database.file
    if not is_there(path):
        raise no_database(path)
    _give_way()
    _end_in_order()
    target = Path(args.file).absolute()
    order = BackupOrder(
        database=path, segments=segment_folder(path), target=target, now_ms=now_ms(), replace=args.force
    )
    shown = _Shown()
    done = back_up_to_file(order, shown.show)
    shown.end()
    for name, why in done.notes:
        complain(f"{name} is not as it should be in the database, nor in the backup: {why}")
    size = target.stat().st_size
    print(f"{target}: {size:,} bytes, {len(done.manifest.files)} files, as of {when(done.manifest.created_at)} UTC")


def _restore(args: argparse.Namespace) -> None:
    from sparkle_lite.clock import now_ms
    from sparkle_lite.db.restore import restore

    path = load(args).database.file
    _end_in_order()
    shown = _Shown()
    restored = restore(path, Path(args.file).absolute(), now_ms(), shown.show)
    shown.end()
    for name in restored.staged.left_out:
        complain(f"{name} is damaged in the backup and left out: the server will name it and serve the rest")
    manifest = restored.staged.manifest
    size = f"{manifest.bytes:,} bytes, {len(manifest.files)} files"
    print(f"{path}: {size}, as of {when(manifest.created_at)} UTC")
    if restored.old is not None:
        print(f"What was there before is in {restored.old}")


def _give_way() -> None:
    """Let a server that runs beside have its turn first."""
    os.nice(_NICE)


def _end_in_order() -> None:
    """Leave nothing behind when somebody says that it shall end."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt


class _Shown:
    """BackupProgress on standard error: in one line of a terminal, else as a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def show(self, progress: "BackupProgress") -> None:
        """Show how far it is."""
        if time.monotonic() - self._last < (0.2 if self._is_terminal else _LINE_S):
            return
        self._last = time.monotonic()
        percent = 100 * progress.done // max(progress.total, 1)
        line = f"{progress.stage}: {min(percent, 100)} % of {progress.total:,} bytes"
        if self._is_terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            complain(line)

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
