"""The rows of a body that is no valid JSON as a whole: damaged in a row, or cut off.

One row with a bracket, a quote or a comma too many makes every JSON parser give up on all of them. Here rows are cut
apart by brackets and strings alone, whatever stands between these; where even they don't fit together, reading goes on
at the next place that looks like the beginning of a row. What a row holds is for others to decode.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal, cast

Kind = Literal["peers", "bans", "swarms"]

# What one row may cost: objects and lists within it.
MAX_NESTING = 256

# How often the bytes of a body may be read again because a row that began before them has no end, and how many objects
# and lists may be counted; then each row may have a few, as those of all clients do.
_READINGS, _BRACKETS, _FEW = 4, 1_000_000, 16

_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_LIST = re.compile(rb'"(peers|bans|swarms)"%b:%b\[' % (_SPACE, _SPACE))
_TIME = rb'"populate_time"%b:%b("[^"]{0,64}"|[^\s,}\]]{1,64})' % (_SPACE, _SPACE)
_POPULATE_TIME = re.compile(_TIME)
_TIME_AT_END = re.compile(rb"%b%b\}%b\Z" % (_TIME, _SPACE, _SPACE))
# Behind a list its object ends or goes on; brackets or rows there say that this was not yet the end.
_LIST_END = rb'\]%b(?:,(?=%b"(?:populate_time|peers|bans|swarms)")|\}(?!%b[,\]}]))' % ((_SPACE,) * 3)
# Past commas, and brackets that close nothing; of a desert of them one part at a time, so that others get their turn.
_TO_ROW = re.compile(rb"(?:[ \t\r\n,}]++|(?!%b)\]){0,10000}+" % _LIST_END)
_TO_END = re.compile(_LIST_END)
_AFTER_ROW = re.compile(rb"%b(?:[,\]{]|\Z)" % _SPACE)
_ALL_ENDS = re.compile(rb"\]%b(?:,[^{}\[\]]*+)?\}%b\Z" % (_SPACE, _SPACE))
_TAIL = 256
# Up to the next bracket, or to a quote that begins no string: it has no end, or is followed by what can't follow one,
# which tells a lost quote at once.
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:%b(?=[:,}\] \t\r\n])[^"{}\[\]]*+)*+' % _STRING, re.DOTALL)
_NO_OBJECT = re.compile(rb'%b(?=%b[,\]])|\[[^"{}\[\]]*+\]|[^ \t\r\n,"{}\[\]]++' % (_STRING, _SPACE), re.DOTALL)
_CLOSING = {ord("{"): ord("}"), ord("["): ord("]")}
# What may stand before a bracket that opens, within an object and within a list.
_BEFORE_OPENING = {ord("}"): (b":",), ord("]"): (b",", b"")}


class DamagedBody:
    """The rows of one body, found in one pass; a row begins with one of `first_keys`.

    `is_complete` tells after the pass whether the body has an end: one that was cut off has none.
    """

    def __init__(self, data: bytes, first_keys: Iterable[str]) -> None:
        # Damage in the last row may hide the end of its list, but a body that was cut off seldom ends like one.
        self.is_complete = bool(_ALL_ENDS.search(data, max(0, len(data) - _TAIL)))
        self._data = data
        self._at = 0
        self._spare = _READINGS * len(data)
        self._brackets = _BRACKETS
        self._next_list = _LIST.search(data)
        self._populate_time: re.Match[bytes] | None = None
        begin = rb'\{%b"(?:%b)"' % (_SPACE, "|".join(map(re.escape, first_keys)).encode())
        self._row = re.compile(begin)
        self._next_row = re.compile(rb",%b(?=%b)" % (_SPACE, begin))

    @property
    def has_lists(self) -> bool:
        """Whether there is any list of rows; to be asked before the pass."""
        return self._next_list is not None

    @property
    def populate_time(self) -> bytes:
        """The JSON value of the body's time, which stands outside of the lists; empty if there is none."""
        found = self._populate_time or _TIME_AT_END.search(self._data, max(0, len(self._data) - _TAIL))
        return found[1] if found else b""

    def rows(self) -> Iterator[tuple[Kind, bytes | None]]:
        """Each row with the list that it stands in; None for one that can't be cut out."""
        while begin := self._list_from(self._at):
            kind = cast(Kind, begin[1].decode())
            self._populate_time = self._populate_time or _POPULATE_TIME.search(self._data, self._at, begin.start())
            self._at = begin.end()
            yield from ((kind, row) for row in self._rows_of_list())

    def count_rest(self) -> int:
        """How many rows there are behind the last one that was found, about: as many as begin like one."""
        return sum(1 for _ in self._next_row.finditer(self._data, self._at))

    def _list_from(self, at: int) -> re.Match[bytes] | None:
        if self._next_list and self._next_list.start() < at:
            self._next_list = _LIST.search(self._data, at)
        return self._next_list

    def _rows_of_list(self) -> Iterator[bytes | None]:
        data = self._data
        while True:
            start = self._at = cast("re.Match[bytes]", _TO_ROW.match(data, self._at)).end()
            if start == len(data):
                return
            if end := _TO_END.match(data, start):
                self._at, self.is_complete = end.end(), True
                return
            if data[start] in b"]}, \t\r\n":
                continue
            stop, is_whole = self._value(start)
            if is_whole:
                self._at = stop
                yield data[start:stop]
                if _AFTER_ROW.match(data, stop):
                    continue
                # A bracket closed too early: what follows is the rest of this row.
                start = stop - 1
            elif stop < len(data) or self.is_complete:
                yield None
            if not self._go_on(start, stop):
                return

    def _go_on(self, start: int, stop: int) -> bool:
        """Go to the next row of this list, past damage that was read from `start` to `stop`; False if there is none."""
        after = start + 1 if self._spare > 0 else stop
        self._spare -= stop - start
        other = self._list_from(after)
        end = other.start() if other else len(self._data)
        row = self._next_row.search(self._data, after, end)
        self._at = row.end() if row else end
        return bool(row)

    def _value(self, start: int) -> tuple[int, bool]:
        """Where the value at `start` ends and True, or how far it fits together and False."""
        data, at = self._data, start
        if data[at] != ord("{"):
            match = _NO_OBJECT.match(data, at)
            return (match.end(), True) if match else (at + 1, False)
        closing: list[int] = []
        gap = b""
        left = MAX_NESTING if self._brackets > 0 else _FEW
        self._brackets -= left
        while at < len(data) and left:
            if close := _CLOSING.get(data[at]):
                if closing and not self._may_open(closing[-1], gap, at):
                    break
                closing.append(close)
                left -= 1
            elif data[at] != closing[-1]:
                break
            elif len(closing) == 1:
                self._brackets += left
                return at + 1, True
            else:
                closing.pop()
            begin = at + 1
            at = cast("re.Match[bytes]", _TO_BRACKET.match(data, begin)).end()
            gap = data[begin:at]
        return at, False

    def _may_open(self, closing: int, gap: bytes, at: int) -> bool:
        """Whether a bracket may open here: a list within a row holds no rows, so that one without an end is noticed."""
        if gap.rstrip()[-1:] not in _BEFORE_OPENING[closing]:
            return False
        return closing != ord("]") or not self._row.match(self._data, at)
