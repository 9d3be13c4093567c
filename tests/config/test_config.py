"""The configuration: reading, refusing, showing, reloading."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.config import (
    Config,
    Duration,
    ImportEntry,
    Preset,
    Refused,
    RuleEntry,
    Secret,
    Size,
    Source,
    explain,
    load,
    restart_needed,
    show,
)
from sparkle_lite.config.keys import keys_of
from sparkle_lite.errors import ConfigError, Problem
from sparkle_lite.net import parse_network

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
HIDDEN = "correct-horse-battery-staple-correct-horse"


def read(folder: Path, text: str, **environ: str) -> Config:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return load(SCHEMA, file, environ)


def refusal(folder: Path, text: str, **environ: str) -> list[str]:
    """The lines of the ConfigError, the file's folder left out."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environ)
    return [line.replace(f"{folder}/", "") for line in caught.value.lines]


# Values


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("15m", 900_000),
        ("14d", 1_209_600_000),
        ("500ms", 500),
        ("1h30m", 5_400_000),
        ("30s", 30_000),
        (" 1d 2h 3m 4s 5ms ", 93_784_005),
        ("0", 0),
        ("0s", 0),
        ("90m", 5_400_000),
    ],
)
def test_a_duration_is_read_in_milliseconds(text: str, milliseconds: int) -> None:
    assert Duration.parse(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", " ", "15", "m", "-5m", "1.5h", "5M", "30m1h", "1h1h", "15 minutes", "１５m", "99999999d", "5m\0"]
)
def test_what_is_no_duration_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(Refused, match='write "15m"'):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("32MiB", 32 << 20),
        ("64 KiB", 65_536),
        ("1GB", 10**9),
        ("0", 0),
        ("0B", 0),
        ("7b", 7),
        ("2tib", 2 << 40),
    ],
)
def test_a_size_is_read_in_bytes(text: str, count: int) -> None:
    assert Size.parse(text) == count


@pytest.mark.parametrize("text", ["", "32", "MiB", "-1KiB", "1.5GiB", "32M", "32 Mi B", "９MiB", "999999999999TiB"])
def test_what_is_no_size_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(Refused, match='write "32MiB"'):
        Size.parse(text)


@given(st.integers(0, 36_500 * 86_400_000))
def test_a_duration_is_written_as_it_is_read(value: int) -> None:
    assert Duration.parse(str(Duration(value))) == value


@given(st.integers(0, 1 << 60))
def test_a_size_is_written_as_it_is_read(value: int) -> None:
    assert Size.parse(str(Size(value))) == value


@given(st.text())
def test_any_other_text_is_refused_rather_than_breaking(text: str) -> None:
    for kind in (Duration, Size):
        try:
            assert kind.parse(text) >= 0
        except Refused as refused:
            assert refused.message and refused.hint


def test_values_print_as_the_largest_fitting_units() -> None:
    assert [str(Duration(n)) for n in (0, 500, 900_000, 5_400_000)] == ["0", "500ms", "15m", "1h30m"]
    assert [str(Size(n)) for n in (0, 1500, 32 << 20, 10**9, 1001)] == ["0", "1500B", "32MiB", "1GB", "1001B"]


# Reading


