"""What the rules are worth in circles with known truth: `python -m tests.bench.quality`.

For each preset, share of liars and style of theirs it plays some circles (`sparkle-lite simulate`), one beside another
for each CPU, and prints what came of them in one table, with the formulas of the originals on the same reports. Each
line is the mean over the seeds. `--whole` plays every preset, 0, 10, 20 and 33 % of liars and every style.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from sparkle_lite.config import Preset
from sparkle_lite.simulation.liars import STYLES

# Who is to be caught by what clients report; the others live too short, take little, or share an address.
CAUGHT = (
    *("progress cheater", "cheater that seeds a little", "burner, stable port", "burner, changing ports"),
    *("multi-dialer /24", "multi-dialer /56", "scraper of hundreds of torrents"),
)
SHARES = (0.0, 0.1, 0.2, 0.33)
Document = Mapping[str, Any]


class Case(NamedTuple):
    """What is played with several seeds."""

    preset: str
    poison: float
    style: str


class Options(NamedTuple):
    """How large the circles are and what is played."""

    people: int
    days: float
    seeds: Sequence[int]
    cases: Sequence[Case]


class Line(NamedTuple):
    """Means over the seeds of what one list did in one case; hours None where nothing was listed."""

    case: Case
    name: str
    ever: float
    time: float
    hours: float | None
    listed: float
    near: float
    members: float
    attacked: float
    victims: float


def cases(presets: Iterable[str], shares: Iterable[float], styles: Sequence[str]) -> list[Case]:
    """All combinations; where nobody lies, the style doesn't matter."""
    shares = list(shares)
    return [
        Case(preset, share, style if share else "-")
        for preset in presets
        for share in shares
        for style in (styles if share else styles[:1])
    ]


# --- Playing ----------------------------------------------------------------------------------------------------------


async def play(options: Options, at_once: int) -> dict[Case, list[Document]]:
    """Play everything; the reports of each case by seed. Raises RuntimeError when a simulation fails."""
    found: dict[Case, list[Document]] = {case: [] for case in options.cases}
    total, began = len(options.cases) * len(options.seeds), time.monotonic()
    room = asyncio.Semaphore(at_once)

    async def one(case: Case, seed: int) -> Document:
        async with room:
            report = await _simulate(options, case, seed)
        found[case].append(report)
        done = sum(map(len, found.values()))
        print(f"{done} of {total} after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return report

    async with asyncio.TaskGroup() as group:
        for case in options.cases:
            for seed in options.seeds:
                group.create_task(one(case, seed))
    return found


async def _simulate(options: Options, case: Case, seed: int) -> Document:
    words = {"--people": options.people, "--days": options.days, "--seed": seed, "--preset": case.preset}
    if case.poison:
        words |= {"--poison": case.poison, "--style": case.style}
    arguments = [str(each) for pair in words.items() for each in pair]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sparkle_lite", "simulate", "--json", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    out, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{case} with seed {seed}: {said.decode()[-2000:]}")
    report: Document = json.loads(out)
    return report


# --- Telling ----------------------------------------------------------------------------------------------------------


def lines(found: Mapping[Case, Sequence[Document]]) -> Iterator[Line]:
    """A line for each case and list."""
    for case, reports in found.items():
        for name in reports[0]["lists"]:
            yield _line(case, name, [report["lists"][name] for report in reports], reports)


def _line(case: Case, name: str, lists: Sequence[Document], reports: Sequence[Document]) -> Line:
    bad = [one for each in lists for one in each["bad"] if one["kind"] in CAUGHT]
    hours = [one["hours_to_listing"] for one in bad if one["hours_to_listing"] is not None]
    honest = {key: statistics.fmean(each["honest"][key] for each in lists) for key in lists[0]["honest"]}
    return Line(
        case=case,
        name=name,
        ever=statistics.fmean(one["ever"] for one in bad),
        time=statistics.fmean(one["time"] for one in bad),
        hours=statistics.fmean(hours) if hours else None,
        listed=honest["listed"],
        near=honest["under_networks"],
        members=honest["members"],
        attacked=honest["attacked_listed"],
        victims=statistics.fmean(report["attacked"] for report in reports),
    )


