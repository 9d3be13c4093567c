"""Settings made on a page: they live in the main database, and the file and the environment win over them."""

import functools
import typing
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import msgspec

from sparkle_lite.accounts import Actor, Write
from sparkle_lite.config import Config
from sparkle_lite.config.keys import Analysis, is_struct, keys_of, split_hint
from sparkle_lite.db import accounts as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database
from sparkle_lite.errors import SparkleError

S = TypeVar("S", bound=msgspec.Struct)

# The guide for a new server was walked through, or put aside.
WELCOMED = "welcomed"
_PREFIX = "page:"


@functools.cache
def choices() -> Mapping[str, tuple[str, ...]]:
    """What can be set on a page: dotted key -> its values."""
    found = {}
    for name, hint in keys_of(Analysis).items():
        kind = split_hint(hint)[0]
        if is_struct(kind):
            found[f"analysis.{name}.mode"] = typing.get_args(split_hint(keys_of(kind)["mode"])[0])
        elif typing.get_origin(kind) is typing.Literal:
            found[f"analysis.{name}"] = typing.get_args(kind)
    return found


class Settings:
    """The settings of one server; `given` are the dotted keys that the file or the environment sets."""

    def __init__(self, database: Database, write: Write, clock: Callable[[], int], given: Collection[str] = ()) -> None:
        self._database = database
        self._write = write
        self._clock = clock
        self.given = given
        self.values: dict[str, str] = {}

    async def load(self) -> None:
        """Read what was set."""
        async with self._database.reader() as connection:
            stored = await store.settings(connection, _PREFIX)
        # What an earlier version knew and this one doesn't is passed over.
        self.values = {key: text for key, text in stored.items() if text in choices().get(key, ())}

    def over(self, config: Config) -> Config:
        """A configuration with what was set on pages, where neither the file nor the environment says otherwise."""
        for key, value in self.values.items():
            if key not in self.given:
                config = _with(config, tuple(key.split(".")), value)
        return config

    async def change(self, key: str, value: str, actor: Actor) -> None:
        """Set a key. Raises SparkleError: forbidden, bad_request, conflict where the file or environment sets it."""
        if not actor.admin:
            raise SparkleError("forbidden", "Access denied: this is for administrators.", "拒绝访问")
        if value not in choices().get(key, ()):
            raise SparkleError("bad_request", f"{key} can't be set to that here.", f"无法在此将 {key} 设为该值。")
        if key in self.given:
            raise SparkleError(
                "conflict",
                f"{key} is set in the configuration file or the environment, which wins; change it there.",
                f"{key} 已在配置文件或环境变量中设置，并以其为准，请在那里修改。",
            )

        async def command(connection: Connection) -> None:
            await store.set_setting(connection, _PREFIX + key, value)
            details: dict[str, object] = {"key": key, "value": value}
            await store.add_audit(
                connection, self._clock(), "SETTING_CHANGE", True, actor.user, actor.address, actor.user_agent, details
            )

        await self._write(command)
        self.values[key] = value

    async def is_welcomed(self) -> bool:
        """Whether the guide for a new server was done, or is not needed because clients come already."""
        async with self._database.reader() as connection:
            if await store.setting(connection, WELCOMED) is not None:
                return True
            return await store.has_visitors(connection)

    async def note_welcomed(self) -> None:
        """Don't lead to the guide any more."""
        await self._write(lambda connection: store.keep_setting(connection, WELCOMED, 1))


def _with(struct: S, path: tuple[str, ...], value: str) -> S:
    name, *below = path
    new = _with(getattr(struct, name), tuple(below), value) if below else value
    return msgspec.structs.replace(struct, **{name: new})
