"""What clients fetch: the configuration, rules and exceptions over HTTP, read by each client's own parser."""

import base64
import gzip
import hashlib
import http.client
import json
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import client_parsers as clients
import pytest
from server import PBH20, App, Headers, RunningServer, read_answer, start_server

JDK_AGENT = "PeerBanHelper/{} BTN-Protocol/0.0.0-dev"
NEW_AGENT = "PeerBanHelper/{} (docker; Linux,6.8.0-45-generic,bookworm unknown) BTN-Protocol/{} BTN-Protocol-Version/{}"
QBCB = "qBittorrent-ClientBlocker/3.8b8 (linux, amd64) BTN-Protocol/0.0.0-dev"
RUST = "PeerBanHelper-Rust/0.1.4/BTN-Protocol/2.0.1/20"
LIBRETORRENT = "LibreTorrent/4.1.1 BTN-Protocol/v2.0.1 BTN-Protocol-Version/20"
BITCOMET = "WindowsPowerShell/5.1.19041.4780 BTNScriptBC/0.1.7 BTN-Protocol/0.0.1"
PBH_AGENTS = [
    (JDK_AGENT.format("3.2.0"), 3),
    (JDK_AGENT.format("4.0.2"), 3),
    (JDK_AGENT.format("4.0.5"), 4),
    (JDK_AGENT.format("5.0.5"), 5),
    (JDK_AGENT.format("5.1.0"), 6),
    ("PeerBanHelper/6.4.8 BTN-Protocol/0.0.1", 7),
    ("PeerBanHelper/7.1.5 BTN-Protocol/0.0.2", 8),
    (NEW_AGENT.format("7.3.2", "0.0.3", 8), 8),
    (NEW_AGENT.format("7.4.15", "0.0.3", 10), 10),
    (NEW_AGENT.format("8.0.0-beta4", "0.1.0", 11), 11),
    (NEW_AGENT.format("9.0.10", "2.0.0", 12), 12),
    (NEW_AGENT.format("9.1.5", "2.0.1", 13), 13),
    (NEW_AGENT.format("9.5.0", "2.0.1", 20), 20),
    (NEW_AGENT.format("10.0.0", "2.1.0", 21), 21),
]
RULES = """
[[rules]]
type = "ip"
category = "PCDN"
content = ["60.220.182.0/24", "203.0.113.9", "2001:db8:1::/48"]
[[rules]]
type = "port"
category = "odd"
content = [65000]
[[rules]]
type = "peer_id"
category = "leecher"
content = ["-XL00"]
[[rules]]
type = "client_name"
category = "leecher"
content = [{ method = "STARTS_WITH", content = "Xunlei" }]
[[exceptions]]
type = "ip"
category = "ours"
content = ["60.220.182.7"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with rules, which believes the proxy 127.9.9.9."""
    text = '[server]\ntrusted_proxies = ["127.9.9.9"]\n[limits]\nrequests_per_minute = 0\n' + RULES
    with start_server(tmp_path_factory.mktemp("documents"), text) as running:
        yield running


# --- The configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("agent", "protocol"), PBH_AGENTS)
def test_peerbanhelper_can_work_with_its_configuration(server: RunningServer, agent: str, protocol: int) -> None:
    answer = server.get("/ping/config", agent=agent)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    configured = clients.pbh_config(answer.body, protocol)
    assert configured.abilities["submit_bans"]["endpoint"].startswith(server.url)
    assert server.get("/ping/config", agent=agent).body == answer.body


@pytest.mark.parametrize(
    ("agent", "parse"),
    [
        (QBCB, clients.qbcb_config),
        (RUST, clients.rust_config),
        (BITCOMET, clients.bitcomet_config),
        (LIBRETORRENT, clients.libretorrent_config),
    ],
)
def test_every_other_client_can_work_with_its_configuration(
    server: RunningServer, agent: str, parse: Callable[[bytes], clients.Configured]
) -> None:
    assert parse(server.get("/ping/config", agent=agent).body).abilities


@pytest.mark.parametrize("agent", ["", "curl/8.0", "Mozilla/5.0", "x" * 5000, "\xe9\xff"])
def test_a_program_that_nobody_knows_gets_the_legacy_abilities(server: RunningServer, agent: str) -> None:
    document = server.get("/ping/config", agent=agent).json()
    assert (document["min_protocol_version"], document["max_protocol_version"]) == (3, 99)
    assert {"submit_peers", "submit_bans", "rules", "reconfigure"} <= set(document["ability"])


@pytest.mark.parametrize("agent", [*(agent for agent, _ in PBH_AGENTS), QBCB, RUST, BITCOMET, "curl/8.0"])
def test_every_offered_endpoint_answers_this_client(server: RunningServer, agent: str) -> None:
    for name, ability in server.get("/ping/config", agent=agent).json()["ability"].items():
        path = ability["endpoint"].removeprefix(server.url)
        assert path.startswith("/ping/")
        # Without a body or a parameter some refuse it as such; the route is there and knows the method.
        sends = "submit" in name or name == "heartbeat"
        answer = server.post(b"", agent=agent, path=path) if sends else server.get(path, agent=agent)
        assert answer.status in ((200, 400) if sends or name == "ip_query" else (200,)), (name, answer)


@pytest.mark.parametrize("agent", ["PeerBanHelper/3.0.0 BTN-Protocol/0.0.0-dev", "PeerBanHelper/3.1.4 x"])
def test_peerbanhelper_before_3_2_is_told_to_update(server: RunningServer, agent: str) -> None:
    assert "update" in server.get("/ping/config", agent=agent).refusal(403)


def test_the_reconfigure_version_answers_qbcb(server: RunningServer) -> None:
    ability = server.get("/ping/config", agent=QBCB).json()["ability"]["reconfigure"]
    assert ability["endpoint"] == f"{server.url}/ping/reconfigure"
    same = server.get(f"/ping/reconfigure?rev={ability['version']}", agent=QBCB)
    assert (same.status, same.body) == (204, b"")
    assert "content-length" not in same.headers
    for rev in ("?rev=", "", "?rev=other", f"?rev={ability['version']}0", f"?x={ability['version']}"):
        assert server.get(f"/ping/reconfigure{rev}", agent=QBCB).status == 200
    # Another client is offered something else.
    assert server.get(f"/ping/reconfigure?rev={ability['version']}", agent=PBH20).status == 200


def test_a_head_request_has_the_headers_of_the_get(server: RunningServer) -> None:
    for path in ("/ping/config", "/ping/rules/retrieve", "/ping/exception"):
        got = server.get(path)
        head = server.request("HEAD", path, headers={**server.app.headers, "User-Agent": PBH20})
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]


# --- The address under which clients reach us -------------------------------------------------------------------------


def base_of(server: RunningServer, headers: Headers, source: str = "") -> str:
    """The base of the endpoints in the configuration of a client with these headers."""
    answer = server.request("GET", "/ping/config", headers={**server.app.headers, **headers}, app=App("", "", source))
    assert answer.status == 200, answer
    endpoints = [ability["endpoint"] for ability in answer.json()["ability"].values()]
    bases = {endpoint[: endpoint.index("/ping/")] for endpoint in endpoints}
    assert len(bases) == 1
    return bases.pop()


PROXY = "127.9.9.9"
FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "btn.example.org"}


@pytest.mark.parametrize(
    ("headers", "source", "base"),
    [
        ({"Host": "nas.local:7799"}, "", "http://nas.local:7799"),
        ({"Host": "[2001:db8::1]:7799"}, "", "http://[2001:db8::1]:7799"),
        ({"Host": "BTN.Example"}, "", "http://BTN.Example"),
        ({"Host": "a.example", **FORWARDED}, "", "http://a.example"),
        ({"Host": "a.example", **FORWARDED}, "127.9.9.8", "http://a.example"),
        ({"Host": "a.example", **FORWARDED}, PROXY, "https://btn.example.org"),
        ({"Host": "a.example", "X-Forwarded-Proto": "https"}, PROXY, "https://a.example"),
        ({"Host": "a.example", "X-Forwarded-Host": "b.example:8443"}, PROXY, "http://b.example:8443"),
        (
            {"Host": "a", "X-Forwarded-Host": "b.example, inner", "X-Forwarded-Proto": "HTTPS, http"},
            PROXY,
            "https://b.example",
        ),
        ({"Host": "a.example", "Forwarded": "host=evil;proto=https", "X-Host": "evil"}, PROXY, "http://a.example"),
    ],
)
def test_the_endpoints_are_at_the_address_that_the_client_used(
    server: RunningServer, headers: Headers, source: str, base: str
) -> None:
    assert base_of(server, headers, source) == base


