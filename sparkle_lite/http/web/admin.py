"""What administrators see to: users, the audit log, settings and health."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from litestar import get, post

from sparkle_lite import config as configuration
from sparkle_lite.accounts.audit import AuditFilter, AuditRow
from sparkle_lite.accounts.sessions import LOGIN_LINK_MS
from sparkle_lite.accounts.users import Role, UserRow, vouches
from sparkle_lite.analyses.numbers import PRESETS
from sparkle_lite.clock import date, now_ms
from sparkle_lite.errors import ConfigError, SparkleError
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn, own_url, set_session_cookie
from sparkle_lite.http.web.access import ADMINS
from sparkle_lite.http.web.paging import cut, page_number, position, row_id
from sparkle_lite.http.web.render import Page, PageTexts, PostedForm, page, see_other, texts_of
from sparkle_lite.http.web.welcome import PRESET, choose_preset
from sparkle_lite.http.web.words import word_card
from sparkle_lite.server import Server
from sparkle_lite.units import DAY_MS

_PAGE = 100
_AUDIT_PAGE = 50
# What can be chosen in the audit log; others are found in it without a filter.
ACTIONS = (
    "USER_LOGIN",
    "LOGOUT",
    "LOGIN_LINK_CREATE",
    "USER_CREATE",
    "USER_BAN",
    "USER_UNBAN",
    "USER_VOUCH",
    "USER_UNVOUCH",
    "USER_ROLE",
    "USER_RENAME",
    "USERAPP_CREATE",
    "USERAPP_EDIT",
    "USERAPP_RESET_SECRET",
    "USERAPP_DELETE",
    "USERAPP_BAN",
    "USERAPP_UNBAN",
    "FEED_KEY_CREATE",
    "FEED_KEY_REVOKE",
    "RULE_DENY",
    "RULE_ALLOW",
    "RULE_PARDON",
    "RULE_APPROVE",
    "RULE_REFUSE",
    "RULE_WITHDRAW",
    "RULE_IMPORT",
    "IMPORT_ADD",
    "IMPORT_REMOVE",
    "IMPORT_PAUSE",
    "IMPORT_RESUME",
    "REVIEW_CLOSE",
    "BACKUP_MAKE",
    "BACKUP_RESTORE",
    "SETTING_CHANGE",
    "ADMIN",
)


# --- Users ------------------------------------------------------------------------------------------------------------


@get("/admin/users", guards=ADMINS)
async def list_users(request: AnyRequest, server: Injected[Server]) -> Page:
    """Everybody, and a form for one more."""
    return await _users_page(request, server)


async def _users_page(
    request: AnyRequest, server: Server, form: PostedForm | None = None, refused: SparkleError | None = None
) -> Page:
    """The users; with what was written in the form and why it can't be, where that is so."""
    number = page_number(request.query_params)
    rows, total = await server.users.page(number, _PAGE)
    return page(
        request,
        "users.html",
        refused=refused,
        rows=rows,
        total=total,
        number=number,
        size=_PAGE,
        worth=await server.users.words(),
        name=form.get("name", "") if form else "",
        vouched="vouched" in form if form else vouches(server.config.analysis.preset),
    )


@post("/admin/users", status_code=303, guards=ADMINS)
async def add_user(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]
) -> Page:
    """Make a local user."""
    try:
        user = await server.users.add(form.get("name", ""), _role(form), me.actor, vouched="vouched" in form)
    except SparkleError as error:
        return await _users_page(request, server, form, error)
    return see_other(f"/admin/users/{user.id}", done="user_added")


@get("/admin/users/{user_id:int}", guards=ADMINS)
async def show_user(request: AnyRequest, server: Injected[Server], user_id: int) -> Page:
    """A user."""
    return await _user_page(request, server, await server.users.get(user_id))


