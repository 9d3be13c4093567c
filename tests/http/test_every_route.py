"""No number in a path or a query is too long: on every route, whatever reads it; and every path that others have."""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import pytest
from server import App, RunningServer

import sparkle_lite.http
from sparkle_lite.app import create_app
from sparkle_lite.server import Server

# Python refuses to read more than 4,300 digits, SQLite counts to 19 of them.
NUMBERS = ("9" * 5000, "-" + "0" * 5000, "1" + "0" * 20, "\u0663" * 30)
PARAMETER = re.compile(r"\{(\w+):(\w+)\}")
# Names that handlers look for by themselves.
_READ = re.compile(r'(?:query_params|given|parameters)(?:\.get\(|\[)"(\w+)"|query_value\([\w.]+, "(\w+)"')
_INJECTED = {
    "request",
    "server",
    "me",
    "data",
    "form",
    "scope",
    "reader",
    "lookups",
    "once",
    "connection",
    "send",
    "receive",
}


def names_read(file: Path) -> set[str]:
    """Names of query parameters that stand in a file of the code."""
    return {name for pair in _READ.findall(file.read_text("utf-8")) for name in pair if name}


def camel(name: str) -> str:
    first, *words = name.split("_")
    return first + "".join(word.title() for word in words)


class Way(NamedTuple):
    """A method of a path, the query parameters that its handler declares, and those that its module looks for."""

    method: str
    path: str
    declared: list[str]
    looked_for: set[str]


def ways() -> Iterator[Way]:
    for route in create_app(cast(Server, None)).routes:
        in_path = {name for name, _ in PARAMETER.findall(route.path)}
        handlers: list[Any] = getattr(route, "route_handlers", None) or [None]
        for handler in handlers:
            if handler is None:
                yield Way("GET", route.path, [], {"rev", "ip"})
                continue
            names = [camel(n) for n in handler.parsed_fn_signature.parameters if n not in _INJECTED | in_path]
            looked_for = names_read(Path(inspect.getfile(getattr(handler.fn, "func", handler.fn))))
            for method in handler.http_methods & {"GET", "POST", "PATCH", "PUT"}:
                yield Way(method, route.path, names, looked_for)


def targets(app: App) -> Iterator[tuple[str, str]]:
    """Methods and request targets with numbers that are too long."""
    known = {"app_id": app.app_id}
    everywhere = set().union(*map(names_read, Path(sparkle_lite.http.__file__).parent.rglob("*.py")))
    assert {"since", "page", "rev"} <= everywhere
    for way in sorted(ways(), key=lambda way: way.method):
        if way.path.endswith(("logout", "delete")):
            continue
        for wanted, _ in PARAMETER.findall(way.path):
            for number in NUMBERS:
                values = {name: known.get(name, "1") for name, _ in PARAMETER.findall(way.path)} | {wanted: number}
                yield way.method, PARAMETER.sub(lambda match, values=values: quote(values[match[1]]), way.path)
        plain = PARAMETER.sub(lambda match: known.get(match[1], "1"), way.path)
        for number in NUMBERS:
            for name in {*way.declared, *way.looked_for}:
                yield way.method, f"{plain}?{name}={quote(number)}"
        yield way.method, f"{plain}?{'&'.join(f'{name}={NUMBERS[2]}' for name in sorted(everywhere))}"


@pytest.mark.timeout(60)
def test_no_number_in_a_path_or_a_query_is_too_long(start: Callable[..., RunningServer]) -> None:
    server = start("[auth]\nmax_apps_per_user = 100\n[limits]\nrequests_per_minute = 0\n")
    person = {"X-BTN-Token": server.token()}
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    answers: Counter[int] = Counter()

    def ask(method: str, target: str) -> int:
        connection.request(method, target, headers=server.app.headers if target.startswith("/ping/") else person)
        response = connection.getresponse()
        body = response.read()
        assert response.status < 500, (method, target[:80], target[-20:], response.status, body[:300])
        return response.status

    for method, target in targets(server.app):
        answers[ask(method, target)] += 1
        if method != "GET" and ask("GET", "/api/user/me") != 200:
            person = {"X-BTN-Token": server.token()}
    connection.close()
    assert answers[200] > 100 and answers[400] > 100 and answers[404] > 100, answers


def test_health_is_also_told_by_the_name_that_the_original_has(shared: RunningServer) -> None:
    answer = shared.request("GET", "/healthcheck")
    assert (answer.status, answer.body) == (200, shared.request("GET", "/healthz").body)