def test_nothing_at_all_gives_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(SCHEMA, None, {})
    assert config.database.file == (tmp_path / "data/sparkle.db").resolve()
    assert msgspec.structs.replace(config, database=SCHEMA().database, backup=SCHEMA().backup) == SCHEMA()
    assert msgspec.structs.replace(config.backup, start=Path()) == SCHEMA().backup
    assert (config.server.port, config.retention.snapshots) == (7799, 7 * 86_400_000)
    assert config.metrics.allow == (parse_network("127.0.0.0/8"), parse_network("::1"))
    assert config.btn.abilities.heartbeat.interval == config.btn.abilities.submit_bans.interval * 4 == 3_600_000
    assert config.btn.abilities.reconfigure.interval == 10_800_000


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [server]
        host = "::"
        port = 0
        public_url = "https://example.org/btn/"
        trusted_proxies = ["10.0.0.0/8", "2001:db8::1"]
        [database]
        path = "db/a.sqlite"
        synchronous = "normal"
        [auth]
        anonymous_apps = true
        github = { client_id = "id", client_secret = "hush" }
        [btn.abilities.heartbeat]
        random_initial_delay = "1ms"
        [retention]
        max_database_size = "10GiB"
        [metrics]
        allow = []
        """,
    )
    assert config.server.public_url == "https://example.org/btn"
    assert config.server.trusted_proxies == (parse_network("10.0.0.0/8"), parse_network("2001:db8::1"))
    assert (config.server.host, config.server.port) == ("::", 0)
    assert config.database.file == (tmp_path / "db/a.sqlite").resolve()
    assert config.auth.github.client_secret == "hush"
    heartbeat = config.btn.abilities.heartbeat
    assert (heartbeat.enabled, heartbeat.interval, heartbeat.random_initial_delay) == (True, 3_600_000, 1)
    assert config.retention.max_database_size == 10 << 30
    assert config.metrics.allow == ()


def test_an_absolute_database_path_stays(tmp_path: Path) -> None:
    config = read(tmp_path, f'[database]\npath = "{tmp_path}/elsewhere/x.db"')
    assert config.database.file == tmp_path.resolve() / "elsewhere/x.db"


def test_rules_keep_their_content_as_written(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [[rules]]
        type = "client_name"
        category = "吸血 📦"
        content = ["a", { method = "STARTS_WITH", content = "xunlei", if = { method = "LENGTH", min = 1, max = 9 } }]
        [[exceptions]]
        type = "port"
        category = "ports"
        content = [6881, "ALL"]
        """,
    )
    matcher = {"method": "STARTS_WITH", "content": "xunlei", "if": {"method": "LENGTH", "min": 1, "max": 9}}
    assert config.rules == (RuleEntry(type="client_name", category="吸血 📦", content=("a", matcher)),)
    assert config.exceptions == (RuleEntry(type="port", category="ports", content=(6881, "ALL")),)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2027-01-01T00:00:00Z", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2027-01-01T08:00:00+08:00", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2027-01-01T12:30:00", datetime(2027, 1, 1, 12, 30, tzinfo=UTC)),
        ("2027-01-01", datetime(2027, 1, 1, tzinfo=UTC)),
        ('"2027-01-01T08:00:00.5+08:00"', datetime(2027, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ('"2027-01-01 00:00:00z"', datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_expiry_becomes_a_moment_in_utc(tmp_path: Path, written: str, moment: datetime) -> None:
    rule = f'[[rules]]\ntype = "ip"\ncategory = "x"\ncontent = ["192.0.2.1"]\nexpires = {written}\n'
    expires = read(tmp_path, rule).rules[0].expires
    assert expires == moment and expires.tzinfo is UTC


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b'\xef\xbb\xbf[server]\r\nport = 80\r\nhost = "x y"\r\n')
    with pytest.raises(ConfigError, match=r"config\.toml:3: server\.host"):
        load(SCHEMA, file, {})


# Refusing: (what the file says, how the one line about it begins, what it ends with)

REFUSALS = [
    ("[server]\nprot = 1", "config.toml:2: server.prot: there is no such key", 'did you mean "port"?'),
    ("[sever]\nport = 1", "config.toml:1: sever: there is no such section", 'did you mean "server"?'),
    ("[btn.abilities.submit_peer]", "config.toml:1: btn.abilities.submit_peer: there is no such ability", '"submit_'),
    ("[zzz]", "config.toml:1: zzz: there is no such section", "known here: server, database, auth"),
    ("[server]\ncount_time = 1", "config.toml:2: server.count_time: there is no", 'did you mean "limits.count_time"?'),
    ("server = 5", "config.toml:1: server: must be a table, not a number", "write [server] and its keys below"),
    ("[[server]]\nport = 1", "config.toml:1: server: must be a table, not a list", "below"),
    ("[server]\n\n# x\nport = '80'", "config.toml:4: server.port: must be a whole number, not text", "such as 10"),
    ("[server]\nport = true", "config.toml:2: server.port: must be a whole number, not true or false", ""),
    ("[server]\nport = 65536", "config.toml:2: server.port: 65536 is too large", "write 65535 or less"),
    ("[server]\nport = -1", "config.toml:2: server.port: -1 is too small", "write 0 or more"),
    ("[server]\nhost = 'http://x'", "config.toml:2: server.host: 'http://x' is not a host", '"0.0.0.0" or "::"'),
    ("[server]\nhost = ''", "config.toml:2: server.host: '' is not a host", ""),
    ("[server]\nlog_format = 'JSON'", "config.toml:2: server.log_format: 'JSON' is not one", 'did you mean "json"?'),
    ("[[imports]]\nurl = 'http://x'", "config.toml:1: imports[0].name: is missing", 'name = "some-list"'),
    (
        "[[imports]]\nname = 'A b'\nurl = 'http://x'",
        "config.toml:2: imports[0].name: 'A b' is no name of a list",
        "a-z",
    ),
    ("[[imports]]\nname = 'a'", "config.toml:1: imports[0].url: says nowhere where the list is", "write url"),
    (
        "[[imports]]\nname = 'a'\nurl = 'ftp://x'",
        "config.toml:3: imports[0].url: must be an absolute http or https URL",
        "write it like",
    ),
    (
        "[[imports]]\nname = 'a'\nurl = 'http://me@x'",
        "config.toml:3: imports[0].url: the URL holds",
        "up to the @",
    ),
    ("[[imports]]\nname = 'a'\nurl = 5", "config.toml:3: imports[0].url: must be text, not a number", "in quotes"),
    (
        "[[imports]]\nname = 'a'\nfile = 'b'\nwidest = [3]",
        "config.toml:4: imports[0].widest: '3' are no two prefix lengths",
        "[16, 48]",
    ),
    (
        "[[imports]]\nname = 'a'\nfile = 'b'\n" * 2,
        "config.toml:5: imports[1].name: there is another",
        "another name",
    ),
    (
        "[[imports]]\nname = 'a'\nfile = 'b'\napp_id = 'x'",
        "config.toml:4: imports[0].app_id: app_id and",
        "set both",
    ),
    ("[server]\npublic_url = 'x.org'", "config.toml:2: server.public_url: must be an absolute", '"https://example.'),
    ("[server]\npublic_url = 'ftp://x'", "config.toml:2: server.public_url: must be an absolute http", ""),
    ("[server]\npublic_url = 'http://x/?a'", "config.toml:2: server.public_url: must be an absolute http", ""),
    ("[server]\npublic_url = 'http://x/#a'", "config.toml:2: server.public_url: must be an absolute http", ""),
    ("[server]\npublic_url = 'http:///btn'", "config.toml:2: server.public_url: the URL's host", ""),
    ("[server]\npublic_url = 'http://x:99999'", "config.toml:2: server.public_url: the URL's host or port", ""),
    ("[server]\npublic_url = 'http://[::'", "config.toml:2: server.public_url: the URL's host", ""),
    ("[server]\npublic_url = 'http://me@x'", "config.toml:2: server.public_url: the URL holds a user", "up to the @"),
    ("[server]\ntrusted_proxies = '::1'", "config.toml:2: server.trusted_proxies: must be a list", '"::1"]'),
    (
        "[server]\ntrusted_proxies = [\n  '10.0.0.0/8', # fine\n\n  '10.0.0.1/8',\n]",
        "config.toml:5: server.trusted_proxies[1]: '10.0.0.1/8' has host bits set",
        "write 10.0.0.0/8 for the network or leave the prefix out",
    ),
    ("[metrics]\nallow = ['*']", "config.toml:2: metrics.allow[0]: '*' is not an IP", '"10.0.0.0/8" or "::1"'),
    ("[metrics]\nallow = [1]", "config.toml:2: metrics.allow[0]: must be text, not a number", "write it in quotes"),
    ("[database]\npath = ''", "config.toml:2: database.path: '' is not the name", 'such as "data/sparkle.db"'),
    ("[database]\npath = ':memory:'", "config.toml:2: database.path: ':memory:' is not the name", ""),
    ("[database]\nfolder = 'x'", "config.toml:2: database.folder: there is no such key", ""),
    ("[database]\nsynchronous = 'off'", "config.toml:2: database.synchronous: 'off' is not one of full", '"full"'),
    ("[auth]\nanonymous_apps = 'yes'", "config.toml:2: auth.anonymous_apps: must be true or false", "without quotes"),
    (
        "[auth]\njwt_secret = 'short'",
        "config.toml:2: auth.jwt_secret: is shorter than 32 bytes",
        "random bytes as text",
    ),
    ("[auth]\njwt_secret_file = 5", "config.toml:2: auth.jwt_secret_file: must be text", '"secrets/github"'),
    ("[auth]\njwt_secret_file = 'none'", "config.toml:2: auth.jwt_secret_file: there is no file", "only the secret"),
    (
        "[auth.github]\nclient_id = 'a'",
        "config.toml:2: auth.github.client_id: client_id is set without",
        "set client_se",
    ),
    ("[auth.github]\nclient_secret = 'a'", "config.toml:2: auth.github.client_secret: client_secret is set", ""),
    ("[auth.github]\napi_url = ''", "config.toml:2: auth.github.api_url: must be an absolute http", ""),
    (
        "[retention]\nbans = 45",
        "config.toml:2: retention.bans: must be text, not a number",
        'write "15m" (numbers with',
    ),
    ("[retention]\nbans = '45'", "config.toml:2: retention.bans: '45' is not a duration", 'write "15m" (numbers with'),
    ("[retention]\nbans = '0'", 'config.toml:2: retention.bans: "0" is too small', 'write "1s" or more'),
    ("[retention]\nmax_database_size = 0", "config.toml:2: retention.max_database_size: must be", 'write "32MiB" (a'),
    ("[retention]\nmax_database_size = '1KiB'", 'config.toml:2: retention.max_database_size: "1KiB" is too', '"1MiB"'),
    ("[limits]\nmax_rows_per_request = 0", "config.toml:2: limits.max_rows_per_request: 0 is too", "write 1 or more"),
    ("[limits]\nmax_inflated_size = '1MiB'", "config.toml:2: limits.max_inflated_size: 1MiB is smaller", '"16MiB"'),
    ("[limits]\nqueue_size = '1MiB'", "config.toml:2: limits.queue_size: 1MiB never has room", "smaller max_body_size"),
    ("[analysis]\npreset = 'friend'", "config.toml:2: analysis.preset: 'friend' is not", 'did you mean "friends"?'),
    (
        "[btn.abilities.rules]\ninterval = '500ms'",
        'config.toml:2: btn.abilities.rules.interval: "500ms" is too small: clients never run such',
        'write "1s" or more',
    ),
    (
        "[btn.abilities.rules]\nrandom_initial_delay = '0'",
        'config.toml:2: btn.abilities.rules.random_initial_delay: "0" is too small',
        'write "1ms" or more',
    ),
    (
        "btn.abilities.rules.interval = '50d'",
        'config.toml:1: btn.abilities.rules.interval: "50d" is too large',
        'write "49d17h2m47s295ms" or less',
    ),
    ("[feeds]\nopen = 'yes'", "config.toml:2: feeds.open: must be true, false or", 'write true, false or "preset"'),
    ("[feeds]\nopen = 1", "config.toml:2: feeds.open: must be true, false or", "not a number"),
    ("rules = 5", "config.toml:1: rules: must be a list of tables, not a number", "as JSON or TOML"),
    ("rules = [5]", "config.toml:1: rules[0]: must be a table, not a number", "] }"),
]


@pytest.mark.parametrize(
    ("text", "environ", "is_open"),
    [
        ("", {}, [False, False, True, True]),
        ("open = 'preset'", {}, [False, False, True, True]),
        ("open = true", {}, [True] * 4),
        ("open = false", {}, [False] * 4),
        ("open = true", {"SPARKLE_FEEDS__OPEN": "false"}, [False] * 4),
        ("", {"SPARKLE_FEEDS__OPEN": " True "}, [True] * 4),
        ("open = true", {"SPARKLE_FEEDS__OPEN": "preset"}, [False, False, True, True]),
    ],
)
def test_feeds_are_open_as_they_are_set_or_as_the_preset_has_it(
    tmp_path: Path, text: str, environ: dict[str, str], is_open: list[bool]
) -> None:
    config = read(tmp_path, f"[feeds]\n{text}", **environ)
    assert [config.feeds.is_open(preset) for preset in get_args(Preset)] == is_open
    assert read(tmp_path, show(config)) == config


@pytest.mark.parametrize(("text", "start", "end"), REFUSALS, ids=[start[:60] for _, start, _ in REFUSALS])
def test_a_mistake_is_refused_with_line_key_reason_and_hint(tmp_path: Path, text: str, start: str, end: str) -> None:
    lines = refusal(tmp_path, text)
    assert len(lines) == 1
    assert lines[0].startswith(start)
    assert end in lines[0]
    assert "; " in lines[0]


RULE_REFUSALS = [
    ("category = 'a'\ncontent = ['a']", "config.toml:5: rules[1].type: is missing", 'write type = "ip"'),
    ("type = 'ips'\ncategory = 'a'\ncontent = ['a']", "config.toml:6: rules[1].type: 'ips' is not", 'mean "ip"?'),
    ("type = 'ip'\ncontent = ['a']", "config.toml:5: rules[1].category: is missing", "PCDN"),
    ("type = 'ip'\ncategory = ''\ncontent = ['a']", "config.toml:7: rules[1].category: '' is not", "1 to 64"),
    ("type = 'ip'\ncategory = \"a\\u0007\"\ncontent = ['a']", "config.toml:7: rules[1].category: ", "control"),
    (f"type = 'ip'\ncategory = '{'a' * 65}'\ncontent = ['a']", "config.toml:7: rules[1].category: ", "1 to 64"),
    ("type = 'ip'\ncategory = 'a'", "config.toml:5: rules[1].content: is missing", "write a list"),
    ("type = 'ip'\ncategory = 'a'\ncontent = []", "config.toml:8: rules[1].content: must be a list of at least", ""),
    ("type = 'ip'\ncategory = 'a'\ncontent = 'a'", "config.toml:8: rules[1].content: must be a list of at", ""),
    (
        "type = 'ip'\ncategory = 'a'\ncontent = [\n'a',\ntrue]",
        "config.toml:10: rules[1].content[1]: true or false can't be a rule",
        "",
    ),
    ("type = 'ip'\ncategory = 'a'\ncontent = [['a']]", "config.toml:8: rules[1].content[0]: a list can't", ""),
    (
        "type = 'ip'\ncategory = 'a'\ncontent = [1.5]",
        "config.toml:8: rules[1].content[0]: a number with",
        "port number",
    ),
    ("type = 'ip'\ncategory = 'a'\ncontents = ['a']\ncontent = [1]", "config.toml:8: rules[1].contents: ", '"content"'),
    ("type = 'ip'\ncategory = 'a'\ncontent = ['a']\nexpires = 5", "config.toml:9: rules[1].expires: must", "2027-"),
    ("type = 'ip'\ncategory = 'a'\ncontent = ['a']\nexpires = '1 May'", "config.toml:9: rules[1].expires: ", "2027-"),
    ("type = 'ip'\ncategory = 'a'\ncontent = ['a']\nexpires = 07:00:00", "config.toml:9: rules[1].expires: ", ""),
    (
        "type = 'ip'\ncategory = 'a'\ncontent = ['a']\nexpires = 0001-01-01T00:00:00+01:00",
        "config.toml:9: rules[1].expires: must be a moment",
        "",
    ),
]


@pytest.mark.parametrize(("text", "start", "end"), RULE_REFUSALS, ids=[start[14:60] for _, start, _ in RULE_REFUSALS])
def test_a_wrong_rule_is_refused_with_its_line(tmp_path: Path, text: str, start: str, end: str) -> None:
    first = "[[rules]]\ntype = 'ip'\ncategory = 'a'\ncontent = ['192.0.2.1']\n"
    lines = refusal(tmp_path, f"{first}[[rules]]\n{text}\n")
    assert len(lines) == 1
    assert lines[0].startswith(start)
    assert end in lines[0]


def test_all_mistakes_are_reported_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = refusal(
        tmp_path,
        "[retention]\nbans = 1\n[server]\nport = 'x'\nhots = ''\n[limits]\nqueue_size = '1KiB'\n",
        SPARKLE_ANALYSIS__PRESET="all",
        SPARKLE_SERVER__PROT="1",
    )
    places = [line.partition(": ")[0] for line in lines]
    assert places == [
        "config.toml:2",
        "config.toml:4",
        "config.toml:5",
        "config.toml:7",
        "SPARKLE_ANALYSIS__PRESET",
        "SPARKLE_SERVER__PROT",
    ]


def test_values_that_only_together_are_wrong_are_reported_where_one_of_them_stands(tmp_path: Path) -> None:
    lines = refusal(tmp_path, "[limits]\nmax_body_size = '100MiB'\nqueue_size = '1GiB'")
    assert len(lines) == 1
    assert lines[0].startswith(
        "config.toml:2: limits.max_body_size: 64MiB is smaller than max_body_size, 100MiB; write"
    )


def test_a_broken_value_causes_no_second_complaint_about_what_depends_on_it(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, "[limits]\nmax_body_size = '100MB!'\nmax_inflated_size = '1MiB'")) == 1
    assert len(refusal(tmp_path, "[auth.github]\nclient_id = 'a'\nclient_secret = 5")) == 1
    assert len(refusal(tmp_path, "[auth.github]\nclient_id = 'a'\nclient_secret_file = 'none'")) == 1


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("[server]\nport 80\n", "config.toml:2: not valid TOML: "),
        ("[server]\nport = 80\nport = 81\n", "config.toml:3: not valid TOML: "),
        ("x = [1,\n2,\n", "config.toml:3: not valid TOML: "),
        ("x = " + "[" * 5000, "config.toml"),
        ("x = " + "9" * 5000, "config.toml"),
    ],
)
def test_broken_toml_is_refused_with_its_line(tmp_path: Path, text: str, start: str) -> None:
    lines = refusal(tmp_path, text)
    assert len(lines) == 1
    assert lines[0].startswith(start)
    assert "not valid TOML" in lines[0]


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# a\n# caf\xe9\n")
    for path, message in (
        (tmp_path / "none.toml", "there is no such file"),
        (tmp_path, "can't be read"),
        (latin, "latin.toml:2: the file is not UTF-8"),
        (tmp_path / "a\0b", "can't be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(SCHEMA, path, {})


def test_a_check_of_the_whole_is_reported_with_the_other_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    rule = '[[rules]]\ntype = "ip"\ncategory = "a"\ncontent = [\n  "192.0.2.1",\n  "1.2.3",\n]\n'
    file.write_text(f"{rule}[[rules]]\ntype = 'ipp'\ncategory = 'a'\ncontent = ['1.2.3']\n[server]\nport = ''\n")

    def check(config: Config) -> Iterator[Problem]:
        for index, entry in enumerate(config.rules):
            for place, item in enumerate(entry.content or ["1.2.3"]):
                if item == "1.2.3":
                    yield Problem(("rules", index, "content", place), "'1.2.3' is not an IP address", "write 192.0.2.7")

    with pytest.raises(ConfigError) as caught:
        load(SCHEMA, file, {}, check=check)
    lines = [line.replace(f"{tmp_path}/", "") for line in caught.value.lines]
    assert lines[0] == "config.toml:6: rules[0].content[1]: '1.2.3' is not an IP address; write 192.0.2.7"
    assert [line.split(": ")[1] for line in lines] == ["rules[0].content[1]", "rules[1].type", "server.port"]


# Lines


def test_lines_are_found_in_every_way_of_writing_toml() -> None:
    text = (
        '''# [server]
title = """
[fake]
port = 1"""
other = \'\'\'
x = [ '''
        + "'''"
        + '''
"quoted key"."a\\u0062" = 'x # y'
server.port = 1 # [x]
list = [ # one
  "a]", 'b', [
  1, 2], { x = 1, y = [
     3,
  ] },
]
[[rules]]
content = ["#", """
multi""", "c"]
[[rules.sub]]
a = 2027-01-01 00:00:00Z
[rules.sub.deep]
b = 1
[[rules]]
[[rules.sub]]
[[rules.sub]]
c = {}
d = []
'''
    )
    source = Source("f", text)
    tomllib.loads(text)
    expected = {
        ("title",): 2,
        ("other",): 5,
        ("quoted key", "ab"): 7,
        ("server", "port"): 8,
        ("list", 0): 10,
        ("list", 1): 10,
        ("list", 2): 10,
        ("list", 2, 0): 11,
        ("list", 2, 1): 11,
        ("list", 3, "y", 0): 12,
        ("rules", 0, "content", 0): 16,
        ("rules", 0, "content", 1): 16,
        ("rules", 0, "content", 2): 17,
        ("rules", 0, "sub", 0, "a"): 19,
        ("rules", 0, "sub", 0, "deep", "b"): 21,
        ("rules", 1): 22,
        ("rules", 1, "sub", 0): 23,
        ("rules", 1, "sub", 1, "c"): 25,
        ("rules", 1, "sub", 1, "d"): 26,
        ("rules", 1, "missing"): 22,
        ("port",): 0,
        ("fake",): 0,
    }
    assert {path: source.locate(path)[1] for path in expected} == expected


def test_without_a_known_line_the_file_alone_is_named() -> None:
    problem = Problem(("a", 0, "b c"), "is odd", "leave it")
    assert explain([problem], Source("f.toml", "x = 1")) == ['f.toml: a[0]."b c": is odd; leave it']
    assert explain([problem], Source()) == ['a[0]."b c": is odd; leave it']
    # Text that isn't TOML at all: what stands before the trouble is found, nothing is made up.
    assert explain([problem], Source("f.toml", "a = 1\n= [")) == ['f.toml:1: a[0]."b c": is odd; leave it']


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.integers(-9, 9), st.booleans(), st.text("a\"'#[]{}=,.\n\\", max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("ab.\"' =", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text("ab]#", max_size=3), VALUES, max_size=4))
def test_the_line_of_a_key_is_the_line_it_stands_on(tree: dict[str, Any]) -> None:
    def inline(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return "[\n# a [comment]\n" + "".join(f"{inline(item)} , \n" for item in value) + "]"
        return json.dumps(value)

    text = "".join(f"\n{json.dumps(key)} = {inline(value)} # {key}\n" for key, value in tree.items())
    assert tomllib.loads(text) == tree
    source = Source("f", text)
    for key, value in tree.items():
        line = source.locate((key,))[1]
        assert text.split("\n")[line - 1].startswith(f"{json.dumps(key)} = ")
        for index, item in enumerate(value if isinstance(value, list) else []):
            line = source.locate((key, index))[1]
            assert text.split("\n")[line - 1].startswith(inline(item).split("\n")[0])


# Environment


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "[server]\nport = 80\nhost = '::1'\n[metrics]\nallow = []\n",
        SPARKLE_SERVER__PORT="81",
        SPARKLE_SERVER__PUBLIC_URL="http://[::1]:7799/",
        SPARKLE_SERVER__TRUSTED_PROXIES="127.0.0.1, 10.0.0.0/8",
        SPARKLE_METRICS__ALLOW='["::1"]',
        SPARKLE_AUTH__ANONYMOUS_APPS="1",
        SPARKLE_BTN__PREFER_LEGACY="TRUE",
        SPARKLE_AUTH__GITHUB__CLIENT_ID="id",
        SPARKLE_AUTH__GITHUB__CLIENT_SECRET="hush",
        SPARKLE_BTN__ABILITIES__SUBMIT_PEERS__INTERVAL="20m",
        SPARKLE_BTN__ABILITIES__IP_QUERY__ENABLED="false",
        SPARKLE_LIMITS__QUEUE_SIZE="1GiB",
        SPARKLE_HOME="ignored",
        OTHER__NAME="ignored",
    )
    assert (config.server.port, config.server.host, config.server.public_url) == (81, "::1", "http://[::1]:7799")
    assert [str(network) for network in config.server.trusted_proxies] == ["127.0.0.1", "10.0.0.0/8"]
    assert [str(network) for network in config.metrics.allow] == ["::1"]
    assert config.auth.anonymous_apps and config.btn.prefer_legacy
    assert config.auth.github.client_id == "id" and config.auth.github.client_secret == "hush"
    assert config.btn.abilities.submit_peers.interval == 1_200_000
    assert not config.btn.abilities.ip_query.enabled
    assert config.limits.queue_size == 1 << 30


@pytest.mark.parametrize(
    "text",
    [
        '[{"type": "ip", "category": "a", "content": ["192.0.2.1"], "expires": "2027-01-01T00:00:00Z"}]',
        '[{type = "ip", category = "a", content = ["192.0.2.1"], expires = 2027-01-01T00:00:00Z}]',
    ],
)
def test_rules_can_come_from_the_environment(tmp_path: Path, text: str) -> None:
    expires = datetime(2027, 1, 1, tzinfo=UTC)
    config = read(tmp_path, "[[rules]]\ntype = 'port'\ncategory = 'b'\ncontent = [1]\n", SPARKLE_RULES=text)
    assert config.rules == (RuleEntry(type="ip", category="a", content=("192.0.2.1",), expires=expires),)
    assert read(tmp_path, "", SPARKLE_EXCEPTIONS=text).exceptions == config.rules
    assert read(tmp_path, "", SPARKLE_EXCEPTIONS="").exceptions == ()


@pytest.mark.parametrize(
    ("name", "text", "start", "end"),
    [
        ("SPARKLE_SERVER__PROT", "1", "SPARKLE_SERVER__PROT: there is no such", "did you mean SPARKLE_SERVER__PORT?"),
        ("SPARKLE_QQQ__ZZZ", "1", "SPARKLE_QQQ__ZZZ: there is no such setting", "config.example.toml"),
        ("SPARKLE_server__port", "1", "SPARKLE_server__port: there", "did you mean SPARKLE_SERVER__PORT?"),
        ("SPARKLE_DATABASE__FOLDER", "1", "SPARKLE_DATABASE__FOLDER: there is no such setting", ""),
        ("SPARKLE_SERVER__PORT", "x", "SPARKLE_SERVER__PORT: server.port: must be a whole number, not text", "10"),
        ("SPARKLE_SERVER__PORT", "99999", "SPARKLE_SERVER__PORT: server.port: 99999 is too large", "65535"),
        ("SPARKLE_SERVER__HOST", "a b", "SPARKLE_SERVER__HOST: server.host: 'a b' is not", ""),
        ("SPARKLE_AUTH__GITHUB__CLIENT_ID", "\udcff", "SPARKLE_AUTH__GITHUB__CLIENT_ID: auth.github.client_id: is", ""),
        ("SPARKLE_BTN__PREFER_LEGACY", "maybe", "SPARKLE_BTN__PREFER_LEGACY: btn.prefer_legacy: must be true", ""),
        ("SPARKLE_METRICS__ALLOW", "::1,x", "SPARKLE_METRICS__ALLOW: metrics.allow[1]: 'x' is not an IP", ""),
        ("SPARKLE_RETENTION__BANS", "45", "SPARKLE_RETENTION__BANS: retention.bans: '45' is not", 'write "15m"'),
        ("SPARKLE_RULES", "ip", "SPARKLE_RULES: rules: must be a list of tables, not text", "JSON or TOML"),
        ("SPARKLE_RULES", '["ip"]', "SPARKLE_RULES: rules[0]: must be a table, not text", ""),
        (
            "SPARKLE_RULES",
            '[{"type": "peer_id", "category": "a", "content": [{"if": null}]}]',
            "SPARKLE_RULES: rules[0].content[0]: a table can't be a rule",
            "",
        ),
        (
            "SPARKLE_RULES",
            r'[{"type": "peer_id", "category": "a", "content": ["\ud800"]}]',
            "SPARKLE_RULES: rules[0].content[0]: text can't be a rule",
            "",
        ),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(tmp_path: Path, name: str, text: str, start: str, end: str) -> None:
    lines = refusal(tmp_path, "", **{name: text})
    assert len(lines) == 1
    assert lines[0].startswith(start)
    assert end in lines[0]


def test_a_variable_below_something_that_is_no_table_hides_nothing(tmp_path: Path) -> None:
    assert refusal(tmp_path, "server = 5", SPARKLE_SERVER__PORT="1")[0].startswith("config.toml:1: server: must be a")


# Secrets


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_secret_can_be_read_from_a_file_beside_the_config(tmp_path: Path, by_environment: bool) -> None:
    (tmp_path / "hush").write_text(f"  {HIDDEN}\n")
    if by_environment:
        config = read(tmp_path, "", SPARKLE_AUTH__JWT_SECRET_FILE="hush")
    else:
        config = read(tmp_path, "[auth]\njwt_secret_file = 'hush'")
    assert config.auth.jwt_secret == HIDDEN


def test_a_secret_of_the_environment_replaces_that_of_the_file_whichever_way_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "hush").write_text(HIDDEN)
    other = HIDDEN[::-1]
    by_file = "[auth]\njwt_secret_file = 'none'"
    assert read(tmp_path, by_file, SPARKLE_AUTH__JWT_SECRET=other).auth.jwt_secret == other
    by_value = f"[auth]\njwt_secret = '{other}'"
    assert read(tmp_path, by_value, SPARKLE_AUTH__JWT_SECRET_FILE="hush").auth.jwt_secret == HIDDEN


def test_a_secret_given_both_ways_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hush").write_text(HIDDEN)
    lines = refusal(tmp_path, f"[auth]\njwt_secret = '{HIDDEN}'\njwt_secret_file = 'hush'")
    assert lines == [
        "config.toml:3: auth.jwt_secret_file: jwt_secret and jwt_secret_file are both set; remove one of them"
    ]
    lines = refusal(tmp_path, "", SPARKLE_AUTH__JWT_SECRET=HIDDEN, SPARKLE_AUTH__JWT_SECRET_FILE="hush")
    assert lines[0].startswith("SPARKLE_AUTH__JWT_SECRET_FILE: auth.jwt_secret_file: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b" \n", "is empty"), (b"\xff" * 40, "is not UTF-8"), (b"a" * 70_000, "larger than 64 KiB")],
)
def test_a_secret_file_that_cannot_hold_one_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "hush").write_bytes(content)
    assert message in refusal(tmp_path, "[auth]\njwt_secret_file = 'hush'")[0]


@pytest.mark.parametrize(
    "text",
    [
        "[auth]\njwt_secret = '{0}'\nprot = 1",
        "[auth]\njwt_secrte = '{0}'",
        "[auth]\njwt_secret = ['{0}']",
        "[auth]\ngithub = '{0}'",
        "[auth.github]\nclient_secret = '{0}'",
        "[auth.github]\nclient_secret = '{0}'\nclient_secret = '{0}'",
        "[auth.github]\nclient_secret = '{0}\n'",
        "client_secret = '{0}'",
        "[auth]\njwt_secret = '{0}'\njwt_secret_file = 'x'",
        "[server]\npublic_url = 'https://me:{0}@example.org/'",
    ],
)
def test_a_secret_is_in_no_message(tmp_path: Path, text: str) -> None:
    lines = refusal(tmp_path, text.format(HIDDEN), SPARKLE_AUTH__JWT_SECERT=HIDDEN)
    assert len(lines) > 0
    assert HIDDEN[:8] not in "\n".join(lines)


def test_a_secret_is_neither_shown_nor_in_the_repr(tmp_path: Path) -> None:
    config = read(
        tmp_path, f"[auth]\njwt_secret = '{HIDDEN}'\ngithub = {{ client_id = 'id', client_secret = '{HIDDEN}x' }}"
    )
    assert isinstance(config.auth.jwt_secret, Secret) and config.auth.jwt_secret == HIDDEN
    for text in (repr(config), str(config), f"{config}", show(config)):
        assert HIDDEN[:8] not in text
    shown = tomllib.loads(show(config))
    assert (shown["auth"]["jwt_secret"], shown["auth"]["github"]["client_secret"]) == ("***", "***")
    assert tomllib.loads(show(SCHEMA()))["auth"]["jwt_secret"] == ""


# Showing


def test_what_is_shown_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [server]
        trusted_proxies = ["10.0.0.0/8"]
        [btn.abilities.rules]
        interval = "1h1ms"
        [limits]
        queue_size = "1000001KB"
        [[rules]]
        type = "client_name"
        category = "a \\"b\\" \\\\ 迅雷"
        content = ["\\u007f\\u0001\\n", { method = "REGEX", content = 'x"', "odd key" = [1.5, true], e = {} }, 7]
        expires = 2027-01-01T00:00:00.25+08:00
        [[rules]]
        type = "ip"
        category = "b"
        content = ["192.0.2.1"]
        [[exceptions]]
        type = "port"
        category = "c"
        content = [1, 2]
        """,
    )
    assert read(tmp_path, show(config)) == config
    assert len(config.rules) == 2


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(), st.datetimes(timezones=st.just(UTC)))
def test_any_content_and_time_survives_being_shown(text: str, number: int, moment: datetime) -> None:
    entry = RuleEntry(type="ip", category="a", content=(text, number, {text: [text]}), expires=moment)
    shown = tomllib.loads(show(Config(rules=(entry,))))["rules"][0]
    assert shown["content"] == [text, number, {text: [text]}]
    assert shown["expires"] == moment


# The example

# The keys that stand in examples of lists of tables, explained above them.
OF_TABLES = (
    "(?:type|category|content|expires|name|url|interval|format|widest|weight|allow_private|enabled|credit|app_id"
    "|app_secret_file|trust)"
)


def leaves(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return found


def test_the_example_holds_every_key_with_its_default_and_no_other() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    example = leaves(tomllib.loads(text))
    defaults = leaves(tomllib.loads(show(SCHEMA())))
    secrets = {"auth.jwt_secret", "auth.github.client_secret"}
    assert list(example) == [key for key in defaults if key not in secrets]
    shown = re.findall(r"^#(\w+) = ", "".join(text.split("#[[imports]]")[1:]), re.MULTILINE)
    assert set(keys_of(ImportEntry)) - {"app_secret", "file"} <= set(shown)
    config = load(SCHEMA, EXAMPLE, {})
    assert msgspec.structs.replace(config, database=SCHEMA().database, backup=SCHEMA().backup) == SCHEMA()
    assert msgspec.structs.replace(config.backup, start=Path()) == SCHEMA().backup
    for key in secrets:
        name = key.rpartition(".")[2]
        assert f'\n#{name} = ""\n' in text and f"\n#{name}_file = " in text


def test_the_examples_that_are_commented_out_are_right_too(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "friends-server").write_text("s3cret")
    config = read(tmp_path, re.sub(rf"^#(?=\[\[|{OF_TABLES} = )", "", text, flags=re.MULTILINE))
    assert [rule.type for rule in config.rules] == ["ip", "port", "peer_id", "client_name"]
    assert config.rules[3].content == ({"method": "STARTS_WITH", "content": "xunlei"},)
    assert len(config.exceptions) == 1
    collected, neighbour = config.imports
    assert (len(collected.url), collected.widest, collected.supports_only) == (2, (16, 30), False)
    assert (neighbour.app_secret, neighbour.supports_only) == ("s3cret", True)


def test_every_key_of_the_example_is_explained() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if re.match(r"#?[a-z_]+ = ", line) and not re.match(f"#{OF_TABLES} = ", line):
            explained = re.search(r"\s# .{8,}$", line) or re.match(r"# .{8,}", above)
            assert explained, line


# Reloading


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", []),
        ("[server]\nport = 1\nhost = '::'", ["server.host", "server.port"]),
        ("[server]\npublic_url = 'http://x'\ntrusted_proxies = ['::1']", []),
        ("[server]\nlog_format = 'json'", ["server.log_format"]),
        ("[database]\npath = 'x'\nsynchronous = 'normal'", ["database.path", "database.synchronous"]),
        ("[auth]\nsession_lifetime = '1d'\nmax_apps_per_user = 1\nanonymous_apps = true", []),
        (f"[auth]\njwt_secret = '{HIDDEN}'", ["auth.jwt_secret"]),
        ("[auth.github]\napi_url = 'http://x'", ["auth.github.api_url"]),
        ("[btn]\nprefer_legacy = true\nabilities.rules.enabled = false", []),
        ("[[rules]]\ntype = 'ip'\ncategory = 'a'\ncontent = ['a']\n[analysis]\npreset = 'solo'", []),
        ("[limits]\nquery_time = '1s'\nqueue_size = '1GiB'", ["limits.queue_size"]),
        ("[metrics]\nallow = []\n[retention]\nbans = '1d'", []),
    ],
)
def test_what_a_reload_cannot_change_is_named(tmp_path: Path, text: str, keys: list[str]) -> None:
    assert restart_needed(read(tmp_path, ""), read(tmp_path, text)) == keys


def test_reading_the_configuration_loads_nothing_heavy() -> None:
    code = (
        "import sys, sparkle_lite.config; "
        "print([name for name in ('litestar', 'aiosqlite', 'uvicorn', 'jwt') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
