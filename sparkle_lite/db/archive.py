"""The shape of a backup: a folder of plain files, or the same files as one tar archive.

    sparkle.db                                  the main database
    sparkle.db.segments/snapshot-00000007.db    one file for each segment that the main database names
    manifest.json                               what the others are; always the last one

Each database is one plain SQLite file that needs no log. The names are these whatever the server calls its own files,
so an archive that somebody unpacks by hand is the folder of a server with the default configuration.

manifest.json is a JSON object: `format` (FORMAT), `program` (its version), `schemas` (the schema version of each series
of files), `node` (which server it is of, as its feeds say it), `created_at` (ms; what was acknowledged by then is in
it), `set_aside` (names of files that the server doesn't serve, which are not in the backup) and `files`, for each in
order `name`, `bytes`, `sha256` (hex), `rows` (of observations; of the main database its bans) and `source` (of a file
that never changes which one it was when it was read, so that the next backup knows it again: inode, ns of its change).

The archive is POSIX.1-1988 ustar (IEEE Std 1003.1, pax, "ustar Interchange Format"): regular files alone, no folders,
links or extended headers; a size of 8 GiB or more in base 256 as GNU tar has it. It isn't compressed: that would take
a whole processor beside a server for minutes, and who wants it can do it to the finished file. A reader takes nothing
that a writer doesn't write, looks for no file outside, and holds no more than a manifest and one piece in memory.
"""

import errno
import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import msgspec

from sparkle_lite.db.connection import known_version
from sparkle_lite.db.segments import KINDS
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import MIB

FORMAT = 1
MAIN, SEGMENTS, MANIFEST = "sparkle.db", "sparkle.db.segments", "manifest.json"
# What is read and written at once, and after how many bytes a file is brought to the disk.
PIECE, _SYNC = MIB, 8 * MIB
# A file of a manifest takes some 200 bytes of it.
_MOST_MANIFEST, _MOST_FILES = 32 * MIB, 100_000
_NAME = re.compile(rf"{re.escape(MAIN)}|{re.escape(SEGMENTS)}/(?:{'|'.join(KINDS)})-[0-9]{{8,12}}\.db")
_BLOCK = tarfile.BLOCKSIZE
# The year 10000 (ms), which nothing can show; and the longest version of a program.
_LAST_TIME, _LONGEST = 253_402_300_800_000, 64

# Told after each piece: bytes done since the last time.
Step = Callable[[int], None]


class BackupFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a backup."""

    name: str
    bytes: int
    sha256: str
    rows: int
    source: tuple[int, int] | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup says of itself (the head of this module)."""

    program: str
    schemas: dict[str, int]
    node: str
    created_at: int
    files: tuple[BackupFile, ...]
    set_aside: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)


class _AnyFormat(msgspec.Struct):
    """What every format says."""

    format: int


class Backup(Protocol):
    """A backup that is read. `path` is where it is."""

    path: Path
    manifest: Manifest

    def pieces(self, file: BackupFile) -> Iterator[bytes]:
        """What is in a file of the manifest, piece by piece. Raises OSError, and SparkleError for one that is cut."""

    def close(self) -> None:
        """Read no more."""


def open_backup(path: Path) -> Backup:
    """Open a backup, an archive or a folder, and read what it says of itself; whether that is true `check` tells.

    Raises SparkleError (bad_request; conflict for one of a newer program) and OSError.
    """
    return _FolderBackup(path) if path.is_dir() else _TarBackup(path)


def check(backup: Backup, step: Step) -> None:
    """Read all of a backup; raises SparkleError (bad_request) where a file isn't what the manifest says."""
    for file in backup.manifest.files:
        for piece in checked(backup, file):
            step(len(piece))


def checked(backup: Backup, file: BackupFile) -> Iterator[bytes]:
    """What is in a file, piece by piece; after the last SparkleError (bad_request) where its hash is another."""
    found = hashlib.sha256()
    try:
        for piece in backup.pieces(file):
            found.update(piece)
            yield piece
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # The disk doesn't give it back any more.
        raise broken("backup.changed", path=backup.path, file=file.name) from error
    if found.hexdigest() != file.sha256:
        raise broken("backup.changed", path=backup.path, file=file.name)


def broken(key: str, /, *, path: Path, **values: str) -> SparkleError:
    """The refusal of a backup, by the key of a sentence and its values."""
    return SparkleError("bad_request", key, path=path, retry_after=None, **values)


