"""The archive for somebody who shall help: what the checks found, and what that rests on, without what is private.

Secrets are masked where they are known to be and wherever something looks like one. Addresses are shortened to their
network, names of people and applications replaced by a hash that is the same all through one archive and no other.
"""

import hashlib
import io
import ipaddress
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import tarfile
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import sparkle_lite
from sparkle_lite import config as configuration
from sparkle_lite import logs
from sparkle_lite.db import accounts, checkup
from sparkle_lite.db.database import Database
from sparkle_lite.db.faults import FileFault
from sparkle_lite.doctor.findings import CheckResult, worst
from sparkle_lite.doctor.installation import InstalledServer
from sparkle_lite.doctor.patience import on_thread
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import ENGLISH

# Lines of the log that are taken, and how far from its end they are looked for (bytes).
LOG_LINES, _LOG_BYTES = 2_000, 4 << 20
_JOURNAL_S, _METRICS_S, _COUNT_S = 10.0, 3.0, 20.0
_UNIT = "sparkle-lite"
_PACKAGES = ("litestar", "msgspec", "aiosqlite", "uvicorn", "uvloop", "httptools", "httpx", "pyjwt", "regex")

# Prefix lengths that addresses are shortened to.
_SHORT = {4: 24, 6: 48}
# What every machine has tells nothing.
_KEPT = frozenset(map(ipaddress.ip_address, ("127.0.0.1", "::1", "0.0.0.0", "::")))  # noqa: S104 -- compared, not bound
_ADDRESS = re.compile(
    # IPv6 that ends like IPv4, IPv6, IPv4.
    r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:\d{1,3}\.){3}\d{1,3}(?:/\d{1,3})?(?![\w.]?\d)"
    r"|(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:%\w+)?(?:/\d{1,3})?(?![\w:])"
    r"|(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?:/\d{1,2})?(?![\w.]?\d)"
)
_WORD = "A-Za-z0-9_"
_WORDS = re.compile(f"[{_WORD}]+")


class Veil:
    """Takes out of texts what is private: `names` are replaced by what stands for them."""

    def __init__(self, names: Mapping[str, str]) -> None:
        # Texts of JSON have them with escapes, those of the log all but ASCII.
        self._names = {
            form: label
            for name, label in names.items()
            for form in (name, json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1])
        }
        self._words = {form: frozenset(_WORDS.findall(form)) for form in self._names}

    def __call__(self, text: str) -> str:
        """The text without secrets, whole addresses and names."""
        veiled = "\n".join(_ADDRESS.sub(_shortened, logs.redact(line)) for line in text.split("\n"))
        # The longest first: a name may be a part of another one.
        parts = sorted(map(_whole_word, self._present(veiled)), key=len, reverse=True)
        return re.sub("|".join(parts), self._replaced, veiled) if parts else veiled

    def _present(self, text: str) -> list[str]:
        """The names that may be in a text: there may be many thousands, and one by one they would take for ever."""
        words, characters = frozenset(_WORDS.findall(text)), frozenset(text)
        return [
            name
            for name, own in self._words.items()
            if (own <= words if name.isascii() else characters.issuperset(name)) and name in text
        ]

    def _replaced(self, match: re.Match[str]) -> str:
        return self._names[match[0]]


def _whole_word(name: str) -> str:
    """A pattern for a name; in a text without blanks between words it is one wherever it stands."""
    if not name.isascii():
        return re.escape(name)
    return f"(?<![{_WORD}]){re.escape(name)}(?![{_WORD}])"


def _shortened(match: re.Match[str]) -> str:
    text, _, prefix = match[0].partition("/")
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return match[0]
    address = getattr(address, "ipv4_mapped", None) or address
    longest = _SHORT[address.version]
    length = min(int(prefix), longest) if prefix else longest
    if address in _KEPT or (prefix and int(prefix) <= longest):
        return match[0]
    return str(ipaddress.ip_network((address, length), strict=False))


async def write_bundle(target: Path, place: InstalledServer, results: Sequence[CheckResult], log: Path | None) -> None:
    """Write the archive, readable by its owner alone; `log` is a file with the server's log.

    Raises SparkleError: conflict where there is such a file already, not_found for a log that can't be read.
    """
    veil = Veil(await _names(place))
    parts = {
        "doctor.json": _json(findings_as_json(results)),
        "system.json": _json(_system()),
        "readyz.json": _json(place.readiness),
    }
    if place.config is not None:
        parts["config.toml"] = configuration.show(place.config)
        if place.is_served:
            parts["metrics.txt"] = await on_thread(partial(_metrics, place.url))
    if place.database is not None:
        look = partial(_files, place.database.path, served=place.is_served)
        parts["files.json"] = _json(await on_thread(look))
    parts["log.txt"] = await on_thread(partial(_log_lines, log))
    await on_thread(partial(_write, target, {name: veil(text) for name, text in parts.items() if text}))


