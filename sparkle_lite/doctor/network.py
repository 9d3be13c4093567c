"""Checks of the running server: whether it answers, what fails in it, and how the world reaches it."""

import json
from collections.abc import Iterator
from typing import Any

from sparkle_lite.doctor.findings import CheckFinding, refused
from sparkle_lite.doctor.installation import InstalledServer
from sparkle_lite.errors import SparkleError
from sparkle_lite.fetching import FetchLimits, fetch
from sparkle_lite.texts import phrase
from sparkle_lite.units import MIB

# Redirects are not followed: what answers must be the URL that clients are given.
_LIMITS = FetchLimits(max_bytes=MIB, connect_s=4.0, read_s=7.0, total_s=9.0, redirects=0)


async def check_server(place: InstalledServer) -> list[CheckFinding] | None:
    """Whether a server runs here, takes submissions and publishes rules."""
    if place.config is None:
        return None
    ready = place.readiness
    if ready is None and place.is_served:
        said = phrase("doctor.no_answer", url=place.url)
        return [CheckFinding("bad", said, phrase("doctor_mend.no_answer"))]
    if ready is None:
        return [CheckFinding("note", phrase("doctor.not_running"), phrase("doctor_mend.not_running"))]
    if place.trouble is not None:
        # Whose server it is can't be told where the files can't be looked at.
        return None
    if not place.is_served:
        said = phrase("doctor.other_server", url=place.url)
        return [CheckFinding("warn", said, phrase("doctor_mend.other_server"))]
    return [*_readiness(ready), *_jobs(ready)] or [CheckFinding("ok", phrase("doctor.ready", url=place.url))]


def _readiness(ready: Any) -> Iterator[CheckFinding]:
    if not ready.get("writer"):
        why = ready.get("writer_failure") or "?"
        yield CheckFinding("bad", phrase("doctor.no_writer", why=why), phrase("doctor_mend.no_writer"))
    if not ready.get("rules_published"):
        why = ready.get("rules_failure") or "?"
        yield CheckFinding("bad", phrase("doctor.no_rules", why=why), phrase("doctor_mend.no_rules"))


def _jobs(ready: Any) -> Iterator[CheckFinding]:
    for name, why in ready.get("failing_jobs", {}).items():
        yield CheckFinding("warn", phrase("doctor.job", name=name, why=why), phrase("doctor_mend.job"))


async def check_public_url(place: InstalledServer) -> list[CheckFinding] | None:
    """Whether the URL that clients are given leads here, and the proxy on the way says who asks."""
    if place.config is None or not place.is_served:
        return None
    url = place.config.server.public_url.rstrip("/")
    if not url:
        return [CheckFinding("note", phrase("doctor.no_public_url"))]
    here = place.readiness
    if here is not None and not here.get("ready"):
        # It answers 503 to whoever asks, which may as well be a proxy's that doesn't find it.
        return [CheckFinding("note", phrase("doctor.public_url_untold", url=url))]
    try:
        # It is the operator's own, and may well lead to a private network.
        fetched = await fetch(f"{url}/readyz", allow_private=True, limits=_LIMITS)
    except SparkleError as error:
        return [
            refused(error),
            CheckFinding("bad", phrase("doctor.unreachable", url=url), phrase("doctor_mend.unreachable")),
        ]
    try:
        told = json.loads(fetched.body or b"")
        came_by, instance = told["came_by"], told.get("instance")
    except (ValueError, KeyError, TypeError):
        return [_strange(url)]
    if here is None or "instance" not in here:
        return [CheckFinding("note", phrase("doctor.public_url_untold", url=url))]
    return [_proxy(url, came_by) if instance == here["instance"] else _strange(url)]


def _strange(url: str) -> CheckFinding:
    return CheckFinding("bad", phrase("doctor.strange_answer", url=url), phrase("doctor_mend.unreachable"))


def _proxy(url: str, came_by: str) -> CheckFinding:
    if came_by == "unknown_proxy":
        return CheckFinding("bad", phrase("doctor.unknown_proxy", url=url), phrase("doctor_mend.unknown_proxy"))
    # The server speaks no TLS itself, so something stands before it.
    if came_by == "silent_proxy" or (came_by == "direct" and url.startswith("https:")):
        return CheckFinding("bad", phrase("doctor.silent_proxy", url=url), phrase("doctor_mend.silent_proxy"))
    return CheckFinding("ok", phrase("doctor.reachable", url=url))
