"""How many pages one place may ask for, so that nobody who asks without end holds up the others."""

from collections.abc import Callable

from server import RunningServer

CONFIG = '[server]\ntrusted_proxies = ["127.0.0.0/8"]\n[limits]\nrequests_per_minute = {}\n'
PLACE, OTHER_PLACE = "203.0.113.5", "203.0.113.6"


def status(server: RunningServer, path: str, address: str = "") -> int:
    headers = {"X-Forwarded-For": address} if address else {}
    return server.request("GET", path, headers=headers).status


def test_one_place_has_as_many_answers_a_minute_as_an_application(start: Callable[..., RunningServer]) -> None:
    server = start(CONFIG.format(5))
    assert 429 not in [status(server, path, PLACE) for path in ("/login", "/api/user/me", "/manual/en", "/rules", "/")]
    for path in ("/login", "/api/user/me", "/nowhere"):
        answer = server.request("GET", path, headers={"X-Forwarded-For": PLACE})
        assert answer.refusal(429)
        assert 1 <= int(answer.headers["retry-after"]) <= 12
    # Neither others, nor what is counted elsewhere or must always be answered.
    assert status(server, "/login", OTHER_PLACE) == 200
    assert [status(server, path, PLACE) for path in ("/healthz", "/readyz", "/ping/config")] == [200, 200, 403]


def test_an_ipv6_network_is_one_place(start: Callable[..., RunningServer]) -> None:
    server = start(CONFIG.format(3))
    assert [status(server, "/login", f"2001:db8::{number}") for number in range(1, 6)] == [200, 200, 200, 429, 429]


def test_the_servers_own_machine_is_not_counted_and_zero_counts_nobody(start: Callable[..., RunningServer]) -> None:
    server = start(CONFIG.format(3))
    assert {status(server, "/login") for _ in range(10)} == {200}
    server.reload(CONFIG.format(0))
    assert {status(server, "/login", PLACE) for _ in range(10)} == {200}
