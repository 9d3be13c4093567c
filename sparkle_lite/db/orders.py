"""The order of pages, and the cursors that say where one ended."""

import base64
import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from sparkle_lite.db.conditions import FIELDS, Condition, Field, Query, Table
from sparkle_lite.errors import SparkleError

MAIN_TABLES: dict[Table, str] = {"ban": "m.ban", "discovery": "m.client_identity"}
# The order by time of receipt. Rows of segments have their ids in that order, so it needs no field there.
NEWEST: dict[Table, str] = {"ban": "insert_time", "discovery": "found_at"}


class Key(NamedTuple):
    """Where a row stands in the order: what it is sorted by, and its id. `version` is the key of a cumulative row."""

    values: tuple[Any, ...]
    id: int
    version: int = 0


class Mark(NamedTuple):
    """What a cursor says: the last row of the page before, and the total that was counted for the first page."""

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


def behind(orders: Sequence[str], values: tuple[Any, ...], number: int, descending: bool) -> Condition:
    """The rows that come after one in an order that ends with the ids, the highest first."""
    columns, places = ", ".join(orders), marks(orders)
    if descending:
        return Condition(f"({columns}, s.id)<({places}, ?)", (*values, number))
    return Condition(
        f"({columns})>=({places}) AND NOT (({columns})=({places}) AND s.id>=?)", (*values, *values, number)
    )


def marks(items: Sequence[object]) -> str:
    """A placeholder for each item."""
    return ", ".join("?" * len(items))


def cursor(query: Query, mark: Mark) -> str:
    """The cursor of a page that ends at a mark: nothing in it that the page doesn't show."""
    content = [query.table, query.order, query.descending, mark.key.values, mark.key.id, mark.total, mark.exact]
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(query: Query) -> Mark:
    """Where an earlier page ended. Raises SparkleError when it is no cursor, or one of another order."""
    try:
        text = query.after or ""
        content = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
        table, order, descending, values, last, total, exact = content
        if [table, tuple(order), descending] != [query.table, query.order, query.descending]:
            raise ValueError
        fields = order_fields(query)
        if len(values) != len(fields) or not all(map(_is_value, fields, values)):
            raise ValueError
        if not (_is_number(last, 1 << 62) and _is_number(total, 1 << 62) and isinstance(exact, bool)):
            raise ValueError
        return Mark(Key(tuple(values), last), total, exact)
    except (ValueError, TypeError, RecursionError):
        raise SparkleError(
            "bad_request",
            "after is not a cursor of this query; take the one that the page before gave, and keep the sorting.",
            "after 不是此查询的游标，请使用上一页返回的值，并保持相同的排序。",
        ) from None


def _is_value(field: Field, value: object) -> bool:
    if field.kind == "number":
        return isinstance(value, float) or _is_number(value, 1 << 63)
    return isinstance(value, str) and value.encode() is not None


def _is_number(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit
