"""Reading: the file's tree, the environment's variables over it, each value as the type of its key."""

import difflib
import functools
import json
import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from sparkle_lite.config.keys import (
    IMPORT_NEEDS,
    LONGEST_PULL_MS,
    RULE_NEEDS,
    Config,
    ImportEntry,
    PresetSwitch,
    RuleEntry,
    entry_of,
    is_struct,
    keys_of,
    leaves,
    split_annotation,
)
from sparkle_lite.config.places import Key, Source, dotted, explain
from sparkle_lite.config.values import Duration, Refused, Secret, Size, is_writable, quote
from sparkle_lite.errors import ConfigError, Problem
from sparkle_lite.net import AddressError, Network, parse_network
from sparkle_lite.units import KIB


def load(
    schema: type[Config],
    path: Path | None,
    environ: Mapping[str, str],
    *,
    check: Callable[[Config], Iterable[Problem]] | None = None,
) -> Config:
    """The configuration of a file (None: the defaults) with the environment's variables over it.

    `schema` says which keys there are: Config, or a class derived from it. `check` looks at the whole configuration
    afterwards, and its problems are reported together with the others; a rule that is already known to be wrong has an
    empty `content` there. Raises ConfigError with all problems.
    """
    text = "" if path is None else _text(path)
    name = "" if path is None else str(path)
    tree = _parse(text, name)
    folder = Path.cwd() if path is None else path.absolute().parent
    variables, lines = _overlay(schema, tree, environ)
    reader = _Reader(schema, tree, folder)
    config = reader.read()
    if check is not None:
        reader.add(check(config))
    lines = explain(reader.problems, Source(name, text, variables)) + lines
    if lines:
        raise ConfigError(lines)
    return config


def source(schema: type[Config], path: Path | None, environ: Mapping[str, str]) -> Source:
    """Where the values of a configuration come from. Raises ConfigError for a file that can't be read."""
    text = "" if path is None else _text(path)
    name = "" if path is None else str(path)
    variables, _ = _overlay(schema, _parse(text, name), environ)
    return Source(name, text, variables)


def given(schema: type[Config], path: Path | None, environ: Mapping[str, str]) -> dict[str, str]:
    """The dotted keys that a file or the environment sets, with the name of that file or variable.

    Raises ConfigError for a file that can't be read.
    """
    tree = _parse("" if path is None else _text(path), str(path))
    variables, _ = _overlay(schema, tree, environ)
    by_variable = {dotted(key): name for key, name in variables.items()}
    file = "" if path is None else path.name
    return {key: by_variable.get(key, file) for key in _keys_in(tree)}


def parse(annotation: Any, raw: str | int) -> Any:
    """A value as a person writes it, or in ms and bytes, as the type of its key. Raises Refused."""
    kind, checks = split_annotation(annotation)
    value = kind(_whole(raw)) if kind is int or isinstance(raw, int) else _convert(kind, raw)
    for check in checks:
        value = check(value)
    return value


def _whole(raw: str | int) -> int:
    if isinstance(raw, int) or re.fullmatch(r"\s*-?[0-9]{1,18}\s*", raw):
        return int(raw)
    raise Refused(f"{quote(raw)} is not a whole number", "write a whole number, such as 10")


