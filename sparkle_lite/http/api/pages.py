"""Numbered pages, and what else several operations on accounts take."""

from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

from sparkle_lite.http.api.common import invalid
from sparkle_lite.units import INT64_MAX

T = TypeVar("T")
MAX_PAGE_SIZE = 3000


class NumberedPage(msgspec.Struct, Generic[T], frozen=True):
    """One page; `page` (from 0) and `size` are those asked for, `total` is exact."""

    page: int
    size: int
    total: int
    results: list[T]


LINE_SCHEMA = {"minLength": 1, "maxLength": 255, "pattern": r"\S"}


class BanRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why somebody is banned: 1-255 characters; they are shown it."""

    reason: Annotated[str, msgspec.Meta(examples=["sends invented peers"], extra_json_schema=LINE_SCHEMA)]


PageNumber = Annotated[
    int,
    QueryParameter(name="page", description="Which page, from 0.", schema_extra={"minimum": 0, "maximum": INT64_MAX}),
]
PageSize = Annotated[
    int,
    QueryParameter(
        name="pageSize",
        description="Rows in a page.",
        schema_extra={"minimum": 1, "maximum": MAX_PAGE_SIZE},
    ),
]
EXAMPLE_APP_ID = "8c788023-8f09-4d5e-9d0c-0f3f3c1f6b1a"


def check_page(page: int, size: int) -> None:
    """Refuse pages that can't be."""
    if page < 0:
        raise invalid("page.negative")
    if page > INT64_MAX:
        raise invalid("page.large")
    if size < 1:
        raise invalid("page.size_small")
    if size > MAX_PAGE_SIZE:
        raise invalid("page.size_large", limit=MAX_PAGE_SIZE)
