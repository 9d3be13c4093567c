"""Following what pages name, as a browser and its reader would."""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

from server import Answer

# Attributes that a browser or a script of ours follows, in whatever tag.
FOLLOWED = re.compile(r"href|src|srcset|poster|action|formaction|data-chart|spec-url|hx-(get|post|put|patch|delete)")
# Pages of one path with other parameters show the same links: so many of them are enough.
OF_ONE_PATH = 3


class Links(HTMLParser):
    """What a page names: `urls` to fetch, and `posts`, its posted forms with their hidden fields.

    Raises AssertionError for an attribute that seems to be a URL and isn't among those that are followed.
    """

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.posts: list[tuple[str, dict[str, str]]] = []
        self._form: dict[str, str] | None = None
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag."""
        values: dict[str, Any] = dict(attrs)
        posts = tag == "form" and values.get("method") == "post"
        if tag == "form":
            self._form = {} if posts else None
            if self._form is not None:
                self.posts.append((values["action"], self._form))
        elif tag == "input" and self._form is not None and values.get("type") == "hidden":
            self._form[values["name"]] = values.get("value", "")
        for name, value in attrs:
            if value is not None and FOLLOWED.fullmatch(name):
                self.urls += [] if posts else [value]
            elif value is not None:
                # Who puts a path before URLs has to know a new attribute that is followed.
                assert not value.startswith("/") or name in ("value", "content", "placeholder"), (tag, name, value)

    def handle_endtag(self, tag: str) -> None:
        """Take note that a form is over."""
        if tag == "form":
            self._form = None


def crawl(
    fetch: Callable[[str], Answer], start: str, without: tuple[str, ...] = ()
) -> Iterator[tuple[str, Answer, Links | None]]:
    """Everything of a site that can be reached from a URL: where, what came, and what it names if it is a page.

    Left out: what begins as `without` says, other sites, other languages, and the same page with more parameters than
    tell something new.
    """
    seen: set[str] = set()
    often: Counter[str] = Counter()
    queue = deque([start])
    while queue:
        url = queue.popleft()
        path = urlsplit(url).path
        if url in seen or often[path] >= OF_ONE_PATH or path.endswith("/language") or path.startswith(without):
            continue
        seen.add(url)
        often[path] += 1
        answer = fetch(url)
        is_page = answer.headers.get("content-type", "").startswith("text/html")
        page = Links(answer.body) if is_page else None
        yield url, answer, page
        for each in page.urls if page else ():
            if not each.startswith(("#", "data:")) and not urlsplit(each).netloc:
                queue.append(urljoin(url, each).partition("#")[0])