@pytest.mark.parametrize(
    "host",
    ["a b", "a/b", "a?b", 'a"b', "a@b", "a:99999999", "a\\b", "<script>", "[::1", "a:b", "x" * 300, "\xe9"],
)
def test_a_host_that_is_none_is_refused(server: RunningServer, host: str) -> None:
    with server.connect() as sock:
        credentials = "".join(f"{name}: {value}\r\n" for name, value in server.app.headers.items())
        sock.sendall(f"GET /ping/config HTTP/1.1\r\nHost: {host}\r\n{credentials}\r\n".encode("latin-1"))
        read_answer(sock, "GET").refusal(400)


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "X-Forwarded-Proto"])
def test_what_a_trusted_proxy_says_is_checked_too(server: RunningServer, header: str) -> None:
    headers = {**server.app.headers, header: "java script"}
    server.request("GET", "/ping/config", headers=headers, app=App("", "", PROXY)).refusal(400)


def test_a_request_without_a_host_gets_the_address_of_the_socket(server: RunningServer) -> None:
    with server.connect() as sock:
        credentials = "".join(f"{name}: {value}\r\n" for name, value in server.app.headers.items())
        sock.sendall(f"GET /ping/config HTTP/1.0\r\n{credentials}\r\n".encode())
        answer = read_answer(sock, "GET")
    assert answer.json()["ability"]["rules"]["endpoint"] == f"{server.url}/ping/rules/retrieve"


def test_a_public_url_wins_over_everything(start: Callable[..., RunningServer]) -> None:
    running = start('[server]\npublic_url = "https://example.org/btn/"\ntrusted_proxies = ["127.0.0.1"]')
    assert base_of(running, {"Host": "a.example", **FORWARDED}) == "https://example.org/btn"


@pytest.mark.parametrize(
    ("forwarded", "source", "client"),
    [
        ("198.51.100.1", "", "127.0.0.1"),
        ("198.51.100.1", PROXY, "198.51.100.1"),
        ("203.0.113.66, 198.51.100.1", PROXY, "198.51.100.1"),
        ("203.0.113.66, 198.51.100.1, 127.9.9.9", PROXY, "198.51.100.1"),
        ("::ffff:198.51.100.1", PROXY, "198.51.100.1"),
        ("2001:DB8:0:0::1", PROXY, "2001:db8::1"),
        ("198.51.100.1:4444", PROXY, "198.51.100.1"),
        ("203.0.113.66:1, 198.51.100.1:65535, 127.9.9.9:80", PROXY, "198.51.100.1"),
        ("[2001:db8::1]:4444", PROXY, "2001:db8::1"),
        ("198.51.100.1:nonsense", PROXY, PROXY),
        ("198.51.100.1, nonsense", PROXY, PROXY),
        ("", PROXY, PROXY),
    ],
)
def test_the_clients_address_is_what_the_trusted_proxy_saw(
    server: RunningServer, forwarded: str, source: str, client: str
) -> None:
    at = uuid.uuid4().int & 0xFFFFFFFF
    body = json.dumps({"populate_time": at, "peers": [{"ip_address": "192.0.2.1", "torrent_identifier": "t"}]})
    headers = {**server.app.headers, "X-Forwarded-For": forwarded}
    posted = server.request("POST", "/ping/peers/submit", body.encode(), headers, App("", "", source))
    assert posted.status == 200
    assert [row["address"] for row in server.rows("snapshot") if row["populate_time"] == at] == [client]
    assert server.logged()[-1]["client"] == client