def _read_manifest(path: Path, data: bytes) -> Manifest:
    """A manifest whose names, sizes and versions are possible. Raises SparkleError."""
    try:
        version = msgspec.json.decode(data, type=_AnyFormat).format
        if version != FORMAT:
            raise SparkleError("conflict", "backup.newer", path=path)
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise broken("backup.bad_manifest", path=path, why=str(error)) from None
    names = [file.name for file in manifest.files]
    if len(names) > _MOST_FILES or len(set(names)) < len(names) or MAIN not in names:
        raise broken("backup.bad_manifest", path=path, why="its list of files")
    if not 0 <= manifest.created_at < _LAST_TIME or len(manifest.program) > _LONGEST:
        raise broken("backup.bad_manifest", path=path, why="its time or version")
    for file in manifest.files:
        if (
            not _NAME.fullmatch(file.name)
            or min(file.bytes, file.rows) < 0
            or not re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        ):
            raise broken("backup.bad_manifest", path=path, why=repr(file.name[:100]))
    for kind in ("main", *KINDS):
        if manifest.schemas.get(kind, 0) > known_version(kind):
            raise SparkleError("conflict", "backup.newer", path=path)
    return manifest


# --- An archive -------------------------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """A file of an archive: where its content begins, and its bytes."""

    offset: int
    bytes: int


class _TarBackup:
    """A backup in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Whoever names it may name a link to it.
        self._file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        try:
            members = self._members()
            place = members.pop(MANIFEST)
            self._file.seek(place.offset)
            self.manifest = _read_manifest(path, self._file.read(place.bytes))
            if {name: member.bytes for name, member in members.items()} != {
                file.name: file.bytes for file in self.manifest.files
            }:
                raise broken("backup.other_files", path=path)
        except BaseException:
            self._file.close()
            raise
        self._places = members

    def _members(self) -> dict[str, _Member]:
        """All files by name, the manifest last. Raises SparkleError for whatever a writer doesn't write."""
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise broken("backup.none", path=self.path)
        size, offset = os.fstat(self._file.fileno()).st_size, 0
        members: dict[str, _Member] = {}
        while MANIFEST not in members:
            self._file.seek(offset)
            header = self._header(self._file.read(_BLOCK), is_first=not offset)
            place = _Member(offset + _BLOCK, header.size)
            offset = place.offset + _padded(place.bytes)
            if offset > size:
                raise broken("backup.cut_off", path=self.path)
            if header.name in members or len(members) > _MOST_FILES:
                raise broken("backup.other_files", path=self.path)
            if header.name == MANIFEST and header.size > _MOST_MANIFEST:
                raise broken("backup.bad_manifest", path=self.path, why=f"{header.size} bytes")
            members[header.name] = place
        return members

    def _header(self, block: bytes, *, is_first: bool) -> tarfile.TarInfo:
        if len(block) < _BLOCK or not any(block):
            raise broken("backup.none" if is_first else "backup.cut_off", path=self.path)
        try:
            # The one block alone: nothing that an extended header could make of it.
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
            raise broken("backup.none" if is_first else "backup.damaged", path=self.path) from None
        known = header.name == MANIFEST or _NAME.fullmatch(header.name)
        if header.type != tarfile.REGTYPE or header.linkname or header.size < 0 or not known:
            raise broken("backup.stranger", path=self.path, name=repr(header.name[:100]))
        return header

    def pieces(self, file: BackupFile) -> Iterator[bytes]:
        place = self._places[file.name]
        left = place.bytes
        self._file.seek(place.offset)
        while left:
            piece = self._file.read(min(PIECE, left))
            if not piece:
                raise broken("backup.cut_off", path=self.path)
            left -= len(piece)
            yield piece

    def close(self) -> None:
        self._file.close()


