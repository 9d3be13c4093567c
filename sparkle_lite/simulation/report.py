"""What came of a simulation, told: as text for a stranger, and as JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

from sparkle_lite.simulation.judge import Caught, Harm
from sparkle_lite.simulation.play import Played

_LISTS = {
    "ours": "the rules of this server",
    "Sparkle 1": "the formulas of the original's first version, on the same reports",
    "Sparkle 3": "those of its third version",
}


def document(outcome: Played) -> Mapping[str, Any]:
    """The same as JSON; shares from 0 to 1, hours, seconds, null where there is nothing to say."""
    order = outcome.order
    return {
        "order": order._asdict(),
        "days_played": round(outcome.days, 3),
        "interrupted": outcome.was_interrupted,
        "seconds": round(outcome.seconds, 1),
        "clients": outcome.clients,
        "liars": outcome.liars,
        "attacked": outcome.attacked,
        "traffic": outcome.traffic._asdict(),
        "lists": {
            name: {"bad": [one._asdict() for one in caught], "honest": harm._asdict()}
            for name, (caught, harm) in outcome.verdicts.items()
        },
        "failures": outcome.failures,
    }


def table(outcome: Played) -> list[str]:
    """What the lists were worth: the same lines for the same order, however fast the machine is."""
    names = list(outcome.verdicts)
    rows = [_row("bad peers", "", names)]
    rows.append(_row("", "how many", ["ever   time  hours  after"] * len(names)))
    for at, one in enumerate(outcome.verdicts[names[0]][0]):
        cells = [_figures(outcome.verdicts[name][0][at]) for name in names]
        rows.append(_row(one.kind, str(one.how_many), cells))
    rows.append("")
    rows.append(_row("honest addresses", "", names))
    rows += [_row(text, "", cells) for text, cells in _harms(outcome, [outcome.verdicts[n][1] for n in names])]
    return rows


def _row(label: str, count: str, cells: list[str]) -> str:
    return f"{label:<34}{count:>8}  " + "  ".join(f"{cell:<25}" for cell in cells).rstrip()


def _figures(one: Caught) -> str:
    hours = "-" if one.hours_to_listing is None else f"{one.hours_to_listing:.0f}"
    after = "-" if one.hours_after_end is None else f"{one.hours_after_end:.0f}"
    return f"{one.ever:4.2f}   {one.time:4.2f}  {hours:>5}  {after:>5}"


def _harms(outcome: Played, harms: list[Harm]) -> Iterator[tuple[str, list[str]]]:
    yield "listed by themselves", [str(harm.listed) for harm in harms]
    yield "under listed networks", [str(harm.under_networks) for harm in harms]
    yield "of them members' own", [str(harm.members) for harm in harms]
    if outcome.attacked:
        yield f"listed of {outcome.attacked} attacked", [str(harm.attacked_listed) for harm in harms]


def text(outcome: Played) -> list[str]:
    """The whole report for people."""
    return [*_what(outcome), "", *table(outcome), "", *_legend(outcome), "", *_traffic(outcome)]


def _what(outcome: Played) -> Iterator[str]:
    order = outcome.order
    liars = f", {outcome.liars} of them liars ({order.style})" if outcome.liars else ""
    yield (
        f"{order.people} people{liars}, {outcome.clients} clients of {outcome.programs} programs,"
        f" {outcome.days:.2f} of {order.days:g} days, preset {order.preset}, seed {order.seed}"
    )
    if outcome.was_interrupted:
        yield "Stopped before its end: what follows is true of the days until then."


def _legend(outcome: Played) -> Iterator[str]:
    for name in outcome.verdicts:
        yield f"{name}: {_LISTS[name]}"
    yield "ever: the share of them that was ever listed    time: of the time in which they were about"
    yield "hours: from the first moment to listing (median)    after: from their end until unlisted (median)"
    yield "A list is good when the first two are near 1 and no honest address is on it."


def _traffic(outcome: Played) -> Iterator[str]:
    found = outcome.traffic
    yield (
        f"{found.requests} requests in {outcome.seconds:.0f} s; {found.sent} rows sent, {found.accepted} acknowledged,"
        f" {found.rejected} rejected, {found.sent - found.accepted - found.rejected} not taken"
    )
    times = ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in found.latencies.items())
    yield f"an answer took {times}"
    refusals = {name: count for name, count in found.statuses.items() if not name.endswith((" 200", " 204"))}
    if refusals:
        yield "refused: " + ", ".join(f"{name} {count} times" for name, count in refusals.items())
    for name, failure in outcome.failures.items():
        yield f"the job {name} failed: {failure}"
