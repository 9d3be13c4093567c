"""Writing: the effective configuration as TOML, and what of a new one a running server can't take over."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from sparkle_lite.config.keys import FIXED, RELOADABLE, Config, entry_of, keys_of, leaves, split_annotation
from sparkle_lite.config.places import dotted
from sparkle_lite.config.values import toml


def show(config: Config) -> str:
    """The effective configuration as TOML; a secret that is set is shown as "***"."""
    return "\n".join(_table_text(config, ())).lstrip("\n") + "\n"


def _table_text(struct: msgspec.Struct, path: tuple[str, ...]) -> Iterator[str]:
    below = []
    pairs = []
    for name, annotation in keys_of(type(struct)).items():
        value = getattr(struct, name)
        if isinstance(value, msgspec.Struct):
            below.append(_table_text(value, (*path, name)))
        elif entry_of(split_annotation(annotation)[0]) is not None:
            below.append(
                iter([line for entry in value for line in ("", f"[[{dotted((*path, name))}]]", *_pairs(entry))])
            )
        else:
            pairs.append(name)
    if pairs:
        yield from ("", f"[{dotted(path)}]", *_pairs(struct, pairs))
    for lines in below:
        yield from lines


def _pairs(struct: msgspec.Struct, names: Iterable[str] | None = None) -> Iterator[str]:
    for name in keys_of(type(struct)) if names is None else names:
        value = getattr(struct, name)
        if value is not None:
            yield f"{name} = {toml(value)}"


# --- Reloading --------------------------------------------------------------------------------------------------------


def restart_needed(old: Config, new: Config) -> list[str]:
    """The dotted keys that differ and that a running server can't take over."""
    return [dotted(path) for path, _ in leaves(type(new)) if not _reloadable(path) and _at(old, path) != _at(new, path)]


def _reloadable(path: tuple[str, ...]) -> bool:
    starts = {".".join(path[:end]) for end in range(1, len(path) + 1)}
    return not starts.isdisjoint(RELOADABLE) and starts.isdisjoint(FIXED)


def _at(config: Config, path: tuple[str, ...]) -> Any:
    return functools.reduce(getattr, path, config)
