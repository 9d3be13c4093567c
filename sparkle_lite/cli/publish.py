"""The command `publish`: the feeds and the pages of reasons as a folder for a static host.

The folder is made anew beside the old one and takes its place, so that whoever copies it sees one state. Files that
have not changed are the old ones still, and what somebody else put there stays. What a command needs is imported when
it runs.
"""

import argparse
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkle_lite.cli.commands import add_command
from sparkle_lite.cli.place import Place, run_on_decisions
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import ENGLISH, phrase

if TYPE_CHECKING:
    from sparkle_lite.http.web.static_site import SiteContent

# Says that a folder is ours, and which files in it are.
_MARKER = ".sparkle-lite.json"


def add_publish_command(commands: Any) -> None:
    """Add `publish` to the program's commands."""
    publish = add_command(commands, "publish", _publish, "write all feeds and the pages of reasons into a folder")
    publish.add_argument("folder", metavar="DIR", help="a folder that is new, empty, or made by this command before")
    publish.add_argument(
        "--url",
        metavar="URL",
        default="https://example.org",
        help="where the folder will be found, for the instructions in it (default: https://example.org)",
    )


def _publish(args: argparse.Namespace) -> None:
    from sparkle_lite.http.web.static_site import files

    _, site = run_on_decisions(args, _content, rules=True)
    total, changed = _Site(Path(args.folder)).write(files(site, args.url.rstrip("/")))
    key = "feeds.publish.changed" if changed else "feeds.publish.unchanged"
    print(phrase(key, folder=args.folder, files=total, changed=changed).text(ENGLISH))


async def _content(place: Place) -> "SiteContent":
    from sparkle_lite.http.web.static_site import SiteContent, SiteEntry
    from sparkle_lite.rules.feed_rendering import NAMES, listings, read_decisions, render_feed
    from sparkle_lite.rules.reasons import reason

    rendered = await place.rendered()
    feeds = [await render_feed(name, rendered, place.database) for name in NAMES]
    async with place.database.reader() as reader:
        decided = await read_decisions(reader, rendered.at)
    entries = [
        SiteEntry(
            network=part,
            category=decision.category,
            why=reason(decision.code, decision.numbers),
            since=decision.created_at,
            until=decision.expires_at,
        )
        for decision, parts in listings(decided, rendered.published.spared)
        for part in parts
    ]
    return SiteContent(feeds, entries, rendered.credits)


# --- The folder -------------------------------------------------------------------------------------------------------