# --- Rules and exceptions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("agent", "protocol"), PBH_AGENTS)
def test_peerbanhelper_can_work_with_the_rules(server: RunningServer, agent: str, protocol: int) -> None:
    answer = server.get("/ping/rules/retrieve?rev=initial", agent=agent)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    rules = clients.pbh_rules(answer.body, lowers_rule=protocol > 3, before_7=protocol < 8)
    assert rules.bans_address("60.220.182.1")
    assert not rules.bans_address("60.220.182.7")
    assert rules.bans_name("xunlei 1.0")
    if protocol >= 8:
        assert rules.bans_peer_id("-XL0012-")
        assert rules.ports == {"odd": [65000]}


def test_a_document_from_before_the_cure_is_replaced_at_the_next_request(server: RunningServer) -> None:
    old, new = "PeerBanHelper/6.4.8 BTN-Protocol/0.0.1", "PeerBanHelper/7.1.5 BTN-Protocol/0.0.2"
    cached = server.get("/ping/rules/retrieve?rev=initial", agent=new).json()["version"]
    answer = server.get(f"/ping/rules/retrieve?rev={cached}", agent=old)
    assert answer.status == 200
    assert answer.json()["port"] == {}


@pytest.mark.parametrize(
    ("agent", "parse"), [(QBCB, clients.qbcb_rules), (RUST, clients.rust_rules), (BITCOMET, clients.bitcomet_rules)]
)
def test_every_other_client_can_work_with_the_rules(
    server: RunningServer, agent: str, parse: Callable[[bytes], clients.Ruleset]
) -> None:
    rules = parse(server.get("/ping/rules/retrieve", agent=agent).body)
    assert rules.bans_address("203.0.113.9")
    assert rules.bans_address("2001:db8:1::5")
    assert not rules.bans_address("60.220.182.7")


@pytest.mark.parametrize("path", ["/ping/rules/retrieve", "/ping/exception"])
@pytest.mark.parametrize("agent", [PBH20, NEW_AGENT.format("9.1.5", "2.0.1", 13), QBCB, RUST, BITCOMET])
def test_204_answers_the_current_rev_and_never_a_client_without_rules(
    server: RunningServer, path: str, agent: str
) -> None:
    first = server.get(path, agent=agent)
    version = first.json()["version"]
    assert re.fullmatch("[0-9a-f]{8}", version)
    assert first.headers["x-btn-contentversion"] == version
    same = server.get(f"{path}?rev={version}", agent=agent)
    assert (same.status, same.body, same.headers["x-btn-contentversion"]) == (204, b"", version)
    assert server.get(f"{path}?a=b&rev={version}&rev=other", agent=agent).status == 204
    for query in ("?rev=", "?rev", "?rev=initial", "?rev=unknown", "?rev=0", f"?rev={version}x", "?rev=%00"):
        assert server.get(path + query, agent=agent).body == first.body


@pytest.mark.parametrize("query", ["rev=%ff", "%ff=1", "rev=%E4%B8%AD", "rev=\xff", "&&&=&rev"])
@pytest.mark.parametrize("path", ["/ping/rules/retrieve", "/ping/exception", "/ping/reconfigure"])
def test_a_query_that_is_no_text_is_another_rev(server: RunningServer, path: str, query: str) -> None:
    with server.connect() as sock:
        credentials = "".join(f"{name}: {value}\r\n" for name, value in server.app.headers.items())
        sock.sendall(f"GET {path}?{query} HTTP/1.1\r\nHost: a\r\n{credentials}\r\n".encode("latin-1"))
        assert read_answer(sock, "GET").status in ((200, 400) if "\xff" in query else (200,))


def test_no_two_lists_and_no_two_clients_share_a_version(server: RunningServer) -> None:
    bodies: dict[str, set[bytes]] = {}
    for agent in (PBH20, JDK_AGENT.format("3.2.0"), QBCB, RUST, BITCOMET):
        for path in ("/ping/rules/retrieve", "/ping/exception"):
            answer = server.get(path, agent=agent)
            bodies.setdefault(answer.json()["version"], set()).add(answer.body)
    assert all(len(same) == 1 for same in bodies.values())
    assert len(bodies) == 10