def summary(found: Mapping[Case, Sequence[Document]]) -> list[str]:
    """The table: a mean over the kinds that can be caught, and the harm."""
    rows = [
        f"{'preset':<8} {'liars':>5} {'style':<9} {'list':<9} {'ever':>5} {'time':>5} {'hours':>6}"
        f" {'honest':>7} {'under':>6} {'members':>8} {'attacked':>12}"
    ]
    for line in lines(found):
        hours = "-" if line.hours is None else f"{line.hours:.1f}"
        attacked = f"{line.attacked:.1f} of {line.victims:.0f}" if line.victims else "-"
        rows.append(
            f"{line.case.preset:<8} {line.case.poison:>5.0%} {line.case.style:<9} {line.name:<9}"
            f" {line.ever:>5.2f} {line.time:>5.2f} {hours:>6} {line.listed:>7.1f} {line.near:>6.1f}"
            f" {line.members:>8.1f} {attacked:>12}"
        )
    return rows


def by_kind(found: Mapping[Case, Sequence[Document]]) -> list[str]:
    """Of our rules: the share of each kind that was ever listed, and the share of its time, case by case."""
    rows = []
    for case, reports in found.items():
        rows.append(f"{case.preset}, {case.poison:.0%} liars{f' ({case.style})' if case.poison else ''}")
        ours = [report["lists"]["ours"]["bad"] for report in reports]
        for place, one in enumerate(ours[0]):
            same = [each[place] for each in ours]
            hours = [each["hours_to_listing"] for each in same if each["hours_to_listing"] is not None]
            after = [each["hours_after_end"] for each in same if each["hours_after_end"] is not None]
            rows.append(
                f"  {one['kind']:<34} ever {statistics.fmean(each['ever'] for each in same):4.2f}"
                f"  time {statistics.fmean(each['time'] for each in same):4.2f}"
                f"  hours {_mean(hours):>5}  after {_mean(after):>5}"
            )
    return rows


def _mean(hours: Sequence[float]) -> str:
    return f"{statistics.fmean(hours):.1f}" if hours else "-"


LEGEND = (
    f"ever, time, hours: of {len(CAUGHT)} kinds of bad peers ({', '.join(CAUGHT)}) the share that was ever listed, the"
    " share of their time that they were, and the hours until then",
    "honest: addresses listed by themselves; under: under listed networks; members: the people's own; attacked: honest"
    " ones that liars report, listed either way",
)


# --- The command ------------------------------------------------------------------------------------------------------


def options_of(arguments: Sequence[str]) -> tuple[Options, argparse.Namespace]:
    """What to play."""
    parser = argparse.ArgumentParser(prog="tests.bench.quality", description=__doc__)
    presets, styles = list(get_args(Preset)), list(STYLES)
    parser.add_argument("--whole", action="store_true", help="every preset, share of liars and style")
    parser.add_argument("--presets", nargs="+", choices=presets, default=["friends", "tracker"])
    parser.add_argument("--poison", nargs="+", type=float, default=[0.0, 0.33], metavar="F", help="shares of liars")
    parser.add_argument("--styles", nargs="+", choices=styles, default=["collude"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 12], metavar="S")
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--days", type=float, default=8)
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="simulations side by side")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all reports there")
    args = parser.parse_args(arguments)
    if args.whole:
        args.presets, args.poison, args.styles = presets, SHARES, styles
    played = cases(args.presets, args.poison, args.styles)
    return Options(people=args.people, days=args.days, seeds=args.seeds, cases=played), args


def main(arguments: Sequence[str] | None = None) -> None:
    """Play and print the table."""
    options, args = options_of(sys.argv[1:] if arguments is None else arguments)
    began = time.monotonic()
    found = asyncio.run(play(options, args.at_once))
    if args.json is not None:
        everything = [{**case._asdict(), "reports": reports} for case, reports in found.items()]
        args.json.write_text(json.dumps(everything), "utf-8")
    print("\n".join([*summary(found), "", *LEGEND, "", "Kinds, by our rules:", *by_kind(found)]))
    print(
        f"\n{options.people} people, {options.days:g} days, seeds {', '.join(map(str, options.seeds))};"
        f" {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
