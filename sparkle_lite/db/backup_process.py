"""The process in which a server has its backups made and restored, beside its own work."""

import os
import time

from sparkle_lite.db.archive import Manifest
from sparkle_lite.db.backup import (
    BackupDone,
    BackupOrder,
    BackupProgress,
    CheckOrder,
    back_up_to_folder,
    check_backup,
)
from sparkle_lite.db.restore import RestoreOrder, Staged, stage
from sparkle_lite.worker_process import report, serve

# The server comes first. And how often it is told how far this is (s).
_NICE, _OFTEN_S = 10, 0.25


class _Reports:
    """Tells the server how far a backup is, now and then."""

    def __init__(self) -> None:
        self._last = 0.0

    def tell(self, progress: BackupProgress) -> None:
        """Tell, unless that was a moment ago."""
        if time.monotonic() - self._last >= _OFTEN_S:
            self._last = time.monotonic()
            report(progress)


def _work(order: BackupOrder | CheckOrder | RestoreOrder) -> BackupDone | Manifest | Staged:
    reports = _Reports()
    if isinstance(order, BackupOrder):
        return back_up_to_folder(order, reports.tell)
    if isinstance(order, CheckOrder):
        return check_backup(order.source, reports.tell)
    return stage(order, reports.tell)


if __name__ == "__main__":
    os.nice(_NICE)
    serve(_work)