async def _user_page(request: AnyRequest, server: Server, user: UserRow, link: str = "", until: int = 0) -> Page:
    apps = await server.apps.all(user.id)
    sessions = await server.sessions.of(user.id)
    word = await word_card(server, user)
    return page(request, "user.html", user=user, apps=apps, sessions=sessions, word=word, link=link, until=until)


@post("/admin/users/{user_id:int}/role", status_code=303, guards=ADMINS)
async def set_role(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], user_id: int
) -> Page:
    """Make a user an administrator, or not; whoever changes themselves stays signed in, by a session of its own."""
    await server.users.set_role(user_id, _role(form), me.actor)
    if user_id != me.user.id:
        return _changed(user_id, "role_changed")
    response = see_other("/")
    set_session_cookie(response, await server.sessions.sign_in(me.user, "rights", me.actor), request, server)
    return response


@post("/admin/users/{user_id:int}/ban", status_code=303, guards=ADMINS)
async def ban_user(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], user_id: int) -> Page:
    """Lock a user out."""
    await server.users.ban(user_id, form.get("reason", ""), me.actor)
    return _changed(user_id, "user_banned")


@post("/admin/users/{user_id:int}/unban", status_code=303, guards=ADMINS)
async def unban_user(server: Injected[Server], me: Injected[SignedIn], user_id: int) -> Page:
    """Let a user in again."""
    await server.users.unban(user_id, me.actor)
    return _changed(user_id, "user_unbanned")


@post("/admin/users/{user_id:int}/vouch", status_code=303, guards=ADMINS)
async def vouch_user(server: Injected[Server], me: Injected[SignedIn], user_id: int) -> Page:
    """Let a user's word count from the start."""
    await server.users.vouch(user_id, me.actor)
    return _changed(user_id, "user_vouched")


@post("/admin/users/{user_id:int}/unvouch", status_code=303, guards=ADMINS)
async def unvouch_user(server: Injected[Server], me: Injected[SignedIn], user_id: int) -> Page:
    """Let a user's word be worth what it earns."""
    await server.users.unvouch(user_id, me.actor)
    return _changed(user_id, "user_unvouched")


@post("/admin/users/{user_id:int}/sign-out", status_code=303, guards=ADMINS)
async def sign_out(server: Injected[Server], me: Injected[SignedIn], user_id: int) -> Page:
    """End all sessions of a user."""
    await server.sessions.log_out_user(user_id, me.actor)
    return _changed(user_id, "user_signed_out")


@post("/admin/users/{user_id:int}/link", status_code=200, guards=ADMINS)
async def login_link(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], user_id: int) -> Page:
    """Make a login link, which is shown only now."""
    user = await server.users.get(user_id)
    url = own_url(request, server)
    until = now_ms() + LOGIN_LINK_MS
    token = await server.sessions.login_link(user_id, me.actor)
    return await _user_page(request, server, user, f"{url}/login?token={token}", until)


def _changed(user_id: int, done: str) -> Page:
    return see_other(f"/admin/users/{user_id}", done=done)


def _role(form: PostedForm) -> Role:
    return "admin" if form.get("role") == "admin" else "user"


# --- Audit ------------------------------------------------------------------------------------------------------------


