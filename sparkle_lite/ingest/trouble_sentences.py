"""What is wrong with what an application sends, as one sentence: what it is, and the cure (catalogues: trouble.*).

Made of a code and its details; no text that a client sent is among them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sparkle_lite.clock import date
from sparkle_lite.texts import Phrase, joined, phrase
from sparkle_lite.units import DAY_MS
from sparkle_lite.wire.dialect import Family

# What a sentence says beside its code: numbers, names of ours, and of a refusal the key and values of its sentence.
Details = Mapping[str, Any]

# Why all rows of a list are rejected; every other reason says that they can't be read.
_REJECTED = frozenset({"networks", "not_public", "bad_address", "bad_port", "bad_identifier"})


def join(sentences: Iterable[Phrase]) -> Phrase:
    """Several sentences as one text."""
    return joined("language.then", sentences)


def sentence(code: str, details: Details, began_at: int) -> Phrase:
    """What is wrong, since when (ms) where that says something, and the cure."""
    match code:
        case "rejected":
            why = _why_rejected(details)
            return phrase("trouble.rejected", list=_list(details), rows=details["rows"], why=why)
        case "cut_off":
            is_qbcb = details["family"] == Family.QBCB and details["list"] != "bans"
            key = "trouble.cut_off_qbcb" if is_qbcb else "trouble.cut_off"
            return phrase(key, list=_list(details), rows=details["rows"])
        case "quota":
            return phrase("trouble.quota", list=_list(details), rows=details["rows"], most=details["most"])
        case "refused":
            return phrase("trouble.refused", list=_list(details), why=Phrase(details["key"], details["values"]))
        case "no_peers":
            return phrase("trouble.no_peers")
        case "clock":
            off = details["off"]
            return phrase("trouble.clock_ahead" if off > 0 else "trouble.clock_behind", days=_days(off))
        case "old_rows":
            return phrase("trouble.old_rows", days=_days(details["off"]))
        case "no_evidence":
            is_qbcb = details["family"] == Family.QBCB
            return phrase("trouble.no_evidence_qbcb" if is_qbcb else "trouble.no_evidence", since=date(began_at))
        case _:
            return phrase("trouble.too_many", most=details["most"])


def _list(details: Details) -> Phrase:
    return phrase(f"trouble_list.{details['list']}")


def _why_rejected(details: Details) -> Phrase:
    reason = details["reason"]
    if reason == "networks" and details["family"] == Family.QBCB:
        return phrase("trouble_rows.networks_qbcb")
    return phrase(f"trouble_rows.{reason}") if reason in _REJECTED else phrase("trouble_rows.unreadable", reason=reason)


def _days(off_ms: int) -> Phrase:
    days = abs(off_ms) // DAY_MS
    return phrase("trouble_days.one" if days == 1 else "trouble_days.other", n=days)