def _keys_in(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _keys_in(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _text(path: Path) -> str:
    hint = "name another file with --config"
    try:
        # A byte order mark is what some Windows editors begin UTF-8 with.
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file; create it or {hint}"]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: the file is not UTF-8; save it as UTF-8"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise ConfigError([f"{path}: can't be read ({reason}); mend that or {hint}"]) from None


_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        match = _TOML_PLACE.fullmatch(str(error))
        line = int(match[2]) if match and match[2] else text.count("\n") + 1 if match else 0
        reason = match[1] if match else "something here is too large"
    place = f"{name}:{line}" if line else name
    hint = "write key = value, with text in quotes and tables as [name]"
    raise ConfigError([f"{place}: not valid TOML: {reason}; {hint}"])


def _guess(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


@functools.cache
def _variables(schema: type[Config]) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Environment variable -> the key's path and type."""
    variables = {}
    for path, kind in leaves(schema):
        variables["SPARKLE_" + "__".join(path).upper()] = (path, kind)
        if kind is Secret:
            variables["SPARKLE_" + "__".join(path).upper() + "_FILE"] = ((*path[:-1], path[-1] + "_file"), str)
    return variables


def _overlay(
    schema: type[Config], tree: dict[str, Any], environ: Mapping[str, str]
) -> tuple[dict[Key, str], list[str]]:
    """Put the environment's values into the tree; gives the variables that were used and lines about wrong ones."""
    known = _variables(schema)
    used: dict[Key, str] = {}
    lines = []
    values: dict[tuple[str, ...], object] = {}
    for name in sorted(environ):
        if name in known:
            path, kind = known[name]
            used[path] = name
            values[path] = _from_text(kind, environ[name])
        elif name.startswith("SPARKLE_") and "__" in name:
            near = _guess(name.upper(), known)
            hint = f"did you mean {near}?" if near else "remove it, or see config.example.toml for the keys"
            lines.append(f"{name}: there is no such setting; {hint}")
    # The environment replaces a secret of the file whichever way each is given, so the old ones go before any is set.
    for path, kind in leaves(schema):
        pair = (path, (*path[:-1], path[-1] + "_file"))
        if kind is Secret and not values.keys().isdisjoint(pair):
            for key in pair:
                _table(tree, key).pop(key[-1], None)
    for path, value in values.items():
        _table(tree, path)[path[-1]] = value
    return used, lines


def _table(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The table that holds a key, made if it is missing; a loose one where the file has something else in its place."""
    for name in path[:-1]:
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            return {}
        tree = below
    return tree


_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _from_text(kind: Any, text: str) -> object:
    """A variable's text as the value that TOML would have given; text that doesn't fit stays text and is refused."""
    if kind is bool or kind == PresetSwitch:
        return _TRUTH.get(text.strip().lower(), text)
    if kind is int:
        return int(text) if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", text) else text
    if typing.get_origin(kind) is tuple:
        return _list_from_text(text, commas=kind == tuple[Network, ...] or _choices(kind) is not None)
    return text


def _list_from_text(text: str, *, commas: bool) -> object:
    for parse in (json.loads, lambda text: tomllib.loads(f"list = {text.strip()}")["list"]):
        try:
            value = parse(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list):
            return value
    return [part.strip() for part in text.split(",") if part.strip()] if commas or not text.strip() else text


class _Conflict(NamedTuple):
    paths: tuple[Key, ...]
    message: str
    hint: str


def _conflicts(config: Config) -> Iterator[_Conflict]:
    """Values that are right alone but not together."""
    limits, github = config.limits, config.auth.github
    body = limits.max_body_size
    for name, why in (
        ("max_inflated_size", f"is smaller than max_body_size, {body}"),
        ("queue_size", f"never has room for a body of max_body_size, {body}"),
    ):
        if getattr(limits, name) < body:
            hint = f'write {name} = "{body}" or more, or a smaller max_body_size'
            yield _Conflict((("limits", name), ("limits", "max_body_size")), f"{getattr(limits, name)} {why}", hint)
    if bool(github.client_id) != bool(github.client_secret):
        given, missing = ("client_id", "client_secret") if github.client_id else ("client_secret", "client_id")
        yield _Conflict(
            (("auth", "github", given), ("auth", "github", missing), ("auth", "github", "client_secret_file")),
            f"{given} is set without {missing}",
            f"set {missing} too, or remove both to switch login with GitHub off",
        )
    yield from _import_conflicts(config.imports)


def _import_conflicts(imports: Sequence[ImportEntry]) -> Iterator[_Conflict]:
    names: set[str] = set()
    for index, entry in enumerate(imports):
        path: Key = ("imports", index)
        if entry.name in names:
            yield _Conflict(((*path, "name"),), f"there is another list {quote(entry.name)}", "give it another name")
        names.add(entry.name)
        if bool(entry.url) == bool(entry.file):
            what = "url and file are both set" if entry.file else "says nowhere where the list is"
            hint = "remove one of them" if entry.file else 'write url = ["https://example.org/list.txt"] or file = "…"'
            yield _Conflict(((*path, "url"), (*path, "file"), path), what, hint)
        is_neighbour = entry.format == "sparkle"
        if is_neighbour and entry.interval > LONGEST_PULL_MS:
            what = "what a neighbour decided ends after a week in which it isn't heard of"
            yield _Conflict(((*path, "interval"),), what, 'write interval = "3d" or less')
        if (entry.app_id or entry.app_secret) and not (is_neighbour and entry.app_id and entry.app_secret):
            hint = 'set both for a list with format = "sparkle", and for no other'
            yield _Conflict(((*path, "app_id"), (*path, "app_secret"), path), "app_id and app_secret don't fit", hint)


class _Reader:
    """Turns the tree of raw values into structs and collects what is wrong with it; a wrong value gets its default."""

    def __init__(self, schema: type[Config], tree: dict[str, Any], folder: Path) -> None:
        self.problems: list[Problem] = []
        self._schema = schema
        self._tree = tree
        self._folder = folder

    def read(self) -> Config:
        config: Config = self._struct(self._schema, self._schema(), self._tree, ())
        database = msgspec.structs.replace(config.database, folder=self._folder)
        backup = msgspec.structs.replace(config.backup, start=self._folder)
        config = msgspec.structs.replace(config, database=database, backup=backup)
        wrong = {problem.path for problem in self.problems}
        for conflict in _conflicts(config):
            if wrong.isdisjoint(conflict.paths):
                path = next((path for path in conflict.paths if self._given(path)), conflict.paths[0])
                self._note(path, conflict.message, conflict.hint)
        return config

    def add(self, problems: Iterable[Problem]) -> None:
        """Take somebody else's problems, but not about rules that are known to be wrong."""
        wrong = {problem.path[:2] for problem in self.problems if problem.path[0] in ("rules", "exceptions")}
        self.problems += [problem for problem in problems if problem.path[:2] not in wrong]

    def _note(self, path: Key, message: str, hint: str) -> None:
        self.problems.append(Problem(path, message, hint))

    def _given(self, path: Key) -> bool:
        value: Any = self._tree
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True

    def _struct(self, cls: Any, default: Any, raw: object, path: Key) -> Any:
        if not isinstance(raw, dict):
            self._note(path, f"must be a table, not {_type_of(raw)}", f"write [{dotted(path)}] and its keys below")
            return default
        keys = keys_of(cls)
        secrets = {
            name + "_file": name for name, annotation in keys.items() if split_annotation(annotation)[0] is Secret
        }
        self._unknown(raw, [*keys, *secrets], path)
        raw = dict(raw)
        for file_key, name in secrets.items():
            self._secret_file(raw, name, file_key, path)
        values = {
            name: self._value(annotation, getattr(default, name), raw[name], (*path, name))
            for name, annotation in keys.items()
            if name in raw
        }
        return msgspec.structs.replace(default, **values)

    def _unknown(self, raw: dict[str, object], known: list[str], path: Key) -> None:
        for name in raw:
            if name in known:
                continue
            near = _guess(name, known)
            elsewhere = next((dotted(key) for key, _ in leaves(self._schema) if key[-1] == name), None)
            hint = f'did you mean "{near}"?' if near else f"known here: {', '.join(known)}"
            if elsewhere and not near:
                hint = f'did you mean "{elsewhere}"?'
            what = "ability" if path == ("btn", "abilities") else "key" if path else "section"
            self._note((*path, name), f"there is no such {what}", hint)

    def _secret_file(self, raw: dict[str, Any], name: str, file_key: str, path: Key) -> None:
        """Put the content of `<name>_file` in the place of the secret."""
        if file_key not in raw:
            return
        file = raw.pop(file_key)
        place = (*path, file_key)
        if raw.get(name):
            self._note(place, f"{name} and {file_key} are both set", "remove one of them")
            return
        try:
            raw[name] = _secret_of(self._folder, file)
        except Refused as refused:
            self._note(place, refused.message, refused.hint)

    def _value(self, annotation: Any, default: Any, raw: object, path: Key) -> Any:
        kind, checks = split_annotation(annotation)
        if is_struct(kind):
            return self._struct(kind, default, raw, path)
        if kind == tuple[Network, ...]:
            return self._list(raw, path, self._network, "networks", f'write {path[-1]} = ["192.168.0.0/16", "::1"]')
        if (entry := entry_of(kind)) is not None:
            hint = f"begin each with [[{path[-1]}]], or give the variable an array of tables as JSON or TOML"
            return self._list(raw, path, self._rule if entry is RuleEntry else self._import, "tables", hint)
        if (choice := _choices(kind)) is not None:
            hint = f"write {path[-1]} = [] or some of {', '.join(typing.get_args(choice))}"
            return self._list(raw, path, functools.partial(self._choice, choice), "names", hint)
        try:
            value = _row(kind, raw) if typing.get_origin(kind) is tuple else _convert(kind, raw)
            for check in checks:
                value = check(value)
        except Refused as refused:
            self._note(path, refused.message, refused.hint)
            return default
        return value

    def _list(self, raw: object, path: Key, read: Callable[[Any, Key], Any], of: str, hint: str) -> Any:
        if not isinstance(raw, list):
            self._note(path, f"must be a list of {of}, not {_type_of(raw)}", hint)
            return ()
        items = (read(item, (*path, index)) for index, item in enumerate(raw))
        return tuple(item for item in items if item is not None)

    def _choice(self, kind: Any, raw: object, path: Key) -> str | None:
        try:
            return str(_convert(kind, raw))
        except Refused as refused:
            self._note(path, refused.message, refused.hint)
        return None

    def _network(self, raw: object, path: Key) -> Network | None:
        try:
            return parse_network(_convert(str, raw))
        except Refused as refused:
            self._note(path, refused.message, refused.hint)
        except AddressError as error:
            message, _, hint = str(error).partition("; ")
            self._note(path, message, hint or 'write an address or a network, such as "10.0.0.0/8" or "::1"')
        return None

    def _import(self, raw: object, path: Key) -> ImportEntry | None:
        before = len(self.problems)
        entry: ImportEntry = self._struct(ImportEntry, ImportEntry(name="?", folder=self._folder), raw, path)
        if isinstance(raw, dict):
            self._missing(raw, IMPORT_NEEDS, path)
        return entry if len(self.problems) == before else None

    def _missing(self, raw: dict[str, object], needs: Mapping[str, str], path: Key) -> None:
        for name, hint in needs.items():
            if name not in raw:
                self._note((*path, name), "is missing", hint)

    def _rule(self, raw: object, path: Key) -> RuleEntry:
        before = len(self.problems)
        placeholder = RuleEntry(type="ip", category="?", content=())
        if not isinstance(raw, dict):
            hint = (
                'write type, category and content, such as { type = "ip", category = "PCDN", content = ["192.0.2.1"] }'
            )
            self._note(path, f"must be a table, not {_type_of(raw)}", hint)
            return placeholder
        keys = keys_of(RuleEntry)
        self._unknown(raw, list(keys), path)
        self._missing(raw, RULE_NEEDS, path)
        values = {
            name: self._value(annotation, None, raw[name], (*path, name))
            for name, annotation in keys.items()
            if name in raw and name != "content"
        }
        content = self._content(raw["content"], (*path, "content")) if "content" in raw else ()
        return placeholder if len(self.problems) > before else RuleEntry(**values, content=content)

    def _content(self, raw: object, path: Key) -> tuple[Any, ...]:
        if not isinstance(raw, list) or not raw:
            actual = "it is empty" if isinstance(raw, list) else f"it is {_type_of(raw)}"
            self._note(path, f"must be a list of at least one item, but {actual}", RULE_NEEDS["content"])
            return ()
        for index, item in enumerate(raw):
            if isinstance(item, bool) or not isinstance(item, str | int | dict) or not is_writable(item):
                hint = (
                    'write text in quotes, a port number, or a matcher such as { method = "CONTAINS", content = "x" }'
                )
                self._note((*path, index), f"{_type_of(item)} can't be a rule", hint)
        return tuple(raw)


# --- One value --------------------------------------------------------------------------------------------------------

_TYPE_NAMES = {
    bool: "true or false",
    int: "a number",
    float: "a number with a point",
    str: "text",
    list: "a list",
    dict: "a table",
    datetime: "a time",
    date: "a date",
    time: "a time of day",
    type(None): "null",
}


def _type_of(raw: object) -> str:
    return _TYPE_NAMES.get(type(raw), "something else")


def _convert(kind: Any, raw: object) -> Any:
    """A raw value as the type of its key; Refused, without the value of what may be a secret."""
    if kind is bool:
        return _expect(raw, bool, "true or false", "write true or false, without quotes")
    if kind == PresetSwitch:
        names = 'true, false or "preset"'
        return raw if raw == "preset" else _expect(raw, bool, names, f"write {names}")
    if kind is int:
        return _expect(raw, int, "a whole number", "write a whole number without quotes, such as 10")
    if kind is Duration:
        return Duration.parse(_expect(raw, str, "text", 'write "15m" (numbers with d, h, m, s or ms)'))
    if kind is Size:
        return Size.parse(_expect(raw, str, "text", 'write "32MiB" (a whole number with its unit)'))
    if kind == datetime | None:
        return _moment(raw)
    text: str = _expect(raw, str, "text", "write it in quotes")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise Refused("is not valid UTF-8", "write it in UTF-8")
    if typing.get_origin(kind) is Literal:
        return _choice(text, typing.get_args(kind))
    return kind(text)


def _row(kind: Any, raw: object) -> tuple[Any, ...]:
    """Several values of one kind; a single one may stand without brackets."""
    inside = typing.get_args(kind)[0]
    return tuple(_convert(inside, each) for each in (raw if isinstance(raw, list) else [raw]))


def _choices(kind: Any) -> Any:
    """The Literal in `tuple[Literal[...], ...]`, None for any other kind of key."""
    inside = typing.get_args(kind)
    is_list = typing.get_origin(kind) is tuple and len(inside) == 2 and typing.get_origin(inside[0]) is Literal
    return inside[0] if is_list else None


def _expect(raw: object, kind: type, name: str, hint: str) -> Any:
    if type(raw) is not kind:
        raise Refused(f"must be {name}, not {_type_of(raw)}", hint)
    return raw


def _choice(text: str, choices: tuple[str, ...]) -> str:
    if text in choices:
        return text
    near = _guess(text.lower(), choices)
    raise Refused(
        f"{quote(text)} is not one of {', '.join(choices)}",
        f'did you mean "{near}"?' if near else f'write "{choices[0]}"',
    )


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)?)?", re.ASCII)


def _moment(raw: object) -> datetime:
    value = raw
    try:
        if isinstance(value, str) and _RFC3339.fullmatch(value):
            value = datetime.fromisoformat(value.upper())
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    actual = quote(raw) if isinstance(raw, str) else _type_of(raw)
    raise Refused(f"must be a moment, not {actual}", "write 2027-01-01T00:00:00Z")


def _secret_of(folder: Path, raw: object) -> str:
    """The text of a secret's file; relative paths start at the folder of the config file."""
    name: str = _expect(raw, str, "text", 'write a path, such as "secrets/github"')
    file = folder / name
    hint = "name a readable text file that holds only the secret"
    try:
        with file.open("rb") as stream:
            content = stream.read(64 * KIB + 1)
        text: str = content.decode("utf-8-sig").strip()
    except FileNotFoundError:
        raise Refused(f"there is no file {quote(file)}", hint) from None
    except UnicodeDecodeError:
        raise Refused(f"the file {quote(file)} is not UTF-8", hint) from None
    except (OSError, ValueError):
        raise Refused(f"the file {quote(file)} can't be read", hint) from None
    if not text or len(content) > 64 * KIB:
        raise Refused(f"the file {quote(file)} is {'larger than 64 KiB' if text else 'empty'}", hint)
    return text