@get("/admin/audit", guards=ADMINS)
async def audit(request: AnyRequest, server: Injected[Server]) -> Page:
    """What was done and refused, the newest first."""
    query = {name: request.query_params.get(name, "") for name in ("action", "user", "success", "from", "to")}
    wanted = AuditFilter(
        action=query["action"] or None,
        user=row_id(query["user"]),
        success={"yes": True, "no": False}.get(query["success"]),
        time_from=_day(query["from"], 0),
        time_to=_day(query["to"], DAY_MS - 1),
    )
    at = position(request.query_params, row_id)
    part = cut(await server.audit.page(wanted, at, _AUDIT_PAGE + 1), at, _AUDIT_PAGE, lambda row: str(row.id))
    users = await server.users.all()
    return page(
        request,
        "audit.html",
        part=part,
        details={row.id: _details(row, texts_of(request)) for row in part.rows},
        by={row.id: json.loads(row.details).get("by", "–") for row in part.rows},
        asked=query,
        parameters=dict(request.query_params),
        users=users,
        names={user.id: user.nickname or user.name for user in users},
        actions=ACTIONS,
    )


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
    if isinstance(value, bool):
        return texts("ui.yes") if value else texts("ui.no")
    text = str(value)
    match name:
        case "role":
            return texts.known(f"role.{text}", text)
        case "origin":
            session = texts.known(f"origin_of_session.{text.replace(' ', '_')}", text)
            return texts.known(f"rules.origin.{text}", session)
        case "kind":
            return texts.known(f"rules.kind.{text}", text)
        case "until" if text == date(None):
            return texts("audit.forever")
        case "key":
            _, analysis, number = f"{text}..".split(".", 3)[:3]
            if not number:
                return texts.known(f"audit_setting.{analysis}", texts.known(f"rules.number.{analysis}", text))
            of_all = texts.known(f"rules.number.{number}", texts.known(f"audit_setting.{number}", number))
            number = texts.known(f"rules.number_of.{analysis}.{number}", of_all)
            return f"{texts.known(f'rules.origin.{analysis}', analysis)}: {number}"
        case "value" if setting.endswith(".mode"):
            return texts.known(f"rules.mode.{text}", text)
        case "value" if setting.endswith(".private_torrents"):
            return texts.known(f"rules.private_torrents.{text}", text)
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


@get("/admin/settings", guards=ADMINS)
async def settings(request: AnyRequest, server: Injected[Server]) -> Page:
    """How this server is configured, and how it does."""
    return await _settings_page(request, server)


async def _settings_page(
    request: AnyRequest, server: Server, *, problems: tuple[str, ...] = (), stay: Sequence[str] = ()
) -> Page:
    config = server.config
    await server.backups.all()
    return page(
        request,
        "settings.html",
        status=400 if problems else 200,
        text=configuration.show(config),
        config=config,
        presets=PRESETS,
        is_given=PRESET in server.settings.given,
        problems=problems,
        stay=", ".join(stay),
        can_reload=server.reread is not None,
        storage=await server.overview.storage(),
        size=server.housekeeping.measured,
        backup_room=server.backups.room,
        free=(await asyncio.to_thread(shutil.disk_usage, server.database.path.parent)).free,
        jobs=sorted(server.jobs.periods.items()),
        runs=server.jobs.runs,
        state=server.readiness(),
        clock=server.timekeeping.said,
        clock_is_doubted=server.timekeeping.clock.doubt is not None,
        set_aside=server.ingest.keeper.entries,
        segment_folder=server.database.segment_folder,
        writer_failure=server.disk.failure,
    )


@post("/admin/settings/reload", status_code=303, guards=ADMINS)
async def reload(request: AnyRequest, server: Injected[Server]) -> Page:
    """Read the configuration again."""
    if server.reread is None:
        raise SparkleError("not_found", "setting.no_file")
    try:
        stay = await server.reread()
    except ConfigError as error:
        return await _settings_page(request, server, problems=error.lines)
    return await _settings_page(request, server, stay=stay) if stay else see_other("/admin/settings", done="reloaded")


@post("/admin/settings/clock", status_code=303, guards=ADMINS)
async def accept_clock(server: Injected[Server], me: Injected[SignedIn]) -> Page:
    """Take the machine's time as right."""
    await server.timekeeping.accept(me.actor)
    return see_other("/admin/settings", done="clock_accepted")


@post("/admin/settings/preset", status_code=303, guards=ADMINS)
async def set_preset(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """Choose how large the circle is."""
    await choose_preset(server, form, me.actor)
    return see_other("/admin/settings", done="saved")


HANDLERS = (
    *(list_users, add_user, show_user, set_role, ban_user, unban_user),
    *(vouch_user, unvouch_user, sign_out, login_link),
    audit,
    *(settings, reload, accept_clock, set_preset),
)
