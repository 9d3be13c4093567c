"""What a log line looks like, what it never shows, and that nobody waits for it."""

import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle_lite import logs

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def written(format: Any, log: Any, stream: Any = None, level: int | str = "INFO") -> str:
    """What `log` (a function of a logger) makes the set-up write."""
    out = stream or io.StringIO()
    writer = logs.setup(format, out, level)
    log(logging.getLogger("sparkle.test"))
    writer.close()
    text: str = out.getvalue()
    return text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def one_request() -> None:
    logs.access(
        method="POST",
        path="/ping/peers/submit",
        status=200,
        duration_ms=3.14159,
        bytes_in=512,
        client="192.0.2.1",
        app_id="0192",
    )


def test_json_is_one_object_a_line_with_the_fields() -> None:
    text = written("json", lambda log: log.info("stored %d peers", 3, extra={"segment": "0001", "bytes": 17}))
    line = json.loads(text)
    assert re.fullmatch(TIME, line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "sparkle.test",
        "message": "stored 3 peers",
        "segment": "0001",
        "bytes": 17,
    }


def test_text_is_readable_in_one_line() -> None:
    text = written("text", lambda log: log.warning("disk is filling", extra={"free": "2 GiB", "path": "/d"}))
    assert re.fullmatch(rf'{TIME} WARNING test disk is filling free="2 GiB" path=/d\n', text)


