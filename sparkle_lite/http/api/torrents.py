"""The REST API of torrents: the identifier that clients send instead of an info-hash."""

from typing import Annotated

import msgspec
from litestar import get
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from sparkle_lite.http.api.common import Answer, api_router, documented, ok
from sparkle_lite.wire.torrents import parse_info_hash, torrent_identifier


class TorrentHash(msgspec.Struct, frozen=True, rename="camel"):
    """What clients send instead of the info-hash: 64 hex digits."""

    torrent_identifier: str


@get(
    "/torrent/hash",
    summary="The identifier of a torrent",
    operation_id="getTorrentIdentifier",
    description="Needs no login.",
    responses=documented(
        Answer[TorrentHash],
        "The identifier.",
        TorrentHash("52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"),
    ),
)
async def torrent_hash(
    info_hash: Annotated[
        str,
        QueryParameter(
            name="hash",
            description="An info-hash: 40 or 64 hex digits, or 32 base32 characters.",
            examples=[Example(value="a5b24a285c3533d80ce62181813640ac4a0e6ed7")],
        ),
    ],
) -> Answer[TorrentHash]:
    return ok(TorrentHash(torrent_identifier(parse_info_hash(info_hash))))


ROUTERS = (api_router([torrent_hash], tags=["torrent"]),)
