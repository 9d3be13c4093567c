"""Files that are being sent. Each holds a page of rows in memory until its reader has taken it, so nobody has many."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Self, cast

from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import AnyRequest

# What one person may have under way.
AT_ONCE = 4


class Downloads:
    """The files that one server is sending, by whose they are."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()

    def begin(self, person: int, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A file in pieces for a person (row id), counted until it is over, however it ends.

        Raises SparkleError (too_many) where they have four under way.
        """
        if self._open[person] >= AT_ONCE:
            raise SparkleError("too_many", "query.files_at_once", limit=AT_ONCE, retry_after=10)
        self._open[person] += 1
        return _File(self, person, pieces)

    def end(self, person: int) -> None:
        """One of a person's files is over."""
        self._open[person] -= 1
        if not self._open[person]:
            del self._open[person]


def downloads_of(request: AnyRequest) -> Downloads:
    """The files of the server that a request came to."""
    return cast(Downloads, request.app.state.downloads)


class _File(AsyncIterator[bytes]):
    def __init__(self, downloads: Downloads, person: int, pieces: AsyncIterator[bytes]) -> None:
        self._downloads = downloads
        self._person = person
        self._pieces = pieces
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except BaseException:
            self._end()
            raise

    def __del__(self) -> None:
        # A reader that goes away is noticed between two pieces, and one of a HEAD before the first.
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._downloads.end(self._person)
