"""Lists that are worth beginning with: ready to be added, off until somebody does."""

from typing import NamedTuple

from sparkle_lite.config import ImportEntry, ListURL


class KnownList(NamedTuple):
    """A list by its key in the texts (`lists.known.<key>`), with the settings that fit it."""

    key: str
    entry: ImportEntry
    licence: str
    home: str


# Its generator merges neighbours, so some of its networks are wide; one of IPv6 is as wide as a provider.
_COLLECTED = ImportEntry(
    name="btn-collected-rules",
    url=(
        ListURL("https://raw.githubusercontent.com/PBH-BTN/BTN-Collected-Rules/main/combine/all.txt"),
        ListURL("https://bcr.pbh-btn.com/combine/all.txt"),
    ),
    widest=(16, 30),
    credit="BTN-Collected-Rules by PBH-BTN and contributors, CC BY 4.0",
)

KNOWN = (
    KnownList(
        key="btn_collected_rules",
        entry=_COLLECTED,
        licence="https://creativecommons.org/licenses/by/4.0/",
        home="https://github.com/PBH-BTN/BTN-Collected-Rules",
    ),
)


def credit_of(entry: ImportEntry) -> str:
    """Whom a list is owed to: what was written, or what is known of where it is."""
    if entry.credit:
        return entry.credit
    return next((known.entry.credit for known in KNOWN if set(entry.url) & set(known.entry.url)), "")
