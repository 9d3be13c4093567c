"""What every page has in common: in which language it is, templates, refusals, headers, static files.

A handler answers with `page(request, "template.html", name=value)`. Templates escape every value; their texts come
from the catalogues (sparkle_lite.texts) by `t("key", name=value)`, whose values are escaped too; `t.said(it)` is what
an error or a reason says.
"""

import mimetypes
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import MediaType, Response
from markupsafe import Markup

import sparkle_lite
from sparkle_lite.clock import now_ms
from sparkle_lite.errors import SaidError, SparkleError
from sparkle_lite.http.feeds import KEY
from sparkle_lite.http.problems import STATUS
from sparkle_lite.http.ready import Ready, ready
from sparkle_lite.http.session import COOKIE, AnyRequest, is_https
from sparkle_lite.http.web import links, shapes
from sparkle_lite.server import Server
from sparkle_lite.texts import ENGLISH, Phrase, catalogue, languages
from sparkle_lite.units import YEAR_S

Page = Response[bytes]
# Fields without blanks around them; of a field that comes twice the last.
PostedForm = dict[str, str]

_LANGUAGE_COOKIE = "lang"

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# Below these no person looks with a browser, whatever the Accept header says.
_MACHINES = (
    "/api/",
    "/ping/",
    "/feeds/",
    "/static/",
    "/metrics",
    "/healthz",
    "/healthcheck",
    "/readyz",
    "/openapi.json",
    "/docs",
)


class SignInFirst(SparkleError):
    """The page is for members, and nobody is signed in: the browser is led to the sign-in page."""

    def __init__(self, wanted: str) -> None:
        super().__init__("forbidden", "session.sign_in_first")
        self.wanted = wanted


# --- Static files -----------------------------------------------------------------------------------------------------


@cache
def assets() -> dict[str, Ready]:
    """Every static file by its hashed name, such as "app.0123456789.css"."""
    return dict(_assets().values())


@cache
def _assets() -> dict[str, tuple[str, Ready]]:
    found = {}
    for name, file in _files(resources.files(__package__) / "static"):
        if name.endswith(".LICENSE"):
            continue
        stem, _, suffix = name.rpartition(".")
        media_type = mimetypes.types_map.get(f".{suffix}", "application/octet-stream")
        charset = "; charset=utf-8" if media_type.startswith("text/") else ""
        asset = ready(media_type + charset, file.read_bytes())
        found[name] = f"{stem}.{asset.version[:10]}.{suffix}", asset
    return found


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _files(each, f"{prefix}{each.name}/")
        else:
            yield prefix + each.name, each


def static(name: str) -> str:
    """The URL of a static file; it changes with the content."""
    return f"/static/{_assets()[name][0]}"


def static_file(name: str) -> bytes:
    """The content of a static file."""
    return _assets()[name][1].body


# --- Texts ------------------------------------------------------------------------------------------------------------


class PageTexts:
    """The texts of one language; called with a key."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._texts = {key: Markup.escape(text) for key, text in catalogue(language).items()}

    def __call__(self, key: str, /, **values: Any) -> Markup:
        """A text with its values filled in, all of them escaped. Raises KeyError for a key that isn't there."""
        return self._texts[key].format(**values) if values else self._texts[key]

    def count(self, key: str, number: int, /, **values: Any) -> Markup:
        """A text about a number, which is {n}: `key`.one for 1, `key`.other for the rest."""
        form = "one" if number == 1 else "other"
        return self(f"{key}.{form}", n=shapes.number(number), **values)

    def said(self, it: Phrase | SaidError) -> str:
        """What a phrase or an error says."""
        return it.text(self.language)

    def known(self, key: str, otherwise: str) -> Markup:
        """A text whose key is made of data; `otherwise` is shown where there is none."""
        return self(key) if key in self._texts else Markup.escape(otherwise)


@cache
def texts_in(language: str) -> PageTexts:
    """The texts in a language."""
    return PageTexts(language)


def texts_of(request: AnyRequest) -> PageTexts:
    """The texts in the language of whoever asks."""
    return texts_in(language_of(request))


def language_of(request: AnyRequest) -> str:
    """The cookie's language, else the first of Accept-Language that we speak, else English."""
    chosen = request.cookies.get(_LANGUAGE_COOKIE)
    for language in languages():
        if chosen == language:
            return language
    return _preferred(request.headers.get("accept-language", ""))


def keep_language(response: Page, language: str, request: AnyRequest, server: Server) -> None:
    """Have the browser keep a language that was chosen; what is none leaves it as it is."""
    if language in languages():
        secure = is_https(request, server)
        response.set_cookie(_LANGUAGE_COOKIE, language, max_age=YEAR_S, path="/", secure=secure, samesite="lax")


def _preferred(header: str) -> str:
    best: tuple[float, str] = (0.0, ENGLISH)
    for part in header.lower().split(","):
        name, _, weight = part.partition(";q=")
        spoken = name.strip().partition("-")[0]
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            continue
        for language in languages():
            if spoken == language and value > best[0]:
                best = value, language
    return best[1]


# --- Pages ------------------------------------------------------------------------------------------------------------