def test_a_terminal_gets_text_with_colour_and_everything_else_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[33mWARNING\x1b[0m" in written("auto", lambda log: log.warning("x"), Terminal())
    assert json.loads(written("auto", lambda log: log.warning("x")))["message"] == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in written("auto", lambda log: log.warning("x"), Terminal())


def test_an_access_line_says_what_happened_and_no_more() -> None:
    text = written("text", lambda _: one_request())
    assert re.fullmatch(
        rf"{TIME} INFO    access POST /ping/peers/submit 200 "
        r"duration_ms=3.1 bytes_in=512 client=192.0.2.1 app_id=0192\n",
        text,
    )
    line = json.loads(written("json", lambda _: one_request()))
    assert (line["path"], line["status"], line["duration_ms"], line["app_id"]) == (
        "/ping/peers/submit",
        200,
        3.1,
        "0192",
    )
    assert written("json", lambda _: one_request(), level="warning") == ""


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_text_can_pose_as_another_line_or_move_the_cursor(message: str, value: str) -> None:
    def log(logger: logging.Logger) -> None:
        logger.info("%s", message, extra={"value": value})

    text = written("text", log)
    assert text.count("\n") == 1
    assert len(text.splitlines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    line = written("json", log)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] is not None


def test_an_exception_is_shown_indented_without_local_variables() -> None:
    def fail(log: logging.Logger) -> None:
        password_of_somebody = "hunter2"
        try:
            raise ValueError(f"bad row\n2026-01-01T00:00:00.000Z INFO test forged {len(password_of_somebody)}")
        except ValueError:
            log.exception("analysis failed")

    lines = written("text", fail).splitlines()
    assert lines[0].endswith("ERROR   test analysis failed")
    assert all(line.startswith("    ") for line in lines[1:])
    assert any("ValueError: bad row" in line for line in lines)
    assert "hunter2'" not in "".join(lines).replace('"hunter2"', "")
    assert "ValueError: bad row" in json.loads(written("json", fail))["exception"]


SECRETS = [
    "Authorization: Bearer 0192@s3cr3t",
    "authorization=Basic s3cr3t",
    "{'Authentication': 'Bearer 0192@s3cr3t'}",
    "[(b'x-btn-appsecret', b's3cr3t'), (b'a', b'b')]",
    "BTN-AppSecret: s3cr3t",
    "GET /widget?appId=1&appSecret=s3cr3t&ip=2001:db8::1",
    '{"client_secret": "two words s3cr3t"}',
    "token=s3cr3t",
    "Cookie: a=b; session=s3cr3t",
    "X-BTN-InstallationID: s3cr3t",
    "sent bearer s3cr3t here",
    "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJzM2NyM3QifQ.s3cr3t",
    "/feeds/cidr.txt&key=slf_s3cr3t-_x",
]


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_masked_wherever_they_slip_in(text: str, format: str) -> None:
    def slip(log: logging.Logger) -> None:
        log.info(text)
        log.info("failed with %s", text, extra={"note": text, "app_secret": "s3cr3t"})
        try:
            raise RuntimeError(text)
        except RuntimeError:
            log.exception("boom")

    # The traceback shows the line above, which names no secret itself.
    shown = written(format, slip)
    assert "s3cr3t" not in shown
    assert shown.count(logs.MASK) >= 5


@pytest.mark.parametrize("text", ["token bucket is full", "3 tokens left", "the secret is stored hashed", "authorised"])
def test_plain_words_stay(text: str) -> None:
    assert logs.redact(text) == text


@pytest.mark.parametrize(
    "word", ["secret", "slf_", "-eyJ", "bearer ", "cookie", "authorization", "secret='", "eyJaaaaaaaaa."]
)
def test_masking_hostile_text_takes_no_time(word: str) -> None:
    begin = time.perf_counter()
    shown = logs.redact(word * (2_000_000 // len(word)))
    assert time.perf_counter() - begin < 0.5
    assert len(shown) < 3 * logs.LONGEST_TEXT


def test_a_reader_that_stalls_costs_lines_and_never_time() -> None:
    reading = threading.Event()

    class Stalled(io.StringIO):
        def write(self, text: str) -> int:
            reading.wait(10)
            return super().write(text)

    out = Stalled()
    writer = logs.LogWriter(out, logs.JsonFormatter(), capacity=50)
    logger = logging.Logger("sparkle.test")
    logger.addHandler(writer)
    begin = time.perf_counter()
    for number in range(1_000):
        logger.info("line %d", number)
    assert time.perf_counter() - begin < 1
    assert writer.dropped >= 1_000 - 2 * 50
    reading.set()
    writer.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert sum(line.get("dropped", 0) for line in lines) == writer.dropped
    assert sum("line " in line["message"] for line in lines) == 1_000 - writer.dropped


def test_lines_come_soon_and_in_order_without_a_close() -> None:
    out = io.StringIO()
    logs.setup("json", out)
    for number in range(250):
        logging.getLogger("sparkle.test").info("%d", number)
    deadline = time.monotonic() + 5
    while out.getvalue().count("\n") < 250 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == [str(n) for n in range(250)]


def test_characters_that_the_stream_lacks_are_escaped() -> None:
    raw = io.BytesIO()
    writer = logs.setup("text", io.TextIOWrapper(raw, "ascii", write_through=True))
    logging.getLogger("sparkle.test").info("对等节点")
    writer.close()
    assert raw.getvalue().endswith(b"\\u5bf9\\u7b49\\u8282\\u70b9\n")


def test_a_stream_that_fails_does_not_end_logging() -> None:
    class Full(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError("no space left")
            return super().write(text)

    out = Full()
    logs.setup("json", out)
    logging.getLogger("sparkle.test").info("lost")
    time.sleep(0.2)
    out.full = False
    logging.getLogger("sparkle.test").info("kept")
    logging.getLogger().handlers[-1].close()
    assert json.loads(out.getvalue())["message"] == "kept"


def test_a_record_that_cannot_be_shown_is_named_and_the_next_one_comes() -> None:
    class Unshowable:
        def __str__(self) -> str:
            raise RuntimeError

    def log(logger: logging.Logger) -> None:
        logger.info("odd", extra={"value": Unshowable()})
        logger.info("even")

    first, second = written("json", log).splitlines()
    assert "sparkle.test" in first
    assert json.loads(second)["message"] == "even"


def test_a_client_that_went_away_is_no_error() -> None:
    def log(_: logging.Logger) -> None:
        closed = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        for reason in (ConnectionResetError(), BrokenPipeError(), closed, RuntimeError("real")):
            logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=reason)
        logging.getLogger("asyncio").warning("socket.send() raised exception.")

    (line,) = written("json", log).splitlines()
    assert "RuntimeError: real" in json.loads(line)["exception"]
