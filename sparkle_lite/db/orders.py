"""The order of pages, and the cursors that say where one ended."""

import base64
import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Generic, NamedTuple, TypeVar

from sparkle_lite.db.conditions import FIELDS, Condition, Field, Query, Table
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import INT64_MAX

MAIN_TABLES: dict[Table, str] = {"ban": "m.ban", "discovery": "m.client_identity"}
# The order by time of receipt. Rows of segments have their ids in that order, so it needs no field there.
NEWEST: dict[Table, str] = {"ban": "insert_time", "discovery": "found_at"}
# What a cursor holds of a field of each kind: of an address its length and its bytes.
_KINDS = {"text": ("text",), "number": ("number",), "address": ("number", "bytes")}

K = TypeVar("K")
T = TypeVar("T")


class Position(NamedTuple, Generic[K]):
    """Where a page stands in an order: behind the row with a key (None: at the very beginning), or before that row."""

    key: K | None = None
    is_before: bool = False


def by_id(column: str, position: Position[int]) -> tuple[str, int]:
    """The end of a condition, with its order, for rows at a position by their ids, the highest first; and its value."""
    if position.is_before:
        return f"{column}>? ORDER BY {column}", position.key or 0
    return f"{column}<? ORDER BY {column} DESC", INT64_MAX if position.key is None else position.key


def in_order(found: list[T], position: Position[Any]) -> list[T]:
    """Rows that were found from a position on, in the order of the page."""
    return found[::-1] if position.is_before else found


class Key(NamedTuple):
    """Where a row stands in the order: what it is sorted by, and its id. `version` is the key of a cumulative row.

    Of an address `values` has the length in bytes, and then the bytes.
    """

    values: tuple[Any, ...]
    id: int
    version: int = 0


class Mark(NamedTuple):
    """What a cursor says: the first or last row of a page, and the total that was counted for the first page."""

    key: Key
    total: int
    exact: bool


def order_fields(query: Query) -> list[Field]:
    """The fields that a query's order needs; none where ids alone make it."""
    fields = FIELDS[query.table]
    names = query.order or (NEWEST.get(query.table, "id"),)
    if names == ("insert_time",) and query.descending and query.table not in MAIN_TABLES:
        return []
    return [fields[name] for name in takewhile(lambda name: name != "id", names)]


def behind(
    orders: Sequence[str], values: tuple[Any, ...], number: int, *, descending: bool, ids_descending: bool
) -> Condition:
    """The rows that come after one in an order that ends with the ids."""
    columns, places = ", ".join(orders), marks(orders)
    sign = "<" if descending else ">"
    if descending == ids_descending:
        return Condition(f"({columns}, s.id){sign}({places}, ?)", (*values, number))
    passed = ">" if ids_descending else "<"
    return Condition(
        f"({columns}){sign}=({places}) AND NOT (({columns})=({places}) AND s.id{passed}=?)",
        (*values, *values, number),
    )


def marks(items: Sequence[object]) -> str:
    """A placeholder for each item."""
    return ", ".join("?" * len(items))


def cursor(query: Query, mark: Mark) -> str:
    """The cursor of a page that begins or ends at a mark: nothing in it that the page doesn't show."""
    values = [value.hex() if isinstance(value, bytes) else value for value in mark.key.values]
    content = [query.table, query.order, query.descending, values, mark.key.id, mark.total, mark.exact]
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(query: Query) -> Mark:
    """Where another page ended or began. Raises SparkleError when it is no cursor, or one of another order."""
    name = "after" if query.before is None else "before"
    try:
        text = query.after or query.before or ""
        content = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
        table, order, descending, values, last, total, exact = content
        if [table, tuple(order), descending] != [query.table, query.order, query.descending]:
            raise ValueError
        kinds = [kind for field in order_fields(query) for kind in _KINDS[field.kind]]
        values = tuple(_value(kind, value) for kind, value in zip(kinds, values, strict=True))
        if not (_is_number(last, 1 << 62) and _is_number(total, 1 << 62) and isinstance(exact, bool)):
            raise ValueError
        return Mark(Key(values, last), total, exact)
    except (ValueError, TypeError, RecursionError):
        raise SparkleError("bad_request", "query.bad_cursor", name=name) from None


def _value(kind: str, value: object) -> object:
    if kind == "number":
        if not (isinstance(value, float) or _is_number(value, INT64_MAX + 1)):
            raise ValueError
    elif not isinstance(value, str):
        raise ValueError
    elif kind == "bytes":
        return bytes.fromhex(value)
    else:
        value.encode()
    return value


def _is_number(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit
