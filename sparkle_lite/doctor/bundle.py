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
from urllib.request import ProxyHandler, build_opener

import sparkle_lite
from sparkle_lite import config as configuration
from sparkle_lite import logs
from sparkle_lite.db import accounts, checkup
from sparkle_lite.db.connection import refused
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

# Prefix lengths that addresses are shortened to; IPv6 that holds an address of IPv4 has it right behind these.
_SHORT = {4: 24, 6: 48}
_HOLDING = {ipaddress.IPv6Network("2002::/16"): 16, ipaddress.IPv6Network("2001::/32"): 32}
# What every machine has tells nothing.
_KEPT = frozenset(map(ipaddress.ip_address, ("127.0.0.1", "::1", "0.0.0.0", "::")))  # noqa: S104 -- compared, not bound
_ADDRESS = re.compile(
    # IPv6 that ends like IPv4, IPv6, IPv4.
    r"(?<![0-9A-Fa-f:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:\d{1,3}\.){3}\d{1,3}(?:/\d{1,3})?(?!\d)"
    r"|(?<![0-9A-Fa-f:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:%\w+)?(?:/\d{1,3})?(?![0-9A-Za-z:])"
    r"|(?<!\d)(?:\d{1,3}\.){3}\d{1,3}(?:/\d{1,3})?(?!\d)"
)
# Values of a query and who logs in by a URL: anybody's, so what they are called says nothing.
_QUERY = re.compile(r"""([?&][^\s=&#"'<>]{1,200}=)[^\s&#"'<>]+""")
_LOGIN = re.compile(r"""(://)[^\s/?#"'<>]+@""")
_NO_LOG = "Left out: the names that would have to be replaced in it are in the database, which can't be read."
# Escapes in front of a word are no part of it.
_ESCAPE = re.compile(r"\\[bfnrt]")
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
        veiled = "\n".join(map(_veiled_line, text.split("\n")))
        # The longest first: a name may be a part of another one.
        parts = sorted(map(_whole_word, self._present(veiled)), key=len, reverse=True)
        return re.sub("|".join(parts), self._replaced, veiled) if parts else veiled

    def _present(self, text: str) -> list[str]:
        """The names that may be in a text: there may be many thousands, and one by one they would take for ever."""
        words, characters = frozenset(_WORDS.findall(_ESCAPE.sub(" ", text))), frozenset(text)
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
    return rf"(?:(?<![{_WORD}])|(?<=\\[bfnrt])){re.escape(name)}(?![{_WORD}])"


def _veiled_line(line: str) -> str:
    # A container's log has its name before the JSON.
    head, brace, rest = line.partition("{")
    if brace:
        with suppress(ValueError, RecursionError):
            # What is escaped in it would not be found.
            line = head + json.dumps(_veiled_value(json.loads(brace + rest)))
    return _veiled(line)


def _veiled_value(value: Any) -> Any:
    match value:
        case str():
            return _veiled(value)
        case list():
            return [_veiled_value(each) for each in value]
        case dict():
            return {_veiled(name): _veiled_value(each) for name, each in value.items()}
    return value


def _veiled(text: str) -> str:
    """The text without secrets and whole addresses."""
    masked = _LOGIN.sub(rf"\g<1>{logs.MASK}@", _QUERY.sub(rf"\g<1>{logs.MASK}", logs.redact(text)))
    return _ADDRESS.sub(_shortened, masked)


def _shortened(match: re.Match[str]) -> str:
    whole, _, prefix = match[0].partition("/")
    text = whole.partition("%")[0]
    # A colon before or behind it may be the sentence's, and a ninth number a port.
    cuts = ((text, 0), (text[1:], 1), (text[:-1], 0), (text[1:-1], 1), (text.rpartition(":")[0], 0))
    for cut, start in cuts:
        with suppress(ValueError):
            network = _network(ipaddress.ip_address(cut), prefix)
            rest = whole[start + len(cut) :] if cut != text else ""
            return f"{whole[:start]}{network}{rest}"
    return match[0]


def _network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: str) -> str:
    """The network that an address is shortened to; `prefix`: the length that stood behind it."""
    address = getattr(address, "ipv4_mapped", None) or address
    if address in _KEPT:
        return f"{address}/{prefix}" if prefix else str(address)
    longest = next((length for holding, length in _HOLDING.items() if address in holding), _SHORT[address.version])
    length = min(int(prefix), longest) if prefix else longest
    return str(ipaddress.ip_network((address, length), strict=False))


async def write_bundle(target: Path, place: InstalledServer, results: Sequence[CheckResult], log: Path | None) -> None:
    """Write the archive, readable by its owner alone; `log` is a file with the server's log.

    Raises SparkleError: conflict where there is such a file already, not_found for a log that can't be read.
    """
    stored = await _stored_names(place.database) if place.database is not None else None
    veil = Veil(_named("account", _account_names(place)) | (stored or {}))
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
    parts["log.txt"] = _NO_LOG if stored is None else await on_thread(partial(_log_lines, log))
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


async def _stored_names(database: Database) -> dict[str, str] | None:
    """What people and applications are called, and what stands for it here; None where that can't be read."""
    try:
        with refused("read", database.path):
            async with database.reader() as reader:
                users, apps = await accounts.users(reader), await accounts.userapps(reader)
    except SparkleError:
        return None
    of_users = [
        name for user in users for name in (user.name, user.nickname, user.github_login, user.email, user.avatar)
    ]
    return _named("app", [name for app in apps for name in (app.app_id, app.comment)]) | _named("user", of_users)


def _account_names(place: InstalledServer) -> Iterable[str]:
    """The user of the system whose files these are: paths name it, too."""
    names = {Path.home().name}
    if place.database is not None:
        names.add(checkup.owner_of(place.database.path).partition(" (")[0])
    return names - {"", "root", "sparkle"}


def _named(kind: str, names: Iterable[str | None]) -> dict[str, str]:
    salt = secrets.token_bytes(16)
    return {name: f"{kind}-{_digest(name, salt)}" for name in names if name}


def _digest(name: str, salt: bytes) -> str:
    return hashlib.blake2b(name.encode("utf-8", "replace"), key=salt, digest_size=5).hexdigest()


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
        # No proxy, whatever the environment says: it is this machine.
        with build_opener(ProxyHandler({})).open(f"{url}/metrics", timeout=_METRICS_S) as answer:
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


def require_free(target: Path) -> None:
    """Raises SparkleError: conflict where there is such a file already."""
    if os.path.lexists(target):
        raise SparkleError("conflict", "doctor.bundle_exists", path=target)


def _write(target: Path, parts: Mapping[str, str]) -> None:
    require_free(target)
    with refused("write", target):
        opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(opened, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
                for name, text in parts.items():
                    _add(archive, name, text.encode("utf-8", "replace"))
        except BaseException:
            # Half an archive is of no use, and would be in the way of a whole one.
            target.unlink()
            raise


def _add(archive: tarfile.TarFile, name: str, body: bytes) -> None:
    info = tarfile.TarInfo(f"sparkle-lite/{name}")
    info.size, info.mode, info.mtime = len(body), 0o600, int(time.time())
    archive.addfile(info, io.BytesIO(body))
