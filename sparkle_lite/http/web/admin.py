"""What administrators see to: users, the audit log, settings and health."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from sparkle_lite import config as configuration
from sparkle_lite.accounts import LOGIN_LINK_MS, Role, now_ms
from sparkle_lite.analyses.numbers import PRESETS
from sparkle_lite.db.accounts import AuditFilter, AuditRow, UserRow
from sparkle_lite.errors import ConfigError, SparkleError
from sparkle_lite.http.requests import base_url
from sparkle_lite.http.web.paging import cut, page_number, position, row_id
from sparkle_lite.http.web.render import Asked, Page, Pages, PageTexts, page, posted, see_other, texts_of
from sparkle_lite.http.web.welcome import PRESET, choose_preset

_PAGE = 100
_AUDIT_PAGE = 50
_DAY_MS = 86_400_000
# What can be chosen in the audit log; others are found in it without a filter.
ACTIONS = (
    "USER_LOGIN",
    "LOGOUT",
    "LOGIN_LINK_CREATE",
    "USER_CREATE",
    "USER_BAN",
    "USER_UNBAN",
    "USER_ROLE",
    "USER_RENAME",
    "USERAPP_CREATE",
    "USERAPP_EDIT",
    "USERAPP_RESET_SECRET",
    "USERAPP_DELETE",
    "USERAPP_BAN",
    "USERAPP_UNBAN",
    "RULE_DENY",
    "RULE_ALLOW",
    "RULE_PARDON",
    "RULE_APPROVE",
    "RULE_REFUSE",
    "RULE_WITHDRAW",
    "RULE_IMPORT",
    "REVIEW_CLOSE",
    "SETTING_CHANGE",
    "ADMIN",
)


def routes(pages: Pages) -> list[HTTPRouteHandler]:
    """The handlers of one server."""
    return [*_user_list(pages), *_user_routes(pages), _audit(pages), *_settings(pages)]


# --- Users ------------------------------------------------------------------------------------------------------------


def _user_list(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    async def listing(request: Asked, refused: SparkleError | None = None, name: str = "") -> Page:
        number = page_number(request.query_params)
        rows, total = await runtime.accounts.users_page(number, _PAGE)
        return page(
            request,
            "users.html",
            refused=refused,
            rows=rows,
            total=total,
            number=number,
            size=_PAGE,
            name=name,
        )

    @get("/admin/users")
    async def list_users(request: Asked) -> Page:
        await pages.admin(request)
        return await listing(request)

    @post("/admin/users", status_code=303)
    async def add_user(request: Asked) -> Page:
        me = await pages.admin(request)
        fields = await posted(request)
        try:
            user = await runtime.accounts.add_user(fields.get("name", ""), _role(fields), me.actor)
        except SparkleError as error:
            return await listing(request, error, fields.get("name", ""))
        return see_other(f"/admin/users/{user.id}", done="user_added")

    return [list_users, add_user]


def _user_routes(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    async def shown(request: Asked, user: UserRow, link: str = "", until: int = 0) -> Page:
        apps = await runtime.accounts.apps(user.id)
        sessions = await runtime.accounts.sessions_of(user.id)
        values: dict[str, Any] = {"user": user, "apps": apps, "sessions": sessions, "link": link, "until": until}
        return page(request, "user.html", **values)

    @get("/admin/users/{user_id:int}")
    async def show_user(request: Asked, user_id: int) -> Page:
        await pages.admin(request)
        return await shown(request, await runtime.accounts.user(user_id))

    @post("/admin/users/{user_id:int}/role", status_code=303)
    async def set_role(request: Asked, user_id: int) -> Page:
        me = await pages.admin(request)
        await runtime.accounts.set_role(user_id, _role(await posted(request)), me.actor)
        return see_other(f"/admin/users/{user_id}", done="saved")

    @post("/admin/users/{user_id:int}/ban", status_code=303)
    async def ban_user(request: Asked, user_id: int) -> Page:
        me = await pages.admin(request)
        await runtime.accounts.ban_user(user_id, (await posted(request)).get("reason", ""), me.actor)
        return see_other(f"/admin/users/{user_id}", done="user_banned")

    @post("/admin/users/{user_id:int}/unban", status_code=303)
    async def unban_user(request: Asked, user_id: int) -> Page:
        me = await pages.admin(request)
        await runtime.accounts.unban_user(user_id, me.actor)
        return see_other(f"/admin/users/{user_id}", done="user_unbanned")

    @post("/admin/users/{user_id:int}/sign-out", status_code=303)
    async def sign_out(request: Asked, user_id: int) -> Page:
        me = await pages.admin(request)
        await runtime.accounts.log_out_user(user_id, me.actor)
        return see_other(f"/admin/users/{user_id}", done="user_signed_out")

    @post("/admin/users/{user_id:int}/link", status_code=200)
    async def login_link(request: Asked, user_id: int) -> Page:
        me = await pages.admin(request)
        user = await runtime.accounts.user(user_id)
        server = runtime.config.server
        url = base_url(request.scope, server.public_url, server.trusted_proxies)
        until = now_ms() + LOGIN_LINK_MS
        token = await runtime.accounts.login_link(user_id, me.actor)
        return await shown(request, user, f"{url}/login?token={token}", until)

    return [show_user, set_role, ban_user, unban_user, sign_out, login_link]


def _role(fields: Mapping[str, str]) -> Role:
    return "admin" if fields.get("role") == "admin" else "user"


# --- Audit ------------------------------------------------------------------------------------------------------------


def _audit(pages: Pages) -> HTTPRouteHandler:
    runtime = pages.runtime

    @get("/admin/audit")
    async def audit(request: Asked) -> Page:
        await pages.admin(request)
        asked = {name: request.query_params.get(name, "") for name in ("action", "user", "success", "from", "to")}
        users = await runtime.accounts.users()
        wanted = AuditFilter(
            action=asked["action"] or None,
            user=row_id(asked["user"]),
            success={"yes": True, "no": False}.get(asked["success"]),
            time_from=_day(asked["from"], 0),
            time_to=_day(asked["to"], _DAY_MS - 1),
        )
        at = position(request.query_params, row_id)
        part = cut(await runtime.accounts.audit(wanted, at, _AUDIT_PAGE + 1), at, _AUDIT_PAGE, lambda row: str(row.id))
        return page(
            request,
            "audit.html",
            part=part,
            details={row.id: _details(row, texts_of(request)) for row in part.rows},
            by={row.id: json.loads(row.details).get("by", "–") for row in part.rows},
            asked=asked,
            parameters=dict(request.query_params),
            users=users,
            names={user.id: user.nickname or user.name for user in users},
            actions=ACTIONS,
        )

    return audit


def _details(row: AuditRow, texts: PageTexts) -> dict[str, str]:
    """What an audit row says beyond its columns, in words where there are some."""
    found: dict[str, Any] = json.loads(row.details)
    setting = str(found.get("key", ""))
    return {
        name: _in_words(name, value, setting, texts)
        for name, value in found.items()
        if value is not None and name != "by"
    }


def _in_words(name: str, value: object, setting: str, texts: PageTexts) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = str(value)
    match name:
        case "role":
            return texts.known(f"role.{text}", text)
        case "origin":
            session = texts.known(f"origin_of_session.{text.replace(' ', '_')}", text)
            return texts.known(f"rules.origin.{text}", session)
        case "kind":
            return texts.known(f"rules.kind.{text}", text)
        case "key":
            _, analysis, number = f"{text}..".split(".", 3)[:3]
            if not number:
                return texts.known(f"audit_setting.{analysis}", text)
            of_all = texts.known(f"rules.number.{number}", texts.known(f"audit_setting.{number}", number))
            number = texts.known(f"rules.number_of.{analysis}.{number}", of_all)
            return f"{texts.known(f'rules.origin.{analysis}', analysis)}: {number}"
        case "value" if setting.endswith(".mode"):
            return texts.known(f"rules.mode.{text}", text)
        case "value":
            return texts.known(f"audit_setting.as_{text}", texts.known(f"preset.{text}.name", text))
        case _:
            return text


def _day(text: str, more: int) -> int | None:
    """A day ("2026-01-31") as its first ms in UTC, and some more; None for anything else."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000) + more
    except ValueError:
        return None