def findings_as_json(results: Sequence[CheckResult]) -> dict[str, Any]:
    """What all checks found, in English."""
    return {
        "worst": worst(results),
        "findings": [
            {
                "check": result.check,
                "level": finding.level,
                "message": finding.said.text(ENGLISH),
                "mend": finding.mend.text(ENGLISH) if finding.mend else None,
            }
            for result in results
            for finding in result.findings
        ],
    }


def _json(value: object) -> str:
    return "" if value is None else json.dumps(value, indent=1, ensure_ascii=False, default=str)


async def _names(place: InstalledServer) -> dict[str, str]:
    """What people and applications are called, and what stands for it here."""
    salt = secrets.token_bytes(16)
    found = {_label("account", name, salt): name for name in _account_names(place)}
    if place.database is not None:
        found |= await _stored_names(place.database, salt)
    return {name: label for label, name in found.items() if name}


async def _stored_names(database: Database, salt: bytes) -> dict[str, str]:
    async with database.reader() as reader:
        users, apps = await accounts.users(reader), await accounts.userapps(reader)
    found: dict[str, str] = {}
    for user in users:
        for name in (user.name, user.nickname, user.github_login, user.email, user.avatar):
            if name:
                found[_label("user", name, salt)] = name
    for app in apps:
        for name in (app.app_id, app.comment):
            if name:
                found[_label("app", name, salt)] = name
    return found


def _account_names(place: InstalledServer) -> Iterable[str]:
    """The user of the system whose files these are: paths name it, too."""
    names = {Path.home().name}
    if place.database is not None:
        names.add(checkup.owner_of(place.database.path).partition(" (")[0])
    return names - {"", "root", "sparkle"}


def _label(kind: str, name: str, salt: bytes) -> str:
    return f"{kind}-{hashlib.blake2b(name.encode('utf-8', 'replace'), key=salt, digest_size=5).hexdigest()}"


# --- What is in it ----------------------------------------------------------------------------------------------------


def _system() -> dict[str, Any]:
    """The program, what it runs on, and with which libraries."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "sparkle_lite": sparkle_lite.__version__,
        "python": platform.python_version(),
        "sqlite": checkup.SQLITE,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": packages,
    }


def _files(path: Path, *, served: bool) -> list[dict[str, Any]]:
    """Each file with its schema version, sizes (bytes), rights, and how many rows its tables have."""
    until = time.monotonic() + _COUNT_S
    return [_file(file, served=served, until=until) for file in checkup.files(path, served=served)]


def _file(file: checkup.DatabaseFile, *, served: bool, until: float) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": file.path.name,
        "size": file.size,
        "log": file.log_size,
        "mode": f"{file.mode:03o}",
        "hot": file.is_hot,
    }
    try:
        told["version"], _ = checkup.version(file.path, file.kind, served=served)
        told["rows"] = checkup.table_sizes(file.path, served=served, until=until)
    except FileFault as fault:
        told["fault"] = fault.message
    return told


def _metrics(url: str) -> str:
    """What is counted, how often each job ran among it; nothing where this machine may not read it."""
    try:
        with urlopen(f"{url}/metrics", timeout=_METRICS_S) as answer:  # noqa: S310 -- http, of this machine
            return str(answer.read(1 << 20).decode("utf-8", "replace"))
    except (OSError, ValueError):
        return ""


def _log_lines(log: Path | None) -> str:
    if log is None:
        return _journal()
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            lines = deque(file.read().decode("utf-8", "replace").splitlines(), LOG_LINES)
    except OSError as error:
        raise SparkleError("not_found", "doctor.no_log", path=log, why=error.strerror) from None
    return "\n".join(lines)


def _journal() -> str:
    """The last lines of the service's log, where this machine has such a service."""
    program = shutil.which("journalctl")
    if program is None:
        return ""
    command = [program, "-u", _UNIT, "-n", str(LOG_LINES), "-o", "cat", "--no-pager", "-q"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, timeout=_JOURNAL_S, stdin=subprocess.DEVNULL, check=False)  # noqa: S603
        return done.stdout.decode("utf-8", "replace")[-_LOG_BYTES:]
    return ""


def _write(target: Path, parts: Mapping[str, str]) -> None:
    try:
        opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SparkleError("conflict", "doctor.bundle_exists", path=target) from None
    with os.fdopen(opened, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in parts.items():
            body = text.encode("utf-8", "replace")
            info = tarfile.TarInfo(f"sparkle-lite/{name}")
            info.size, info.mode, info.mtime = len(body), 0o600, int(time.time())
            archive.addfile(info, io.BytesIO(body))
