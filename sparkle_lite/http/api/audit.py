"""The REST API of the audit: what was done and refused, for administrators."""

from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.params import QueryParameter

from sparkle_lite.accounts.audit import AuditFilter, AuditRow, Position
from sparkle_lite.http.api.common import Answer, allow_only, api_router, documented, invalid, ok
from sparkle_lite.http.api.pages import EXAMPLE_APP_ID, PageSize, check_page
from sparkle_lite.http.session import AnyRequest, Injected, requires_admin
from sparkle_lite.server import Server
from sparkle_lite.units import INT64_MAX


class AuditEntry(msgspec.Struct, frozen=True, rename="camel"):
    """Who did what, when (ms), from where, and whether it was done or refused."""

    id: int
    timestamp: int
    action: str
    success: bool
    user: int | None
    address: str | None
    user_agent: str | None
    details: dict[str, Any]


class AuditPage(msgspec.Struct, frozen=True):
    """Newest first; pass `next` as `after` for what is older. It is null at the end."""

    results: list[AuditEntry]
    next: int | None


_AUDIT = AuditEntry(
    id=7,
    timestamp=1723974917039,
    action="USERAPP_CREATE",
    success=True,
    user=1,
    address="203.0.113.9",
    user_agent="curl/8.9",
    details={"appId": EXAMPLE_APP_ID, "userAppOwner": 1, "userId": 1, "userAppId": 2},
)


@get(
    "/admin/audit",
    summary="What was done and refused",
    operation_id="adminAudit",
    description="Newest first; walk back with `after`.",
    responses=documented(Answer[AuditPage], "Some entries.", AuditPage([_AUDIT], 7)),
)
async def list_audit(
    request: AnyRequest,
    server: Injected[Server],
    page_size: PageSize = 100,
    action: Annotated[str | None, QueryParameter(description="Such as USER_LOGIN; exact.")] = None,
    user: Annotated[int | None, QueryParameter(description="Id of whoever did it.")] = None,
    success: Annotated[bool | None, QueryParameter(description="Done, or refused.")] = None,
    time_from: Annotated[int | None, QueryParameter(name="timeFrom", description="Not before (ms).")] = None,
    time_to: Annotated[int | None, QueryParameter(name="timeTo", description="Not after (ms).")] = None,
    after: Annotated[int | None, QueryParameter(description="`next` of the answer before.")] = None,
) -> Answer[AuditPage]:
    times = {"timeFrom": time_from, "timeTo": time_to}
    allow_only(request, pageSize=page_size, after=after, action=action, user=user, success=success, **times)
    check_page(0, page_size)
    _check_range(user=user, **times, after=after)
    if time_from is not None and time_to is not None and time_from > time_to:
        raise invalid("query.later", name_from="timeFrom", name_to="timeTo")
    wanted = AuditFilter(action=action, user=user, success=success, time_from=time_from, time_to=time_to)
    rows = await server.audit.page(wanted, Position(after), page_size + 1)
    more = rows[page_size - 1].id if len(rows) > page_size else None
    return ok(AuditPage([_audit_entry(row) for row in rows[:page_size]], more))


def _audit_entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        timestamp=row.at,
        action=row.action,
        success=bool(row.success),
        user=row.user,
        address=row.address,
        user_agent=row.user_agent,
        details=msgspec.json.decode(row.details, type=dict[str, Any]),
    )


def _check_range(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and not -INT64_MAX <= value <= INT64_MAX:
            raise invalid("page.out_of_range", name=name)


ROUTERS = (api_router([list_audit], tags=["administration"], guards=[requires_admin]),)
