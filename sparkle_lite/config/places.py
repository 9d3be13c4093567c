"""Where a value came from: the line of the file or the variable that a message about it names."""

import functools
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping

from sparkle_lite.config.values import toml_key
from sparkle_lite.errors import Problem

Key = tuple[str | int, ...]


_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_NAME = re.compile(r"""[ \t]*("(?:\\.|[^"\\])*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
_STRING = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""",
    re.DOTALL,
)
_BARE = re.compile(r"[^,\]}\n#]*")


class _Lines:
    """Finds the line of each key and array element in TOML text that tomllib has accepted.

    What it doesn't understand ends the search: what was found until there is right, the rest has no line.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._tables: dict[Key, int] = {}
        try:
            self._document()
        except (LookupError, ValueError, RecursionError):
            return

    def _document(self) -> None:
        table: Key = ()
        while self._next():
            table = self._header() if self._next() == "[" else self._pair(table)

    def _next(self) -> str:
        """The next character that is neither blank nor comment; "" at the end."""
        self._take(_SPACE)
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError
        self._at = match.end()
        return match

    def _note(self, path: Key) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        for end in range(1, len(path) + 1):
            self.lines.setdefault(path[:end], self._line)

    def _names(self) -> list[str]:
        names = []
        while True:
            name = self._take(_NAME)[1]
            names.append(tomllib.loads(f"name = {name}")["name"] if name[0] in "\"'" else name)
            if self._text[self._at] != ".":
                return names
            self._at += 1

    def _header(self) -> Key:
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        names = self._names()
        path: Key = ()
        for place, name in enumerate(names, 1):
            path = (*path, name)
            if many and place == len(names):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        self._note(path)
        self._at += 2 if many else 1
        return path

    def _pair(self, table: Key) -> Key:
        start = self._at
        path = (*table, *self._names())
        end, self._at = self._at, start
        self._note(path)
        self._at = end + 1
        self._value(path)
        return table

    def _value(self, path: Key) -> None:
        first = self._next()
        if first == "[":
            self._items("]", lambda index: self._element((*path, index)))
        elif first == "{":
            self._items("}", lambda _: self._pair(path))
        else:
            self._take(_STRING if first in "\"'" else _BARE)

    def _element(self, path: Key) -> None:
        self._note(path)
        self._value(path)

    def _items(self, close: str, read: Callable[[int], object]) -> None:
        self._at += 1
        index = 0
        while self._next() != close:
            read(index)
            index += 1
            if self._next() == ",":
                self._at += 1
        self._at += 1


class Source:
    """Where values came from: the text of the file called `name`, and the variables that set a key (path -> name)."""

    def __init__(self, name: str = "", text: str = "", variables: Mapping[Key, str] | None = None) -> None:
        self.name = name
        self._text = text
        self._variables = dict(variables or {})

    @functools.cached_property
    def _lines(self) -> dict[Key, int]:
        return _Lines(self._text).lines

    def locate(self, path: Key) -> tuple[str, int]:
        """The variable or file that holds a key, and its line: that of the nearest table around it, 0 if unknown."""
        around = [path[:end] for end in range(len(path), 0, -1)]
        for part in around:
            if part in self._variables:
                return self._variables[part], 0
        return self.name, next((self._lines[part] for part in around if part in self._lines), 0)


def explain(problems: Iterable[Problem], source: Source) -> list[str]:
    """Each problem as a line "config.toml:17: rules[1].content[0]: what is wrong; the hint", in the file's order."""
    placed = [(*source.locate(problem.path), problem) for problem in problems]
    placed.sort(key=lambda item: (item[0] != source.name, item[1]))
    return [_line(f"{name}:{line}" if line else name, problem) for name, line, problem in placed]


def _line(place: str, problem: Problem) -> str:
    return ": ".join(part for part in (place, dotted(problem.path), f"{problem.message}; {problem.hint}") if part)


def dotted(path: Key) -> str:
    """A path as people write it: rules[1].content[0]."""
    parts = [f"[{part}]" if isinstance(part, int) else "." + toml_key(part) for part in path]
    return "".join(parts).removeprefix(".")