@pytest.mark.parametrize(
    ("accept", "packed"),
    [("gzip", True), ("gzip,deflate", True), ("deflate, GZIP;q=1.0", True), ("", False), ("br", False)],
)
def test_rules_are_packed_for_who_can_unpack_them(server: RunningServer, accept: str, packed: bool) -> None:
    plain = server.get("/ping/rules/retrieve", Accept_Encoding="identity")
    answer = server.get("/ping/rules/retrieve", Accept_Encoding=accept)
    assert ("gzip" in answer.headers.get("content-encoding", "")) is packed
    assert (gzip.decompress(answer.body) if packed else answer.body) == plain.body
    assert "accept-encoding" in answer.headers["vary"].lower()
    assert "content-encoding" not in plain.headers


LISTS = ["/ping/rules/retrieve", "/ping/exception", "/ping/rulePeerIdentity", "/ping/ruleIpDenylist"]


@pytest.mark.parametrize("path", ["/ping/config", *LISTS, "/ping/ruleIpAllowlist?rev=initial"])
@pytest.mark.parametrize("agent", [PBH20, QBCB])
def test_who_has_a_document_by_its_tag_is_not_sent_it_again(server: RunningServer, path: str, agent: str) -> None:
    for encoding in ("identity", "gzip"):
        first = server.get(path, agent=agent, Accept_Encoding=encoding)
        tag = first.headers["etag"]
        assert (first.status, first.headers["cache-control"]) == (200, "private, no-cache")
        assert re.fullmatch('"[0-9a-f]+(-gzip)?"', tag)
        for known in (tag, f"W/{tag}", "*", f'"a", W/{tag} ,"b"', f'"a,b",{tag}', f'"",{tag}'):
            again = server.get(path, agent=agent, Accept_Encoding=encoding, If_None_Match=known)
            assert (again.status, again.body) == (304, b""), known
            kept = ("etag", "vary", "cache-control", "x-btn-contentversion")
            assert [again.headers.get(name) for name in kept] == [first.headers.get(name) for name in kept]
            assert not {"content-length", "content-type", "content-encoding"} & again.headers.keys()
        bare = tag.strip('"')
        for other in ("", '""', bare, f'"{bare}x"', f'"x{bare}"', f'"{bare}', '"*"', f'"{bare.upper()}Z"', f"W/{bare}"):
            answer = server.get(path, agent=agent, Accept_Encoding=encoding, If_None_Match=other)
            assert (answer.status, answer.body) == (200, first.body), other


