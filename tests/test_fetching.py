"""Fetching by URL: what is fetched, what never is, and what is said of it."""

import asyncio
import gzip
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from file_site import Site, head, open_site
from hypothesis import example, given
from hypothesis import strategies as st

import sparkle_lite
from sparkle_lite import clock
from sparkle_lite.clock import DrivenClock
from sparkle_lite.errors import SparkleError
from sparkle_lite.fetching import LONGEST_URL, Fetched, FetchLimits, Validators, check_url, fetch
from sparkle_lite.texts import languages

TESTS = Path(__file__).parent
ROOT = str(Path(sparkle_lite.__file__).parent.parent)
LIST = b"203.0.113.7\r\n198.51.100.0/24\r\n"
HERE = ("127.0.0.1",)
OTHER_TIME = "Sat, 28 Nov 2026 07:00:00 GMT"


class Names:
    """What names lead to, one answer after the other, and what was looked up."""

    def __init__(self, **addresses: Sequence[Sequence[str] | OSError]) -> None:
        self._answers = {name.replace("_", "."): list(answers) for name, answers in addresses.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answer = self._answers[host].pop(0) if host in self._answers else HERE
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site of its own for a test; every connection to it must have been closed when the test ends."""
    async with open_site() as site:
        yield site


async def take(site: Site, target: str, **more: Any) -> Fetched:
    """What a target on the site gives, asked for by a name."""
    names = more.pop("resolve", None) or Names()
    return await fetch(f"http://list.example:{site.port}{target}", allow_private=True, resolve=names, **more)


async def refusal(fetching: Awaitable[Fetched]) -> SparkleError:
    """Why nothing is fetched, said in every language and without what is secret."""
    with pytest.raises(SparkleError) as refused:
        await fetching
    error = refused.value
    assert error.__cause__ is None
    for language in languages():
        assert "geheim" not in error.text(language)
    return error


# --- What is fetched --------------------------------------------------------------------------------------------------


async def test_a_file_is_fetched_with_what_tells_it_from_the_next(site: Site) -> None:
    site.gives(
        "/a%20b.txt?x=1&y=%C3%A9", LIST, 'ETag: W/"7"', f"Last-Modified: {OTHER_TIME}", "Content-Type: Text/Plain; x=y"
    )
    heard: list[tuple[int, int | None]] = []
    headers = {"X-BTN-AppSecret": "geheim", "User-Agent": "other"}
    url = f" HTTP://List.EXAMPLE.:{site.port}/a%20b.txt?x=1&y=é#part "
    fetched = await fetch(
        url,
        allow_private=True,
        headers=headers,
        progress=lambda received, total: heard.append((received, total)),
        resolve=Names(),
    )
    plain = f"http://list.example:{site.port}/a%20b.txt?x=1&y=%C3%A9"
    assert fetched == Fetched(
        url=plain,
        final_url=plain,
        body=LIST,
        validators=Validators('W/"7"', OTHER_TIME),
        media_type="text/plain",
    )
    assert heard[-1] == (len(LIST), len(LIST))
    sent = site.asked[0].headers
    assert sent["host"] == f"list.example:{site.port}"
    assert sent["user-agent"] == f"Sparkle-Lite/{sparkle_lite.__version__}"
    assert (sent["x-btn-appsecret"], sent["accept-encoding"]) == ("geheim", "gzip, identity")
    assert not {"cookie", "authorization", "if-none-match", "if-modified-since"} & sent.keys()


async def test_what_has_not_changed_is_not_sent_again(site: Site) -> None:
    known = Validators('"7"', OTHER_TIME)
    site.says("/list", head('ETag: "8"', status="304 Not Modified"))
    fetched = await take(site, "/list", validators=known)
    assert (fetched.body, fetched.validators) == (None, Validators('"8"', OTHER_TIME))
    sent = site.asked[0].headers
    assert (sent["if-none-match"], sent["if-modified-since"]) == known
    error = await refusal(take(site, "/list"))
    assert (error.code, error.said.key, error.said.values["status"]) == ("upstream", "fetch.status", 304)


async def test_validators_that_could_not_be_sent_back_are_left_out(site: Site) -> None:
    site.gives("/list", LIST, 'ETag: "\xe9"', f"Last-Modified: {'x' * 3000}")
    assert (await take(site, "/list")).validators == Validators()


async def test_an_encoding_is_taken_off_and_a_packed_file_stays(site: Site) -> None:
    packed = gzip.compress(LIST * 1000)
    site.gives("/encoded", packed, "Content-Encoding: GZIP")
    site.gives("/members", gzip.compress(b"1.1.1.1\n") + packed + bytes(300), "Content-Encoding: x-gzip")
    site.gives("/list.gz", packed, "Content-Type: application/gzip")
    site.gives("/plain", LIST, "Content-Encoding: identity", status="203 Non-Authoritative Information")
    # In pieces, wherever they break.
    pieces = [part for n in range(0, len(packed), 7) for part in (packed[n : n + 7], 0.0)]
    site.says("/trickle", head(f"Content-Length: {len(packed)}", "Content-Encoding: gzip"), *pieces)
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(packed[n : n + 9]), packed[n : n + 9]) for n in range(0, len(packed), 9))
    site.says("/chunked", head("Transfer-Encoding: chunked", "Content-Encoding: gzip"), chunked + b"0\r\n\r\n")
    site.says("/until-closed", head(), LIST)
    bodies = {target: (await take(site, target)).body for target in site.answers}
    assert bodies == {
        "/encoded": LIST * 1000,
        "/members": b"1.1.1.1\n" + LIST * 1000,
        "/list.gz": packed,
        "/plain": LIST,
        "/trickle": LIST * 1000,
        "/chunked": LIST * 1000,
        "/until-closed": LIST,
    }


async def test_nothing_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine list.example login a password geheim\n", "utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    site.gives("/list", LIST)
    assert (await take(site, "/list")).body == LIST
    assert "authorization" not in site.asked[0].headers


def test_reading_a_url_does_not_load_what_fetches() -> None:
    program = "import sparkle_lite.fetching as f, sys; f.check_url('http://a.example', allow_private=False)"
    env = {**os.environ, "PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-c", f"{program}; sys.exit('httpx' in sys.modules)"], check=True, env=env)


# --- Redirects --------------------------------------------------------------------------------------------------------


async def test_redirects_are_followed_and_the_url_that_was_asked_for_is_kept(site: Site) -> None:
    site.redirects("/1", "/2?key=geheim", "301 Moved Permanently")
    site.redirects("/2?key=geheim", f"//other.example:{site.port}/3", "307 Temporary Redirect")
    site.redirects("/3", f"http://third.example:{site.port}/list#part", "308 Permanent Redirect")
    site.gives("/list", LIST)
    names = Names()
    fetched = await take(site, "/1", resolve=names, validators=Validators('"1"'))
    assert (fetched.url, fetched.final_url, fetched.body) == (
        f"http://list.example:{site.port}/1",
        f"http://third.example:{site.port}/list",
        LIST,
    )
    hosts = [asked.headers["host"].partition(":")[0] for asked in site.asked]
    assert hosts == names.asked == ["list.example", "list.example", "other.example", "third.example"]


async def test_redirects_have_an_end(site: Site) -> None:
    for n in range(9):
        site.redirects(f"/{n}", f"/{n + 1}")
    site.gives("/2", LIST)
    limits = FetchLimits(redirects=2)
    assert (await take(site, "/0", limits=limits)).body == LIST
    error = await refusal(take(site, "/3", limits=limits))
    assert (error.code, error.said.key, error.said.values["why"].key) == (
        "upstream",
        "fetch.redirected",
        "fetch.too_many_redirects",
    )
    assert [asked.target for asked in site.asked] == ["/0", "/1", "/2", "/3", "/4", "/5"]
    assert error.message.startswith(f"http://list.example:{site.port}/3 redirects, and that didn't succeed: There are")


@pytest.mark.parametrize(
    ("location", "key"),
    [
        ("", "nowhere"),
        ("ftp://list.example/", "bad_scheme"),
        ("file:///etc/passwd", "bad_scheme"),
        ("http://a:geheim@list.example/", "has_credentials"),
        ("http://[::1/", "bad_host"),
        ("http://0x7f.1/", "bad_address"),
        ("/a b", "bad_character"),
        ("http://other.example/list?key=geheim", "other_origin"),
        ("http://list.example/", "other_origin"),
        ("https://list.example/", "other_origin"),
    ],
)
async def test_a_redirect_that_cannot_be_followed(site: Site, location: str, key: str) -> None:
    site.redirects("/", location)
    error = await refusal(take(site, "/", headers={"X-BTN-AppSecret": "geheim"}))
    assert (error.code, error.said.key, error.said.values["why"].key) == (
        "upstream",
        "fetch.redirected",
        f"fetch.{key}",
    )
    assert len(site.asked) == 1


async def test_headers_go_on_to_their_own_origin(site: Site) -> None:
    site.redirects("/", "/list")
    site.gives("/list", LIST)
    await take(site, "/", headers={"X-BTN-AppSecret": "geheim"})
    assert [asked.headers["x-btn-appsecret"] for asked in site.asked] == ["geheim"] * 2


@pytest.mark.parametrize("headers", [{"X-A": "a\r\nX-B: b"}, {"X-A": "é"}, {"X A": "a"}, {"": "a"}, {"X-A": " geheim"}])
async def test_a_header_that_cannot_be_sent(site: Site, headers: dict[str, str]) -> None:
    error = await refusal(take(site, "/", headers=headers))
    assert (error.code, error.said.key, site.asked) == ("bad_request", "fetch.bad_header", [])


# --- What comes in part, too large or too late ------------------------------------------------------------------------

_LONG = head("Content-Length: 100")
_CHUNKED = head("Transfer-Encoding: chunked")
_ENCODED = head("Content-Encoding: gzip", "Transfer-Encoding: chunked")
# Tests have the same names in every process.
_PACKED = gzip.compress(LIST * 50, mtime=0)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([_LONG, LIST], id="shorter than its length"),
        pytest.param([_LONG], id="without a body"),
        pytest.param([_CHUNKED, b"5\r\n1.1.1"], id="within a chunk"),
        pytest.param([_CHUNKED, b"8\r\n1.1.1.1\n\r\n"], id="without the last chunk"),
        pytest.param([_CHUNKED, b"8\r\n1.1.1.1\n\r\nzz\r\n"], id="no chunk"),
        pytest.param([_ENCODED, b"%x\r\n%b\r\n0\r\n\r\n" % (50, _PACKED[:50])], id="within gzip"),
        pytest.param([_ENCODED, b"0\r\n\r\n"], id="no gzip at all"),
        pytest.param([head("Content-Encoding: gzip"), _PACKED[:-1]], id="without the end of gzip"),
        pytest.param([head("Content-Encoding: gzip"), _PACKED, _PACKED[:12]], id="within a second member"),
    ],
)
async def test_what_is_cut_off_is_no_body(site: Site, parts: list[bytes]) -> None:
    site.says("/list?key=geheim", *parts)
    error = await refusal(take(site, "/list?key=geheim"))
    assert (error.code, error.said.key) == ("upstream", "fetch.cut_off")
    assert error.message == f"http://list.example:{site.port}/list was cut off before its end: try again later."


@pytest.mark.parametrize("damage", [b"no gzip", _PACKED[:20] + b"\xff" * 20 + _PACKED[40:], _PACKED + b"behind it"])
async def test_what_is_damaged_is_no_body(site: Site, damage: bytes) -> None:
    site.gives("/", damage, "Content-Encoding: gzip")
    assert (await refusal(take(site, "/"))).said.key == "fetch.damaged"


async def test_what_is_too_large_is_left_early(site: Site) -> None:
    limits = FetchLimits(max_bytes=100_000)
    site.gives("/most", bytes(100_000))
    assert (await take(site, "/most", limits=limits)).body == bytes(100_000)
    site.answers.clear()
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    site.gives("/bomb", bomb, "Content-Encoding: gzip")
    nothing = gzip.compress(b"") * 1000
    site.says("/nothing", _ENCODED, *[b"%x\r\n%b\r\n" % (len(nothing), nothing)] * 6, None)
    site.gives("/nested", gzip.compress(bytes(100_001)), "Content-Encoding: gzip")
    # Its length is enough to know it by.
    site.says("/announced", head("Content-Length: 100001"), None)
    site.says("/endless", _CHUNKED, *[b"8000\r\n%b\r\n" % bytes(0x8000)] * 4, None)
    for target in site.answers:
        tracemalloc.start()
        error = await refusal(take(site, target, limits=limits))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (error.code, error.said.key) == ("upstream", "fetch.too_large"), target
        assert peak < 10_000_000, target
    assert "larger than 0.0953674 MiB, the most" in error.message


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
async def test_an_encoding_that_was_not_asked_for(site: Site, encoding: str) -> None:
    site.gives("/", LIST, f"Content-Encoding: {encoding}")
    assert (await refusal(take(site, "/"))).said.key == "fetch.encoding"


async def test_who_is_slow_is_left(site: Site) -> None:
    drops = [part for _ in range(200) for part in (b"1", 0.02)]
    site.says("/trickle", head("Content-Length: 200"), *drops)
    site.says("/head", b"HTTP/1.1 200 OK\r\n", None)
    site.says("/body", _LONG, LIST, None)
    quick = FetchLimits(read_s=0.2)
    keys = {
        target: (await refusal(take(site, target, limits=limits))).said.key
        for target, limits in (("/trickle", FetchLimits(total_s=0.3)), ("/head", quick), ("/body", quick))
    }
    assert keys == {"/trickle": "fetch.slow", "/head": "fetch.slow_read", "/body": "fetch.slow_read"}


async def test_a_name_that_is_slow(site: Site) -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return HERE

    error = await refusal(take(site, "/", resolve=never, limits=FetchLimits(connect_s=0.05)))
    assert error.said.key == "fetch.slow_name"
    assert error.message.startswith("list.example couldn't be looked up within 0.05 s")


@pytest.mark.parametrize("where", ["connecting", "head", "body"])
async def test_who_is_cancelled_leaves_no_connection(site: Site, where: str) -> None:
    site.says("/head", None)
    site.says("/body", _LONG, LIST, None)
    site.greeting = b"" if where == "connecting" else None
    scheme = "https" if where == "connecting" else "http"
    url = f"{scheme}://list.example:{site.port}/{where}"
    task = asyncio.create_task(fetch(url, allow_private=True, resolve=Names()))
    async with asyncio.timeout(10):
        while not site.open or (where != "connecting" and not site.asked):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await site.until_left()


# --- Answers that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial Content", "300 Multiple Choices", "404 Not Found"])
async def test_a_status_that_brings_no_file(site: Site, status: str) -> None:
    site.gives("/list?key=geheim", b"" if status.startswith("204") else LIST, status=status)
    error = await refusal(take(site, "/list?key=geheim"))
    assert (error.code, error.said.key, error.retry_after) == ("upstream", "fetch.status", None)
    assert f"/list answered {status[:3]} instead" in error.message


async def test_when_to_come_again_is_heard(site: Site) -> None:
    with clock.driven_by(DrivenClock(1_800_000_000_000)):
        for status, text, seconds in (
            ("429 Too Many Requests", "120", 120),
            ("503 Service Unavailable", formatdate(1_800_000_090, usegmt=True), 90),
            ("503 Service Unavailable", formatdate(1_700_000_000, usegmt=True), 0),
            ("503 Service Unavailable", "99999999999", 86400),
            ("503 Service Unavailable", "Sat, 28 Nov 20266666 07:00:00 GMT", None),
            ("503 Service Unavailable", "soon", None),
            ("500 Internal Server Error", "120", None),
        ):
            site.gives("/", b"", f"Retry-After: {text}", status=status)
            error = await refusal(take(site, "/"))
            key = "fetch.status" if seconds is None else "fetch.later"
            assert (error.said.key, error.retry_after) == (key, seconds), text


async def test_what_is_no_http(site: Site) -> None:
    site.says("/nothing")
    site.says("/ssh", b"SSH-2.0-OpenSSH_9.2\r\n")
    site.says("/lengths", head("Content-Length: 5", "Content-Length: 6"), b"1.1.1")
    site.says("/endless", b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 200_000)
    for target in site.answers:
        assert (await refusal(take(site, target))).said.key == "fetch.no_answer", target


async def test_nobody_is_there(site: Site) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await refusal(fetch(f"http://list.example:{port}/", allow_private=True, resolve=Names()))
        assert error.message.startswith(f"list.example refuses connections to port {port}")
        # Of several addresses the first says why: it is the one that should have worked.
        for addresses, key in (
            (("127.0.0.1", "255.255.255.255"), "refused"),
            (("255.255.255.255", "127.0.0.1"), "unreachable"),
        ):
            names = Names(list_example=[addresses])
            error = await refusal(fetch(f"http://list.example:{port}/", allow_private=True, resolve=names))
            assert error.said.key == f"fetch.{key}"
    for answer, key in (
        (socket.gaierror(socket.EAI_NONAME, "no"), "no_name"),
        (socket.gaierror(socket.EAI_AGAIN, "no"), "no_resolver"),
        ((), "no_name"),
    ):
        assert (await refusal(take(site, "/", resolve=Names(list_example=[answer])))).said.key == f"fetch.{key}"


async def test_the_next_address_is_tried_where_one_cannot_be_connected_to(site: Site) -> None:
    site.gives("/", LIST)
    names = Names(list_example=[("127.0.0.2", "::1", "127.0.0.1")])
    assert (await take(site, "/", resolve=names)).body == LIST
    assert names.asked == ["list.example"]


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of list.example and its key in one file, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not there")
    path = tmp_path_factory.mktemp("certificate") / "list.pem"
    command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:list.example", "-keyout", path, "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


async def test_a_certificate_is_checked_by_the_name(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    heard: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: heard.append(name)
    async with open_site(context) as secure:
        secure.gives("/", LIST)
        secure.redirects("/down", f"http://list.example:{site.port}/")
        port = secure.port
        # Nobody has signed it, then this machine trusts it.
        error = await refusal(fetch(f"https://list.example:{port}/", allow_private=True, resolve=Names()))
        assert (error.code, error.said.key) == ("upstream", "fetch.certificate")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        fetched = await fetch(f"https://list.example:{port}/", allow_private=True, resolve=Names())
        assert (fetched.body, heard[-1], secure.asked[-1].headers["host"]) == (
            LIST,
            "list.example",
            f"list.example:{port}",
        )
        for host in ("other.example", "127.0.0.1"):
            error = await refusal(fetch(f"https://{host}:{port}/", allow_private=True, resolve=Names()))
            assert error.said.key == "fetch.certificate", host
        error = await refusal(fetch(f"https://list.example:{port}/down", allow_private=True, resolve=Names()))
        assert error.said.values["why"].key == "fetch.downgrade"
    assert site.asked == []
    site.greeting = b"220 list.example ESMTP\r\n"
    error = await refusal(fetch(f"https://list.example:{site.port}/", allow_private=True, resolve=Names()))
    assert error.said.key == "fetch.tls"


# --- Addresses that nothing is fetched from ---------------------------------------------------------------------------

PRIVATE = [
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.168.1.1",
    "224.0.0.1",
    "255.255.255.255",
    "127。0。0。1",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:c0a8:101]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::10.0.0.1]",
    "[64:ff9b:1::8.8.8.8]",
    "[2002:7f00:1::]",
    "[2002:c0a8:0101::1]",
    # Teredo: the client is 127.0.0.1, then the server is 10.0.0.1.
    "[2001:0:cb00:7107:0:0:80ff:fffe]",
    "[2001:0:0a00:1:0:0:34ff:8ef8]",
    "[2001:db8::5efe:7f00:1]",
    "[2001:db8::200:5efe:a00:1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fec0::1]",
    "[ff02::1]",
]
NO_ADDRESS = [
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0X7F.0.0.1",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.01",
    "1.2.3.4.5",
    "256.1.1.1",
    "a.0x",
    "[fe80::1%25eth0]",
    "[fe80::1%1]",
    "[127.0.0.1]",
    "[::g]",
    "[v1.a]",
]


@pytest.mark.parametrize("host", PRIVATE)
async def test_nothing_is_fetched_from_this_machine_or_its_networks(host: str) -> None:
    with pytest.raises(SparkleError) as refused:
        check_url(f"http://{host}/", allow_private=False)
    assert (refused.value.code, refused.value.said.key) == ("forbidden", "fetch.private")
    assert check_url(f"https://{host}:8443/", allow_private=True).startswith("https://")
    # Nor by a name that leads there, nor by a redirect to it.
    address = host.strip("[]").replace("。", ".")
    if "ocalhost" not in host.lower():
        names = Names(list_example=[(address,)])
        error = await refusal(fetch("http://list.example/?key=geheim", resolve=names))
        assert (error.code, error.said.key) == ("forbidden", "fetch.leads_private")
        assert "allow_private = true" in error.message


@pytest.mark.parametrize("host", NO_ADDRESS)
@pytest.mark.parametrize("allow_private", [True, False])
def test_an_address_has_one_spelling(host: str, allow_private: bool) -> None:
    with pytest.raises(SparkleError) as refused:
        check_url(f"http://{host}/", allow_private=allow_private)
    assert (refused.value.code, refused.value.said.key) == ("bad_request", "fetch.bad_address")


async def test_what_the_resolver_says_of_a_zone_is_no_way_around() -> None:
    error = await refusal(fetch("http://list.example/", resolve=Names(list_example=[("fe80::1%lo", "::1%1")])))
    assert error.said.key == "fetch.leads_private"


async def test_the_machines_resolver_is_asked_where_no_other_is_given(site: Site) -> None:
    site.gives("/", LIST)
    assert (await fetch(f"http://localhost:{site.port}/", allow_private=True)).body == LIST


async def test_an_address_is_looked_up_once_and_never_again(site: Site) -> None:
    # A name that leads elsewhere by the time of the connection finds that nobody asks.
    site.gives("/", LIST)
    names = Names(list_example=[HERE, ("127.0.0.9",)])
    assert (await take(site, "/", resolve=names)).body == LIST
    assert names.asked == ["list.example"]


@pytest.mark.skipif(not shutil.which("unshare") or not shutil.which("ip"), reason="needs unshare and ip")
def test_where_this_machine_has_public_addresses() -> None:
    command = ["unshare", "-rn", sys.executable, str(TESTS / "public_network.py")]
    env = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    if done.returncode == 1 and "unshare: " in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    expected = {
        "neighbour": "neighbour",
        "neighbour by name": "neighbour",
        "private beside public": "neighbour",
        "own first address": "fetch.private",
        "own second address": "fetch.private",
        "own address by name": "fetch.leads_private",
        "own IPv6 address": "fetch.private",
        "own beside public": "neighbour",
        "redirect to loopback": "fetch.private",
        "redirect to a name that leads to loopback": "fetch.leads_private",
        "asked of this machine": 0,
    }
    if len(results) > len(expected):
        expected |= {
            "neighbour where all can be bound": "neighbour",
            "own address where all can be bound": "fetch.private",
        }
    assert results == expected


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://list.example", "http://list.example/"),
        ("\tHTTPS://List.Example.:443/A?#b\n", "https://list.example/A"),
        ("http://list.example:80?x=[1]", "http://list.example/?x=%5B1%5D"),
        ("http://list.example:8080/a/../b;c=d?e=f?g", "http://list.example:8080/a/../b;c=d?e=f?g"),
        ('http://list.example/%zz%41é"<>', "http://list.example/%25zz%41%C3%A9%22%3C%3E"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://BÜCHER。example/", "http://xn--bcher-kva.example/"),
        ("http://[2001:DB8:0::7]:80/", "http://[2001:db8::7]/"),
        ("http://[::ffff:203.0.113.7]/", "http://203.0.113.7/"),
        ("http://203.0.113.7./", "http://203.0.113.7/"),
        ("http://a_b.example/", "http://a_b.example/"),
    ],
)
def test_the_plain_form_of_a_url(url: str, plain: str) -> None:
    assert check_url(url, allow_private=False) == plain
    assert check_url(plain, allow_private=False) == plain


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("", "bad_scheme"),
        ("list.example/list", "bad_scheme"),
        ("//list.example/", "bad_scheme"),
        ("javascript:alert(1)", "bad_scheme"),
        ("gopher://list.example/", "bad_scheme"),
        ("http:list.example", "bad_scheme"),
        ("http://list.example:\u0661\u0662/", "bad_host"),
        ("http:///list", "bad_host"),
        ("http://:80/", "bad_host"),
        ("http://a..example/", "bad_host"),
        ("http://./", "bad_host"),
        ("http://-a.example/", "bad_host"),
        (f"http://{'a' * 64}.example/", "bad_host"),
        (f"http://{'a.' * 127}example/", "bad_host"),
        ("http://%6cocalhost/", "bad_host"),
        ("http://ⓛocalhost/", "bad_host"),
        ("http://[::1", "bad_host"),
        ("http://a:b:c/", "bad_host"),
        ("http://list.example:0/", "bad_port"),
        ("http://list.example:65536/", "bad_port"),
        ("http://a:geheim@list.example/", "has_credentials"),
        ("http://geheim@list.example/", "has_credentials"),
        ("http://list.example@127.0.0.1/", "has_credentials"),
        ("http://list.example\\@127.0.0.1/", "bad_character"),
        ("http://list.example/a b", "bad_character"),
        ("http://list.example/a\r\nHost: b", "bad_character"),
        ("http://loc\u00adalhost/", "bad_character"),
        ("http://list.example/\ud800", "bad_character"),
        ("http://list.example/" + "a" * LONGEST_URL, "url_too_long"),
        ("http://list.example/" + "é" * (LONGEST_URL // 4), "url_too_long"),
    ],
)
def test_a_url_that_is_none(url: str, key: str) -> None:
    with pytest.raises(SparkleError) as refused:
        check_url(url, allow_private=True)
    assert (refused.value.code, refused.value.said.key) == ("bad_request", f"fetch.{key}")
    assert all("geheim" not in refused.value.text(language) for language in languages())


_PIECES = (
    *("http", "https", ":", "/", "//", "@", "[", "]", "%", "%2e", "?", "#", "."),
    *("127.0.0.1", "::1", "localhost", "0x", "1", "xn--", "ß"),
)
_TEXTS = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(_PIECES), st.text(max_size=3))).map("".join))


@given(_TEXTS, st.booleans())
@example("http://[::ffff:1.2.3.4%a]:/", True)
@example("http://ẞ/", True)
@example("http://xn--/", True)
def test_a_url_is_read_or_refused(text: str, allow_private: bool) -> None:
    for url in (text, f"http://{text}", f"https://list.example/{text}"):
        try:
            plain = check_url(url, allow_private=allow_private)
        except SparkleError as error:
            assert error.code in ("bad_request", "forbidden")
            continue
        assert check_url(plain, allow_private=allow_private) == plain
        assert re.fullmatch(r"https?://[a-z0-9_.:\[\]-]+/[\x21-\x7e]*", plain)
        assert "#" not in plain