class Writing(Protocol):
    """A backup that is being written."""

    def add(self, name: str, source: BinaryIO, step: Step) -> tuple[int, str]:
        """Take over what a file holds; its bytes and SHA-256 (hex)."""

    def link(self, name: str, same: Path) -> bool:
        """Give another file that holds what shall be in this one this name, too; whether that can be done."""

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, and bring everything to the disk."""


class TarWriting:
    """Writes a backup as an archive into an open file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, name: str, source: BinaryIO, step: Step) -> tuple[int, str]:
        """As Writing says."""
        size = os.fstat(source.fileno()).st_size
        self._file.write(_header_of(name, size))
        found, sha256 = copy(source, self._file, step)
        if found != size:
            raise OSError(f"{name} changed while it was read")
        self._file.write(bytes(_padded(size) - size))
        return size, sha256

    def link(self, name: str, same: Path) -> bool:
        """An archive holds no links."""
        return False

    def finish(self, manifest: Manifest) -> None:
        """As Writing says."""
        data = msgspec.json.encode(manifest)
        self._file.write(_header_of(MANIFEST, len(data)) + data + bytes(_padded(len(data)) - len(data) + 2 * _BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())


def pieces_of_archive(backup: Backup) -> Iterator[bytes]:
    """A backup as the archive that it would be, piece by piece. Raises as `Backup.pieces`."""
    for file in backup.manifest.files:
        yield _header_of(file.name, file.bytes)
        yield from backup.pieces(file)
        yield bytes(_padded(file.bytes) - file.bytes)
    data = msgspec.json.encode(backup.manifest)
    yield _header_of(MANIFEST, len(data)) + data + bytes(_padded(len(data)) - len(data) + 2 * _BLOCK)


def _header_of(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o600
    return header.tobuf(tarfile.GNU_FORMAT if size >= 8**11 else tarfile.USTAR_FORMAT)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


# --- A folder ---------------------------------------------------------------------------------------------------------


class _FolderBackup:
    """A backup in a folder of its own. What else is in the folder is no part of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with _opened(path / MANIFEST) as file:
                data = file.read(_MOST_MANIFEST + 1)
        except FileNotFoundError:
            raise broken("backup.none", path=path) from None
        if len(data) > _MOST_MANIFEST:
            raise broken("backup.bad_manifest", path=path, why=f"{len(data)} bytes")
        self.manifest = _read_manifest(path, data)

    def pieces(self, file: BackupFile) -> Iterator[bytes]:
        try:
            opened = _opened(self.path / file.name)
        except FileNotFoundError:
            raise broken("backup.other_files", path=self.path) from None
        with opened:
            left = file.bytes
            while piece := opened.read(min(PIECE, left + 1)):
                left -= len(piece)
                if left < 0:
                    break
                yield piece
        if left:
            raise broken("backup.changed", path=self.path, file=file.name)

    def close(self) -> None:
        """Nothing stays open."""


class FolderWriting:
    """Writes a backup as a folder. What never changes and is in an earlier backup already is linked, not copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / SEGMENTS).mkdir(mode=0o700)

    def add(self, name: str, source: BinaryIO, step: Step) -> tuple[int, str]:
        """As Writing says."""
        with create_private(self.folder / name) as file:
            copied = copy(source, file, step)
            os.fsync(file.fileno())
        return copied

    def link(self, name: str, same: Path) -> bool:
        """As Writing says: on the same file system, where that has links."""
        with suppress(OSError):
            (self.folder / name).hardlink_to(same)
            return True
        return False

    def finish(self, manifest: Manifest) -> None:
        """As Writing says."""
        with create_private(self.folder / MANIFEST) as file:
            file.write(msgspec.json.encode(manifest))
            file.flush()
            os.fsync(file.fileno())


def _opened(path: Path) -> BinaryIO:
    """A regular file for reading, no link and nothing that waits. Raises OSError."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no file")
    return file


def create_private(path: Path) -> BinaryIO:
    """A new file that its owner alone can read. Raises OSError."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600), "w+b")


def copy(source: BinaryIO, target: BinaryIO, step: Step) -> tuple[int, str]:
    """Copy what is in a file; its bytes and SHA-256 (hex).

    What is written is brought to the disk bit by bit, so that nobody else's commit has to wait for all of it.
    """
    digest, done, unsynced = hashlib.sha256(), 0, 0
    while piece := source.read(PIECE):
        digest.update(piece)
        target.write(piece)
        done, unsynced = done + len(piece), unsynced + len(piece)
        if unsynced >= _SYNC:
            target.flush()
            os.fdatasync(target.fileno())
            unsynced = 0
        step(len(piece))
    target.flush()
    return done, digest.hexdigest()


def digest(file: BinaryIO, step: Step) -> tuple[int, str]:
    """Bytes and SHA-256 (hex) of what is in a file."""
    found, done = hashlib.sha256(), 0
    while piece := file.read(PIECE):
        found.update(piece)
        done += len(piece)
        step(len(piece))
    return done, found.hexdigest()
