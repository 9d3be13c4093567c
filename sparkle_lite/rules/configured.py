"""The decisions of the configuration: what must begin and end for the table to say what the file says."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from sparkle_lite.db import decisions as store
from sparkle_lite.db.decisions import New
from sparkle_lite.net import Network
from sparkle_lite.rules import operator
from sparkle_lite.rules.operator import Rules


def difference(rules: Rules, rows: Iterable[tuple[Any, ...]], now: int) -> tuple[list[New], list[int]]:
    """What of the configuration must begin, and the ids of what is no longer in it."""
    wanted = dict.fromkeys(_configured(rules, now))
    end = []
    for old in store.decisions(rows):
        same = _Configured(
            kind=old.kind,
            network=old.network,
            text=old.text,
            action=old.action,
            category=old.category,
            expires_at=old.expires_at,
        )
        if same in wanted:
            del wanted[same]
        else:
            end.append(old.id)
    return [New(**new._asdict(), state="active", origin="config", code="config") for new in wanted], end


class _Configured(NamedTuple):
    """What the configuration says of one target."""

    kind: store.Kind
    network: Network | None
    text: str | None
    action: store.Action
    category: str
    expires_at: int | None


def _configured(rules: Rules, now: int) -> Iterable[_Configured]:
    actions: tuple[tuple[store.Action, tuple[operator.Rule, ...]], ...] = (
        ("deny", rules.rules),
        ("allow", rules.exceptions),
    )
    for action, entries in actions:
        for rule in entries:
            if not rule.is_active(now):
                continue
            kind: Any = rule.type
            said = _Configured(
                kind=kind, network=None, text=None, action=action, category=rule.category, expires_at=rule.expires
            )
            texts = (*map(str, rule.ports), *(matcher.pbh() for matcher in rule.matchers), *rule.scripts)
            for network in rule.networks:
                yield said._replace(network=network)
            for text in texts:
                yield said._replace(text=text)