# --- Settings and health ----------------------------------------------------------------------------------------------


def _settings(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    async def shown(request: Asked, *, status: int = 200, problems: tuple[str, ...] = (), stay: str = "") -> Page:
        config = runtime.config
        return page(
            request,
            "settings.html",
            status=status,
            text=configuration.show(config),
            config=config,
            presets=PRESETS,
            is_given=PRESET in runtime.settings.given,
            problems=problems,
            stay=stay,
            can_reload=runtime.reread is not None,
            storage=await runtime.overview.storage(),
            size=runtime.housekeeping.measured,
            free=(await asyncio.to_thread(shutil.disk_usage, runtime.database.path.parent)).free,
            jobs=sorted(runtime.jobs.periods.items()),
            runs=runtime.jobs.runs,
            state=runtime.readiness(),
        )

    @get("/admin/settings")
    async def settings(request: Asked) -> Page:
        await pages.admin(request)
        return await shown(request)

    @post("/admin/settings/reload", status_code=303)
    async def reload(request: Asked) -> Page:
        await pages.admin(request)
        if runtime.reread is None:
            raise SparkleError("not_found", "There is no configuration to reload.", "没有可重新加载的配置。")
        try:
            stay = await runtime.reread()
        except ConfigError as error:
            return await shown(request, status=400, problems=error.lines)
        if stay:
            return await shown(request, stay=", ".join(stay))
        return see_other("/admin/settings", done="reloaded")

    @post("/admin/settings/preset", status_code=303)
    async def preset(request: Asked) -> Page:
        me = await pages.admin(request)
        await choose_preset(runtime, await posted(request), me.actor)
        return see_other("/admin/settings", done="saved")

    return [settings, reload, preset]
