"""Checks of files and folders: whose they are, whether they are whole, and what room there is."""

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sparkle_lite.config import Config
from sparkle_lite.db import checkup
from sparkle_lite.db.checkup import DatabaseFile, Integrity
from sparkle_lite.db.faults import FileFault, forbidden
from sparkle_lite.db.keeper import Keeper
from sparkle_lite.doctor.findings import CheckFinding, refused
from sparkle_lite.doctor.installation import InstalledServer
from sparkle_lite.doctor.patience import on_thread
from sparkle_lite.texts import Phrase, phrase
from sparkle_lite.units import DAY_S, GIB, MIB, size_text

# How long files are read as a whole for (s).
QUICK_S, DEEP_S = 15.0, DAY_S
# A log is emptied when it has 8 MiB; one that is so large isn't, because somebody reads all the time.
_LARGE_LOG = 64 * MIB
# Less free room than this is none; less than the larger of these is little.
_NO_ROOM, _LITTLE_ROOM, _LITTLE_SHARE = 64 * MIB, GIB, 10
# Who else may read or write a file, and who else may put another in its place.
_OTHERS, _OTHERS_WRITE = 0o077, 0o022


async def check_rights(place: InstalledServer) -> list[CheckFinding] | None:
    """Whether the files are their owner's alone, and all belong to the same user, who may write them."""
    if place.database is None:
        return None
    return await on_thread(partial(_rights, place.database.path, served=place.is_served))


def _rights(path: Path, *, served: bool) -> list[CheckFinding]:
    files = checkup.files(path, served=served)
    [main, *_] = files
    found = [finding for file in files for finding in _of_file(file, main)]
    for folder in checkup.folders(path):
        status = folder.stat()
        if status.st_mode & _OTHERS_WRITE:
            found.append(CheckFinding("warn", phrase("doctor.folder_open", path=folder), _chmod("700", folder)))
        if status.st_uid not in (main.owner, 0):
            found.append(_foreign(folder, main))
    if os.geteuid() == main.owner and (culprit := forbidden(path)):
        mend = phrase("doctor_mend.unwritable", path=culprit)
        found.append(CheckFinding("bad", phrase("doctor.unwritable", path=culprit), mend))
    return found


def _of_file(file: DatabaseFile, main: DatabaseFile) -> Iterator[CheckFinding]:
    if file.mode & _OTHERS:
        said = phrase("doctor.file_open", path=file.path, mode=f"{file.mode:03o}")
        yield CheckFinding("warn", said, _chmod("600", file.path))
    if file.mode & 0o600 != 0o600:
        yield CheckFinding("bad", phrase("doctor.unwritable", path=file.path), _chmod("600", file.path))
    if file.owner != main.owner:
        yield _foreign(file.path, main)


def _chmod(mode: str, path: Path) -> Phrase:
    return phrase("doctor_mend.mode", mode=mode, path=path)


def _foreign(path: Path, main: DatabaseFile) -> CheckFinding:
    owner = main.shown_owner
    said = phrase("doctor.foreign_owner", path=path, owner=checkup.owner_of(path), main=owner)
    return CheckFinding("bad", said, phrase("doctor_mend.foreign_owner", uid=main.owner, path=path))


async def check_room(place: InstalledServer) -> list[CheckFinding] | None:
    """Whether there is room for what is to come, and the logs don't grow without end."""
    if place.database is None or place.config is None:
        return None
    return await on_thread(partial(_room, place.config, served=place.is_served))


def _room(config: Config, *, served: bool) -> list[CheckFinding]:
    path, limit = config.database.file, config.retention.max_database_size
    files = checkup.files(path, served=served)
    size = sum(file.size + file.log_size for file in files)
    found = []
    for folder in _one_a_disk(checkup.folders(path)):
        room = checkup.room(folder)
        wanted = max(limit - size, 0) if limit else max(_LITTLE_ROOM, size // _LITTLE_SHARE)
        values = {"folder": folder, "free": size_text(room.free), "size": size_text(size)}
        if room.free < _NO_ROOM or room.names == 0:
            found.append(CheckFinding("bad", phrase("doctor.no_room", **values), phrase("doctor_mend.room")))
        elif limit and room.free < wanted:
            said = phrase("doctor.room_below_limit", limit=size_text(limit), **values)
            found.append(CheckFinding("warn", said, phrase("doctor_mend.room")))
        elif room.free < wanted:
            found.append(CheckFinding("warn", phrase("doctor.little_room", **values), phrase("doctor_mend.room")))
        else:
            found.append(CheckFinding("ok", phrase("doctor.room", **values)))
    for file in files:
        if file.log_size > _LARGE_LOG:
            said = phrase("doctor.large_log", path=file.path, size=size_text(file.log_size))
            found.append(CheckFinding("warn", said, phrase("doctor_mend.large_log")))
    return found


def _one_a_disk(folders: list[Path]) -> list[Path]:
    """The first folder on each file system."""
    return list({folder.stat().st_dev: folder for folder in reversed(folders)}.values())


async def check_versions(place: InstalledServer) -> list[CheckFinding] | None:
    """Whether this program and the files go together."""
    if place.database is None:
        return None
    return await on_thread(partial(_versions, place.database.path, served=place.is_served))


def _versions(path: Path, *, served: bool) -> list[CheckFinding]:
    found = []
    for file in checkup.files(path, served=served):
        version, known = checkup.version(file.path, file.kind, served=served)
        if version > known:
            said = phrase("doctor.newer_file", path=file.path, version=version, known=known)
            found.append(CheckFinding("bad", said, phrase("doctor_mend.newer_file")))
    return found


async def check_integrity(place: InstalledServer) -> list[CheckFinding] | None:
    """Whether each file is whole: as many as there is time for, newest first, or all."""
    if place.database is None:
        return None
    path, served = place.database.path, place.is_served
    until = time.monotonic() + (DEEP_S if place.deep else QUICK_S)
    main, *others = await on_thread(partial(checkup.files, path, served=served))
    found: list[CheckFinding] = []
    files = [main, *reversed(others)]
    unread = 0
    for file in files:
        read = partial(checkup.integrity, file.path, served=served, deep=place.deep, until=until)
        try:
            integrity = await on_thread(read)
        except FileFault as fault:
            if fault.kind == "missing" and file.kind != "main":
                # The server has removed it meanwhile; what is missing otherwise, it sets aside.
                continue
            if fault.kind != "damaged":
                found.append(refused(fault))
                continue
            integrity = Integrity((fault.reason,), is_finished=True)
        unread += not integrity.is_finished
        if integrity.faults:
            said = phrase("doctor.damaged", path=file.path, faults="; ".join(integrity.faults))
            mend = "doctor_mend.damaged_main" if file.kind == "main" else "doctor_mend.damaged"
            found.append(CheckFinding("bad", said, phrase(mend)))
    if unread:
        said = phrase("doctor.unread", count=unread, all=len(files))
        found.append(CheckFinding("note", said, phrase("doctor_mend.unread")))
    if not found:
        found.append(CheckFinding("ok", phrase("doctor.whole", count=len(files))))
    return found


async def check_set_aside(place: InstalledServer) -> list[CheckFinding] | None:
    """Which files are not served, and why."""
    if place.database is None:
        return None
    keeper = Keeper(place.database, {}, lambda: place.now_ms)
    await keeper.refresh()
    return [
        CheckFinding(
            "warn",
            phrase("doctor.set_aside", path=entry.path, why=phrase(f"aside.{entry.wrong.reason}")),
            phrase("doctor_mend.set_aside", file=entry.name),
        )
        for entry in keeper.entries
    ]