def page(
    request: AnyRequest,
    template: str,
    *,
    status: int | None = None,
    refused: SparkleError | None = None,
    language: str | None = None,
    **values: Any,
) -> Page:
    """A page, or a part of one where the template is that; whoever is signed in is `me` there.

    It is in the reader's language unless another is given; then `translations` has its URLs by language.
    `refused` is why something that was asked for can't be: its sentence is `refusal` there, and its status that of the
    page where no other is given.
    """
    language = language or language_of(request)
    context = {
        "me": getattr(request.state, "me", None),
        # Where a page is refused before anybody asked who is there.
        "may_be_in": not hasattr(request.state, "me") and bool(request.cookies.get(COOKIE)),
        "path": request.url.path,
        "here": here(request),
        "translations": {},
        "now": now_ms(),
        "done": request.query_params.get("done", ""),
        "refusal": "" if refused is None else refused.text(language),
        **values,
    }
    text = environment(language).get_template(template).render(context)
    headers = {**HEADERS, "content-language": catalogue(language)["language.tag"], "vary": "Accept-Language, Cookie"}
    if status is None:
        status = 200 if refused is None else STATUS[refused.code]
    if refused is not None and refused.retry_after is not None:
        headers["retry-after"] = str(max(1, refused.retry_after))
    return Response(text.encode(), status_code=status, media_type=MediaType.HTML, headers=headers)


def refusal(request: AnyRequest, error: SparkleError) -> Page:
    """A refusal as a page that helps; as a mere notice where it goes into a part of one."""
    partial = is_partial(request)
    if isinstance(error, SignInFirst):
        return _to_login(error.wanted, partial)
    template = "refusal_part.html" if partial else "refusal.html"
    return page(request, template, refused=error, code=STATUS[error.code])


@cache
def environment(language: str) -> Environment:
    """The templates in a language. Making one takes a while, in which nothing should wait for it."""
    made = Environment(
        loader=PackageLoader("sparkle_lite.http.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    texts = texts_in(language)
    made.globals.update(
        t=texts,
        lang=language,
        languages=[(each, catalogue(each)["language.tag"], catalogue(each)["language.name"]) for each in languages()],
        static=static,
        version=sparkle_lite.__version__,
        query=query,
        links=links,
    )
    made.filters.update(
        # A text that stands in a template by its key is put in once, when that is compiled; with values, or
        # with a key made of data, the function of the same name is called.
        t=texts,
        number=shapes.number,
        size=shapes.size,
        speed=shapes.speed,
        percent=shapes.percent,
        duration=lambda ms: shapes.duration(int(ms), texts),
        time=shapes.time,
        day=shapes.day,
        ago=shapes.ago,
        program=shapes.program,
        segment=lambda value: quote(str(value), safe=""),
    )
    return made


def query(values: Mapping[str, Any], **changes: Any) -> str:
    """A query string ("?a=1") of values with some changed; what is None or "" is left out."""
    merged = {**values, **changes}
    text = urlencode({name: value for name, value in merged.items() if value not in (None, "")}, doseq=True)
    return f"?{text}" if text else "?"


def here(request: AnyRequest) -> str:
    """The path and query of a request, without the note of what was just done, and a feed key that strayed here."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in ("done", KEY)]
    path = quote(request.url.path, safe="/:@!$&'()*+,;=~-._")
    return f"{path}?{urlencode(kept)}" if kept else path


def local(url: str) -> str:
    """A URL if it leads to a page of this server, else the first page."""
    is_path = url.startswith("/") and not url.startswith("//") and "\\" not in url and url.isprintable()
    if not (is_path and url.isascii()):
        return "/"
    steps = [step for step in unquote(urlsplit(url).path).split("/") if step not in ("", ".")]
    # The REST API has no pages, and one GET of it signs out. Upwards is out of where a proxy serves us.
    return "/" if steps[:1] == ["api"] or ".." in steps else url


def is_partial(request: AnyRequest) -> bool:
    """Whether a script of ours asks for a part of a page."""
    return request.headers.get("hx-request") == "true"


def is_for_person(request: AnyRequest) -> bool:
    """Whether a browser shows the answer to a person."""
    path = request.scope["path"]
    if path.startswith(_MACHINES):
        return False
    return "text/html" in request.headers.get("accept", "") or is_partial(request)


def see_other(url: str, *, done: str = "") -> Page:
    """Lead the browser to a page after a change; `done` names the text that it shows there (catalogue: done.*)."""
    if done:
        url, hash_, place = url.partition("#")
        url += f"{'&' if '?' in url else '?'}done={done}{hash_}{place}"
    return Response(b"", status_code=303, media_type=MediaType.TEXT, headers={**HEADERS, "location": url})


async def posted(request: AnyRequest) -> PostedForm:
    """The fields of a posted form: the dependency `form`."""
    return {name: value.strip() for name, value in (await request.form()).items() if isinstance(value, str)}


def _to_login(wanted: str, partial: bool) -> Page:
    url = "/login" if wanted == "/" else f"/login?{urlencode({'next': wanted})}"
    if partial:
        return Response(b"", status_code=200, media_type=MediaType.HTML, headers={**HEADERS, "hx-redirect": url})
    return see_other(url)
