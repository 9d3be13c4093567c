"""Settings made on a page: they live in the main database, and the file and the environment win over them."""

import functools
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.config import Config, Duration, Refused, Size, parse
from sparkle_lite.config.keys import BackupSection, is_struct, keys_of, split_annotation
from sparkle_lite.config.values import Bounds
from sparkle_lite.db import accounts as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import joined, phrase

S = TypeVar("S", bound=msgspec.Struct)

# The guide for a new server was walked through, or put aside.
WELCOMED = "welcomed"
_PREFIX = "page:"
BACKUP_EVERY = "backup.every"
# What takes a setting back, beside nothing at all.
_TAKEN_BACK = "preset"

SettingKind = Literal["choice", "count", "duration", "size"]


class Setting(NamedTuple):
    """A key that can be set on a page: its values, or the bounds of its number (ms, bytes; None: any)."""

    key: str
    kind: SettingKind
    annotation: Any
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int | None = None
    zero_is_preset: bool = False


@functools.cache
def known() -> Mapping[str, Setting]:
    """What can be set on a page, by its dotted key: how often a backup is made, and everything about the analyses."""
    settings = {BACKUP_EVERY: _setting(BACKUP_EVERY, keys_of(BackupSection)["every"])}
    for name, annotation in keys_of(keys_of(SCHEMA)["analysis"]).items():
        kind = split_annotation(annotation)[0]
        below = (
            {f"{name}.{key}": each for key, each in keys_of(kind).items()} if is_struct(kind) else {name: annotation}
        )
        for path, each in below.items():
            settings[f"analysis.{path}"] = _setting(f"analysis.{path}", each)
    return settings


def _setting(key: str, annotation: Any) -> Setting:
    kind, checks = split_annotation(annotation)
    if typing.get_origin(kind) is Literal:
        return Setting(key=key, kind="choice", annotation=annotation, choices=typing.get_args(kind))
    [bounds] = [check for check in checks if isinstance(check, Bounds)]
    kinds: dict[Any, SettingKind] = {Duration: "duration", Size: "size"}
    return Setting(
        key=key,
        kind=kinds.get(kind, "count"),
        annotation=annotation,
        low=bounds.low,
        high=bounds.high,
        zero_is_preset=bounds.or_zero,
    )


def read(key: str, text: str) -> Any:
    """What is written on a page as the value of a key; None where the preset or the default shall say it.

    Raises SparkleError (bad_request) with a sentence that says what to write.
    """
    setting = known().get(key)
    if setting is None:
        raise SparkleError("bad_request", "setting.unknown", key=key[:64])
    if text in ("", _TAKEN_BACK):
        return None
    try:
        value = parse(setting.annotation, text)
    except Refused:
        raise _refused(setting) from None
    return None if value == 0 and setting.zero_is_preset else value


def _refused(setting: Setting) -> SparkleError:
    """Says what to write."""
    match setting.kind:
        case "choice":
            said = phrase("setting.choose", choices=joined("language.comma", setting.choices))
        case "count":
            said = phrase("setting.count", low=setting.low, high=setting.high)
        case "duration":
            low, high = str(Duration(setting.low)), str(Duration(setting.high or 0))
            said = phrase("setting.duration", low=low, high=high)
        case "size":
            said = phrase("setting.size")
    return SparkleError("bad_request", said.key, **said.values)


class Settings:
    """The settings of one server, and the configuration in effect with them.

    `written` is what the file and the environment say, `given` the dotted keys that either sets, with its name.
    """

    def __init__(self, database: Database, audit: Audit, written: Config, given: Mapping[str, str]) -> None:
        self.database = database
        self._audit = audit
        self.written, self.given = written, given
        self.values: dict[str, Any] = {}
        self.config = written

    async def load(self) -> None:
        """Read what was set."""
        async with self.database.reader() as connection:
            stored = await store.settings(connection, _PREFIX)
        self.values = {}
        for key, text in stored.items():
            try:
                value = read(key, text)
            except SparkleError:
                # What an earlier version knew and this one doesn't is passed over.
                continue
            if value is not None:
                self.values[key] = value
        self._settle()

    def rewrite(self, written: Config, given: Mapping[str, str]) -> None:
        """The file or the environment says something else now."""
        self.written, self.given = written, given
        self._settle()

    def _settle(self) -> None:
        """What was set on pages counts where neither the file nor the environment says otherwise."""
        config = self.written
        for key, value in self.values.items():
            if key not in self.given:
                config = _with(config, tuple(key.split(".")), value)
        self.config = config

    async def change(self, changes: Mapping[str, Any], actor: Actor) -> None:
        """Set keys to values as `read` gives them, all or none; None takes back what was set.

        Raises SparkleError: forbidden, conflict where the file or the environment sets one.
        """
        actor.require_admin()
        for key in changes:
            if key in self.given:
                raise SparkleError("conflict", "setting.given", key=key)
        changed = {key: value for key, value in changes.items() if value != self.values.get(key)}
        if changed:
            await self._store(changed, actor)
            self.values = {key: value for key, value in {**self.values, **changed}.items() if value is not None}
            self._settle()

    @transacted
    async def _store(self, connection: Connection, changed: Mapping[str, Any], actor: Actor) -> None:
        for key, value in changed.items():
            if value is None:
                await store.delete_setting(connection, _PREFIX + key)
            else:
                await store.set_setting(connection, _PREFIX + key, str(value))
            text = _TAKEN_BACK if value is None else str(value)
            await self._audit.record(connection, actor, "SETTING_CHANGE", key=key, value=text)

    async def is_welcomed(self) -> bool:
        """Whether the guide for a new server was done, or is not needed because clients come already."""
        async with self.database.reader() as connection:
            if await store.setting(connection, WELCOMED) is not None:
                return True
            return await store.has_visitors(connection)

    @transacted
    async def note_welcomed(self, connection: Connection) -> None:
        """Don't lead to the guide any more."""
        await store.keep_setting(connection, WELCOMED, 1)


def _with(struct: S, path: tuple[str, ...], value: Any) -> S:
    name, *below = path
    new = _with(getattr(struct, name), tuple(below), value) if below else value
    return msgspec.structs.replace(struct, **{name: new})