@pytest.mark.parametrize("path", LISTS)
def test_each_form_of_a_list_has_a_tag_of_its_own(server: RunningServer, path: str) -> None:
    plain = server.get(path, Accept_Encoding="identity").headers["etag"]
    packed = server.get(path, Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["etag"] != plain
    # A cache must not hand packed bytes to who can't unpack them, because they are called the same.
    assert server.get(path, Accept_Encoding="gzip", If_None_Match=plain).status == 200
    assert server.get(path, Accept_Encoding="identity", If_None_Match=packed.headers["etag"]).status == 200
    assert server.get(path, Accept_Encoding="gzip", If_None_Match=f"{plain}, {packed.headers['etag']}").status == 304


def test_no_two_documents_share_a_tag(server: RunningServer) -> None:
    bodies: dict[str, set[bytes]] = {}
    for agent in (PBH20, JDK_AGENT.format("3.2.0"), QBCB, RUST, BITCOMET):
        for path in ("/ping/config", *LISTS, "/ping/ruleIpAllowlist"):
            for encoding in ("identity", "gzip"):
                answer = server.get(path, agent=agent, Accept_Encoding=encoding)
                bodies.setdefault(answer.headers["etag"], set()).add(answer.body)
    assert all(len(same) == 1 for same in bodies.values())


def test_the_current_rev_is_answered_as_clients_know_it_whatever_else_they_have(server: RunningServer) -> None:
    first = server.get("/ping/rules/retrieve")
    path = f"/ping/rules/retrieve?rev={first.json()['version']}"
    for known in ("*", first.headers["etag"]):
        assert server.get(path, If_None_Match=known).status == 204


def test_a_head_with_a_tag_is_answered_like_the_get(server: RunningServer) -> None:
    tag = server.get("/ping/rules/retrieve").headers["etag"]
    headers = {**server.app.headers, "User-Agent": PBH20, "If-None-Match": tag}
    assert server.request("HEAD", "/ping/rules/retrieve", headers=headers).status == 304
    # Several lines are one list.
    with server.connect() as sock:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        sock.sendall(f'GET /ping/rules/retrieve HTTP/1.1\r\nHost: a\r\nIf-None-Match: "a"\r\n{lines}\r\n'.encode())
        assert read_answer(sock, "GET").status == 304


def test_a_tag_is_good_until_the_document_changes(start: Callable[..., RunningServer]) -> None:
    running = start(RULES)
    tags = {path: running.get(path).headers["etag"] for path in ("/ping/config", *LISTS)}
    running.restart()
    statuses = [running.get(path, If_None_Match=tags[path]).status for path in LISTS]
    assert statuses == [304] * len(LISTS)
    # Another port, so other endpoints.
    assert running.get("/ping/config", If_None_Match=tags["/ping/config"]).status == 200
    running.reload(RULES.replace("60.220.182.0/24", "60.220.183.0/24"))
    statuses = [running.get(path, If_None_Match=tags[path]).status for path in LISTS]
    # The peer identities name no address, and the exceptions are the same.
    assert statuses == [200, 304, 304, 200]


def test_what_else_is_made_before_it_is_asked_for_has_a_tag_too(server: RunningServer) -> None:
    token = server.token()
    page = server.request("GET", "/docs").body.decode()
    names = re.findall(r'"(/docs/[^"]+)"', page) + re.findall(
        r'"(/static/[^"]+)"', server.request("GET", "/login", headers={"Accept": "text/html"}).body.decode()
    )
    assert len(names) > 4
    for path in (*names, "/docs", "/openapi.json", "/api/rules/changes?format=atom"):
        for encoding in ("identity", "gzip"):
            headers = {"X-BTN-Token": token, "Accept-Encoding": encoding}
            first = server.request("GET", path, headers=headers)
            again = server.request("GET", path, headers={**headers, "If-None-Match": first.headers["etag"]})
            assert (first.status, again.status, again.body) == (200, 304, b""), path
            for name in ("etag", "vary", "cache-control"):
                assert again.headers.get(name) == first.headers.get(name)
            assert "no-store" not in first.headers["cache-control"]


def test_gzip_that_is_ruled_out_is_not_sent(server: RunningServer) -> None:
    answer = server.get("/ping/rules/retrieve", Accept_Encoding="gzip;q=0, identity")
    assert "content-encoding" not in answer.headers


def test_rules_are_the_same_on_another_server(server: RunningServer, start: Callable[..., RunningServer]) -> None:
    other = start(RULES)
    for path in ("/ping/rules/retrieve", "/ping/exception"):
        assert other.get(path).body == server.get(path).body


def test_a_get_with_a_content_type_and_no_body_keeps_its_connection(server: RunningServer) -> None:
    headers = {**server.app.headers, "User-Agent": PBH20, "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        for path in ("/ping/config", "/ping/rules/retrieve?rev=initial", "/ping/exception", "/ping/nothing") * 3:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            assert response.read()
            assert not response.will_close


# --- Credentials ------------------------------------------------------------------------------------------------------


def bearer(app: App, scheme: str = "Bearer", blank: str = " ") -> str:
    return f"{scheme}{blank}{app.app_id}@{app.secret}"


FORMS: list[Callable[[App], Headers]] = [
    lambda app: {"BTN-AppID": app.app_id, "BTN-AppSecret": app.secret},
    lambda app: {"X-BTN-AppID": app.app_id, "X-BTN-AppSecret": app.secret},
    lambda app: {"x-btn-appid": f"  {app.app_id}  ", "x-btn-appsecret": app.secret},
    lambda app: {"Authentication": bearer(app)},
    lambda app: {"Authorization": bearer(app)},
    lambda app: {"Authorization": bearer(app, "bearer")},
    lambda app: {"Authorization": bearer(app, "BEARER", "   ")},
    lambda app: {"Authorization": f"Bearer  {app.app_id} @ {app.secret} "},
    lambda app: {"Authorization": "Basic dXNlcjpwYXNz", "X-BTN-AppID": app.app_id, "X-BTN-AppSecret": app.secret},
    lambda app: {"Authorization": "Bearer", "Authentication": bearer(app)},
    lambda app: {"Authorization": "", "BTN-AppID": app.app_id, "BTN-AppSecret": app.secret},
    lambda app: {"Authorization": "Bearer example-app-id@example-app-secret", "Authentication": bearer(app)},
    lambda app: {"X-BTN-AppID": "your_app_id", "X-BTN-AppSecret": "your_app_secret", "Authentication": bearer(app)},
    lambda app: {"Authorization": bearer(app), "BTN-AppID": "other", "BTN-AppSecret": "other"},
    lambda app: {**app.headers, "X-BTN-InstallationID": str(uuid.uuid4())},
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_credentials_lets_a_client_in(server: RunningServer, form: Callable[[App], Headers]) -> None:
    for method, path in (("GET", "/ping/config"), ("GET", "/ping/rules/retrieve"), ("GET", "/ping/exception")):
        assert server.request(method, path, headers=form(server.app)).status == 200


REFUSED: list[tuple[Callable[[App], Headers], str]] = [
    (lambda _: {}, "no credentials"),
    (lambda _: {"Authorization": "Bearer"}, "no credentials"),
    (lambda _: {"Authorization": "Basic dXNlcjpwYXNz"}, "no credentials"),
    (lambda app: {"Authorization": f"Bearer {app.app_id}"}, "no credentials"),
    (lambda _: {"BTN-AppID": "example-app-id", "BTN-AppSecret": "example-app-secret"}, "example"),
    (lambda _: {"X-BTN-AppID": "your_app_id", "X-BTN-AppSecret": "your_app_secret"}, "example"),
    (lambda app: {"X-BTN-AppID": app.app_id, "X-BTN-AppSecret": "example"}, "example"),
    (lambda app: {"X-BTN-AppID": "", "X-BTN-AppSecret": app.secret}, "example"),
    (lambda app: {"X-BTN-AppID": app.app_id, "X-BTN-AppSecret": app.secret + "x"}, ""),
    (lambda app: {"X-BTN-AppID": app.app_id, "X-BTN-AppSecret": "é"}, ""),
    (lambda app: {"X-BTN-AppID": app.secret, "X-BTN-AppSecret": app.app_id}, ""),
    (lambda _: {"X-BTN-AppID": str(uuid.uuid4()), "X-BTN-AppSecret": "x"}, ""),
    (lambda _: {"X-BTN-AppID": "' OR 1=1 --", "X-BTN-AppSecret": "' OR 1=1 --"}, ""),
    # The first that is no placeholder decides, and nobody wrong becomes anonymous.
    (lambda app: {"Authorization": "Bearer a@b", **app.headers}, ""),
    (lambda _: {"BTN-AppID": "a", "BTN-AppSecret": "b", "X-BTN-InstallationID": str(uuid.uuid4())}, ""),
    (lambda _: {"X-BTN-InstallationID": str(uuid.uuid4())}, ""),
]


@pytest.mark.parametrize(("form", "told"), REFUSED)
def test_everybody_else_gets_403_and_a_sentence_never_401(
    server: RunningServer, form: Callable[[App], Headers], told: str
) -> None:
    # Each wrong guess counts against the address that it comes from.
    source = App("", "", f"127.2.{uuid.uuid4().int & 255}.{1 + (uuid.uuid4().int & 127)}")
    for method, path in (
        ("GET", "/ping/config"),
        ("POST", "/ping/peers/submit"),
        ("GET", "/ping/rules/retrieve?rev=x"),
    ):
        body = b'{"peers":[]}' if method == "POST" else None
        answer = server.request(method, path, body, form(server.app), source)
        assert told in answer.refusal(403)
        assert "www-authenticate" not in answer.headers


def test_credentials_in_a_query_are_not_taken(server: RunningServer) -> None:
    query = f"?appId={server.app.app_id}&appSecret={server.app.secret}"
    for path in ("/ping/config", "/ping/rules/retrieve"):
        server.request("GET", path + query).refusal(403)


def test_credentials_that_are_no_text_are_survived(server: RunningServer) -> None:
    for line in (
        b"Authorization: \xff\xfe@\x80",
        b"Authorization: Bearer " + b"a" * 9000,
        b"X-BTN-AppID: \xe4\xb8\xad",
    ):
        with server.connect() as sock:
            sock.sendall(b"GET /ping/config HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n")
            read_answer(sock, "GET").refusal(403)


def test_who_guesses_credentials_is_slowed_down_and_does_not_slow_others(server: RunningServer) -> None:
    guesser = App("", "", "127.3.3.3")
    statuses = []
    for _ in range(60):
        headers = {"X-BTN-AppID": str(uuid.uuid4()), "X-BTN-AppSecret": "x"}
        answer = server.request("GET", "/ping/config", headers=headers, app=guesser)
        statuses.append(answer.status)
        assert answer.status == 403 or int(answer.headers["retry-after"]) >= 1
    assert set(statuses) == {403, 429}
    assert server.request("GET", "/ping/config", headers=server.app.headers, app=guesser).status == 200


def test_anonymous_clients_are_let_in_only_where_they_are_wanted(start: Callable[..., RunningServer]) -> None:
    running = start("[auth]\nanonymous_apps = true\n")
    for headers in (
        {"X-BTN-InstallationID": str(uuid.uuid4())},
        {
            "X-BTN-InstallationID": uuid.uuid4().hex,
            "BTN-AppID": "example-app-id",
            "BTN-AppSecret": "example-app-secret",
        },
        {"X-BTN-InstallationID": uuid.uuid4().hex, "BTN-AppID": running.app.app_id, "BTN-AppSecret": ""},
    ):
        answers = [running.request("GET", "/ping/config", headers=headers) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 200]
    for wrong in ("", "a" * 65, "a b", "../x"):
        running.request("GET", "/ping/config", headers={"X-BTN-InstallationID": wrong}).refusal(403)
    listed: list[dict[str, Any]] = json.loads(running.run("app", "list", "--json"))
    assert [app["user"] for app in listed].count("anonymous") == 3


def test_basic_credentials_of_a_proxy_do_not_hide_the_clients(server: RunningServer) -> None:
    basic = base64.b64encode(b"user:a@b").decode()
    headers = {"Authorization": f"Basic {basic}", "Authentication": bearer(server.app)}
    assert server.request("GET", "/ping/config", headers=headers).status == 200


def test_two_contents_of_one_version_are_never_taken_for_each_other(start: Callable[..., RunningServer]) -> None:
    """Versions have 32 bits, so that among a few hundred thousand lists some share one: such a pair is found here."""
    rule = '[[rules]]\ntype = "ip"\ncategory = "x"\ncontent = ["{}"]\n'
    server = start(rule.format("1.0.0.1"))
    path = "/ping/ruleIpDenylist"
    body = server.get(path).body
    seen: dict[bytes, str] = {}
    for number in range(1, 600_000):
        address = f"1.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        digest = hashlib.sha256(b"ip_denylist\n\n" + body.replace(b"1.0.0.1", address.encode())).digest()[:4]
        if (other := seen.setdefault(digest, address)) != address:
            break
    else:
        pytest.fail("no two lists share a version")
    server.reload(rule.format(other))
    first = server.get(path)
    version = first.headers["x-btn-contentversion"]
    assert version == digest.hex() and server.get(f"{path}?rev={version}").status == 204
    server.reload(rule.format(address))
    for headers in ({}, {"If_None_Match": first.headers["etag"]}):
        second = server.get(f"{path}?rev={version}", **headers)
        assert (second.status, second.headers["x-btn-contentversion"]) == (200, version)
        assert address.encode() in second.body