class _Site:
    """A folder with files of ours, its next state and its last one beside it.

    Those two have names that no run had before: whatever stands there already is in nobody's way.
    """

    def __init__(self, folder: Path) -> None:
        # A link to a folder stays one.
        self._folder = folder.resolve()
        run = secrets.token_hex(4)
        self._next = self._folder.parent / f".{self._folder.name}.sparkle-next-{run}"
        self._last = self._folder.parent / f".{self._folder.name}.sparkle-last-{run}"

    def write(self, files: Iterable[tuple[str, bytes]]) -> tuple[int, int]:
        """Let the folder hold just these files of ours, by path and content; how many they are, how many changed.

        Raises SparkleError, and OSError where the disk refuses: then the folder is as it was.
        """
        if not self._folder.parent.is_dir():
            raise self._refusal("no_folder", parent=self._folder.parent)
        lock = os.open(self._folder.parent, os.O_RDONLY)
        try:
            self._lock(lock)
            self._recover()
            ours = _ours(self._folder)
            if ours is None and self._is_used():
                raise self._refusal("not_ours")
            return self._replace(dict(files), ours or set())
        finally:
            os.close(lock)

    def _refusal(self, why: str, **values: Any) -> SparkleError:
        return SparkleError("conflict", f"feeds.publish.{why}", folder=self._folder, **values)

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal("busy") from None

    def _is_used(self) -> bool:
        return self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir()))

    def _recover(self) -> None:
        """Go on from where a run was ended half-way."""
        for last in self._left("last"):
            if _is_bare(last):
                _delete(last)
            elif _ours(last) is not None and not self._folder.exists():
                last.rename(self._folder)
            elif _ours(last) is not None and _ours(self._folder) is not None:
                self._retire(last)
        for begun in self._left("next"):
            if _is_bare(begun) or _ours(begun) is not None:
                _delete(begun)

    def _left(self, state: str) -> Iterator[Path]:
        """The folders of earlier runs with this state in them."""
        # Earlier versions had one name for all runs.
        name = re.compile(rf"\.{re.escape(self._folder.name)}\.sparkle-{state}(-[0-9a-f]{{8}})?")
        for each in list(self._folder.parent.iterdir()):
            if name.fullmatch(each.name) and each.is_dir() and not each.is_symlink():
                yield each

    def _replace(self, files: dict[str, bytes], ours: set[str]) -> tuple[int, int]:
        # The marker comes first, so that the folder is known as ours whenever this ends.
        listed = {_MARKER: json.dumps({"files": [_MARKER, *sorted(files)]}, indent=0).encode()} | files
        changed = {name for name, body in listed.items() if not _holds(self._folder / name, body)}
        gone = ours - listed.keys()
        if not changed and not gone:
            return len(files), 0
        for name in sorted(changed - ours):
            if taken := self._taken(name, ours):
                raise self._refusal("foreign", name=taken)
        self._next.mkdir()
        try:
            self._build(listed, changed)
        except BaseException:
            with suppress(OSError):
                _delete(self._next)
            raise
        if ours:
            self._folder.rename(self._last)
        try:
            self._next.rename(self._folder)
        except OSError:
            if ours:
                self._last.rename(self._folder)
            raise
        if ours:
            self._retire(self._last)
        return len(files), len((changed | gone) - {_MARKER})

    def _taken(self, name: str, ours: set[str]) -> str | None:
        """What of somebody else stands where a file of ours shall be, or a folder on the way to it."""
        place = self._folder / name
        if os.path.lexists(place):
            return name
        for parent in place.relative_to(self._folder).parents:
            at = self._folder / parent
            if os.path.lexists(at) and not at.is_dir() and str(parent) not in ours:
                return str(parent)
        return None

    def _build(self, files: dict[str, bytes], changed: set[str]) -> None:
        if self._folder.exists():
            shutil.copymode(self._folder, self._next)
        for name, body in files.items():
            target = self._next / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name in changed:
                _write(target, body)
            else:
                _same(self._folder / name, target)

    def _retire(self, last: Path) -> None:
        """Carry what isn't ours from a last state into the folder, and delete the rest of it."""
        _carry(last, self._folder, _ours(last) or set(), "")
        _delete(last)


def _ours(folder: Path) -> set[str] | None:
    """The files of ours in a folder, None for one that we didn't make."""
    try:
        return set(json.loads((folder / _MARKER).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_bare(folder: Path) -> bool:
    """Whether a folder holds nothing, or a marker alone: a run was ended as it began with it, or was deleting it."""
    return all(each.name == _MARKER and not each.is_dir() for each in folder.iterdir())


def _delete(folder: Path) -> None:
    """Delete a folder of ours, the marker last: whenever this ends, it is known as ours."""
    for each in list(folder.iterdir()):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != _MARKER:
            each.unlink()
    (folder / _MARKER).unlink(missing_ok=True)
    folder.rmdir()


def _carry(source: Path, target: Path, ours: set[str], prefix: str) -> None:
    for each in list(source.iterdir()):
        name, place = prefix + each.name, target / each.name
        if name in ours:
            continue
        if each.is_dir() and not each.is_symlink() and (place.exists() or any(o.startswith(f"{name}/") for o in ours)):
            place.mkdir(exist_ok=True)
            _carry(each, place, ours, f"{name}/")
            # Without anything of somebody else it went with our files.
            with suppress(OSError):
                place.rmdir()
        else:
            each.rename(place)


def _holds(file: Path, body: bytes) -> bool:
    with suppress(OSError):
        return not file.is_symlink() and file.stat().st_size == len(body) and file.read_bytes() == body
    return False


def _write(file: Path, body: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(body)
        stream.flush()
        os.fsync(stream.fileno())


def _same(file: Path, target: Path) -> None:
    """The very same file in another place, or where the disk can't do that a copy with its time."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)
