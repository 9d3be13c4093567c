"""The manual: the Markdown files of the package as pages, in every language, open to everybody.

A passage has the same anchor in each language, the one that its English heading makes, so that pages can link to it
(`ui.help` in templates). In the files links work as they do where the repository is browsed: to other files, with
anchors made of headings in the file's own language.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import unquote

from litestar import Response, get
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

import sparkle_lite
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.ready import Ready, ready, respond
from sparkle_lite.http.session import AnyRequest
from sparkle_lite.http.web.access import ANYBODY
from sparkle_lite.http.web.render import Page, language_of, page, see_other, texts_in
from sparkle_lite.texts import ENGLISH, languages

# In the order of reading.
TOPICS = (
    "configure", "clients", "rules", "reasons", "feeds", "proxies", "service", "data", "watch", "privacy", "speed",
    "commands", "rest", "code", "changes",
)  # fmt: skip
_EXAMPLE = "config.example.toml"
_NO_SLUG = re.compile(r"[^\w -]")
# Up to a full stop, Western or Chinese.
_SENTENCE = re.compile(r".*?(?:\.(?=\s|$)|\u3002)")


class Heading(NamedTuple):
    """A heading of a page: its level (1 to 6), its text, and its anchor."""

    level: int
    text: str
    anchor: str


class Topic(NamedTuple):
    """One page: its title, the sentence that it begins with, its headings below the title, and its content."""

    name: str
    title: str
    about: str
    headings: tuple[Heading, ...]
    content: Markup


def _folder(language: str) -> Traversable:
    return resources.files(sparkle_lite) / "manual" / language


def _slug(heading: str) -> str:
    """The anchor that browsers of repositories give a heading."""
    return _NO_SLUG.sub("", heading.lower()).replace(" ", "-")


@cache
def _tokens(language: str, name: str) -> list[Token]:
    return _markdown().parse((_folder(language) / f"{name}.md").read_text("utf-8"))


def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _headings_in(language: str, name: str) -> list[tuple[int, str]]:
    """Level and text of each heading of a file."""
    tokens = _tokens(language, name)
    return [(int(one.tag[1]), text.content) for one, text in pairwise(tokens) if one.type == "heading_open"]


@cache
def headings(language: str, name: str) -> tuple[Heading, ...]:
    """The headings of a topic, with the anchors of the English ones at the same places."""
    own, english = _headings_in(language, name), _headings_in(ENGLISH, name)
    return tuple(Heading(level, text, _slug(title)) for (level, text), (_, title) in zip(own, english, strict=True))


@cache
def _anchors(language: str, name: str) -> dict[str, str]:
    """The anchors of a topic by those that its own headings would make."""
    return {_slug(heading.text): heading.anchor for heading in headings(language, name)}


@cache
def topic(language: str, name: str) -> Topic:
    """A topic in a language. Raises KeyError where a link of it leads nowhere."""
    # The tokens are kept, perhaps for a thread that makes the same topic right now: only copies are changed.
    tokens = [_copy(token, children=_linked(language, name, token)) for token in _tokens(language, name)]
    every = headings(language, name)
    opened = iter(every)
    for token in tokens:
        if token.type == "heading_open":
            token.attrSet("id", next(opened).anchor)
    about = next(text.content for one, text in pairwise(tokens) if one.type == "paragraph_open")
    markdown = _markdown()
    content = "".join(_blocks(markdown, tokens, language))
    return Topic(name, every[0].text, _plain(about), every[1:], Markup(content))  # noqa: S704 - our own files


def _copy(token: Token, **changes: Any) -> Token:
    """A token with attributes of its own, which `Token.copy` would share."""
    return token.copy(attrs=dict(token.attrs), **changes)


def _linked(language: str, name: str, token: Token) -> list[Token] | None:
    """The parts of a token with links as the pages have them."""
    if token.children is None:
        return None
    parts = [_copy(child) for child in token.children]
    for part in parts:
        if part.type == "link_open":
            part.attrSet("href", _url(language, name, str(part.attrGet("href"))))
    return parts


def _url(language: str, name: str, link: str) -> str:
    target, _, anchor = link.partition("#")
    if "://" in target:
        return link
    if target.endswith(_EXAMPLE):
        return f"/manual/{_EXAMPLE}"
    other = target.removesuffix(".md") or name
    place = f"#{_anchors(language, other)[unquote(anchor)]}" if anchor else ""
    return place if not target else f"/manual/{language}/{other}{place}"


def _plain(markdown: str) -> str:
    """The first sentence of a paragraph, without its marks."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown).replace("**", "").replace("`", "")
    return sentence[0] if (sentence := _SENTENCE.match(text)) else text


def _blocks(markdown: MarkdownIt, tokens: Sequence[Token], language: str) -> Iterator[str]:
    """The page piece by piece: code can be copied, and a wide table scrolls by itself."""
    kept: list[Token] = []
    texts, number = texts_in(language), 0
    for token in tokens:
        if token.type == "fence":
            yield markdown.renderer.render(kept, markdown.options, {})
            kept, number = [], number + 1
            yield Markup(
                '<div class="copy"><pre id="code-{n}" tabindex="0" role="region" aria-label="{label}">'
                '<code>{code}</code></pre><button type="button" class="tiny" data-copy="code-{n}"'
                ' data-copied="{copied}" data-needs-script hidden>{copy}</button></div>\n'
            ).format(
                n=number,
                label=texts("ui.copyable"),
                code=token.content,
                copied=texts("ui.copied"),
                copy=texts("ui.copy"),
            )
            continue
        if token.type == "table_open":
            yield markdown.renderer.render(kept, markdown.options, {}) + '<div class="table-wrap" tabindex="0">'
            kept = []
        kept.append(token)
        if token.type == "table_close":
            yield markdown.renderer.render(kept, markdown.options, {}) + "</div>\n"
            kept = []
    yield markdown.renderer.render(kept, markdown.options, {})


@cache
def _example() -> Ready | None:
    """The example of a configuration: beside the manual where the program is installed, else in the repository."""
    package = resources.files(sparkle_lite)
    for place in (package / "manual" / _EXAMPLE, package / ".." / _EXAMPLE):
        if place.is_file():
            return ready("text/plain; charset=utf-8", place.read_bytes())
    return None


# --- Pages ------------------------------------------------------------------------------------------------------------


@get("/manual", guards=ANYBODY)
async def in_own_language(request: AnyRequest) -> Page:
    """The manual in the reader's language."""
    return see_other(f"/manual/{language_of(request)}")


@get(f"/manual/{_EXAMPLE}", guards=ANYBODY)
async def example(request: AnyRequest) -> Response[bytes]:
    """Every key of the configuration with its default."""
    if (file := _example()) is None:
        raise SparkleError("not_found", "manual.no_example")
    return respond(request.scope, file, {"x-content-type-options": "nosniff"})


@get("/manual/{language:str}", guards=ANYBODY, sync_to_thread=True)
def contents(request: AnyRequest, language: str) -> Page:
    """What the manual is about."""
    _require(language)
    return page(
        request,
        "manual.html",
        language=language,
        topics=[topic(language, name) for name in TOPICS],
        translations={other: f"/manual/{other}" for other in languages()},
    )


@get("/manual/{language:str}/{name:str}", guards=ANYBODY, sync_to_thread=True)
def one_topic(request: AnyRequest, language: str, name: str) -> Page:
    """One topic of the manual."""
    _require(language, name)
    return page(
        request,
        "manual_topic.html",
        language=language,
        topic=topic(language, name),
        topics=[(each, headings(language, each)[0].text) for each in TOPICS],
        translations={other: f"/manual/{other}/{name}" for other in languages()},
    )


def _require(language: str, name: str = TOPICS[0]) -> None:
    if language not in languages() or name not in TOPICS:
        raise SparkleError("not_found", "manual.no_topic")


HANDLERS = (in_own_language, example, contents, one_topic)
