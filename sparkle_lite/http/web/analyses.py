"""The analyses: their numbers and where each comes from, changing them, and trying them on what is stored."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from litestar import get, post

from sparkle_lite.analyses.numbers import PRESETS
from sparkle_lite.analyses.parameters import parameters, trust
from sparkle_lite.analyses.registry import ANALYSES
from sparkle_lite.analyses.runs import Runs
from sparkle_lite.config import AnalysisSection, Config, Size
from sparkle_lite.config.values import toml
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn
from sparkle_lite.http.web.access import ADMINS, MEMBERS
from sparkle_lite.http.web.render import Page, PostedForm, language_of, page, query, see_other
from sparkle_lite.http.web.rules import DecisionRow, frame
from sparkle_lite.http.web.welcome import PRESET
from sparkle_lite.rules.plan import Plan, key_of
from sparkle_lite.server import Server
from sparkle_lite.settings import Setting, Settings, known, read

# Entries of each side of a dry run that are shown.
SHOWN = 200
# Whose word counts: what belongs to no analysis alone, as if it were one.
VOTERS = "voters"


class NumberField(NamedTuple):
    """A number of an analysis, or its mode, as it is written in a form and in the configuration.

    `value` is in force; `usual` is the preset's (or the default), `by_preset` that of each preset where they differ.
    `source` is what sets it: preset, page, file or environment; `place` the name of that file or variable.
    `typed` and `refusal` are what somebody wrote and why it can't be.
    """

    name: str
    field: str
    setting: Setting
    value: str
    usual: str
    by_preset: tuple[tuple[str, str], ...]
    source: str
    place: str
    typed: str
    refusal: str

    @property
    def choices(self) -> tuple[str, ...]:
        """What can be chosen, beside what the preset has; none of a number."""
        return tuple(choice for choice in self.setting.choices if choice != "preset")

    @property
    def is_given(self) -> bool:
        """Whether no page can change it."""
        return self.source in ("file", "environment")


class Card(NamedTuple):
    """An analysis with its mode and numbers, and how many of its decisions stand, by state."""

    name: str
    mode: NumberField | None
    numbers: tuple[NumberField, ...]
    counts: Mapping[str, int]

    @property
    def all(self) -> tuple[NumberField, ...]:
        """The mode, if there is one, and the numbers."""
        return (self.mode, *self.numbers) if self.mode else self.numbers

    @property
    def is_changed(self) -> bool:
        """Whether anything is not as the preset has it, or was refused."""
        return any(one.source != "preset" or one.refusal for one in self.all)

    @property
    def has_settings(self) -> bool:
        """Whether anything was set on a page."""
        return any(one.source == "page" for one in self.all)

    @property
    def can_change(self) -> bool:
        """Whether a page can change anything of it."""
        return not all(one.is_given for one in self.all)


class DryRun(NamedTuple):
    """What an analysis would change: what is not there now in that state, what ends; `stay` counts the rest."""

    name: str
    plan: Plan
    come: list[DecisionRow]
    go: list[DecisionRow]
    stay: int


class Answers(NamedTuple):
    """What was written in a form, and what can't be taken of it, by field."""

    typed: Mapping[str, str]
    refusals: Mapping[str, str]


_NOTHING = Answers({}, {})


# --- Cards ------------------------------------------------------------------------------------------------------------


def _cards(server: Server, counts: Mapping[tuple[str, str], int], answers: Answers = _NOTHING) -> list[Card]:
    return [_card(name, server, counts, answers) for name in ANALYSES]


def _card(name: str, server: Server, counts: Mapping[tuple[str, str], int], answers: Answers = _NOTHING) -> Card:
    settings = server.config.analysis
    effective = parameters(name, settings)
    values = {"mode": effective.mode, **effective.numbers}
    mode, *numbers = (
        _number(
            server.settings,
            f"{name}.{key}",
            values[key],
            usual=number.by_preset[settings.preset],
            by_preset=number.by_preset,
            answers=answers,
        )
        for key, number in ANALYSES[name].keys.items()
    )
    mine = {state: number for (origin, state), number in counts.items() if origin == name}
    return Card(name, mode, tuple(numbers), mine)


def _voters(server: Server, answers: Answers = _NOTHING) -> Card:
    settings = server.config.analysis
    values = _trusted(settings)
    by_preset = {preset: _trusted(AnalysisSection(preset=preset)) for preset in PRESETS}
    numbers = tuple(
        _number(
            server.settings,
            key,
            values[key],
            usual=by_preset[settings.preset][key],
            by_preset={preset: each[key] for preset, each in by_preset.items()},
            answers=answers,
        )
        for key in values
    )
    return Card(VOTERS, None, numbers, {})


def _trusted(settings: AnalysisSection) -> dict[str, str | int]:
    """Whose word counts and which evidence, by key of the configuration: what is in force."""
    effective = trust(settings)
    return {
        "account_age": settings.account_age,
        "active_days": settings.active_days,
        "min_harm": Size(effective.min_harm),
        "private_torrents": "count" if effective.private else "ignore",
    }


def _number(
    settings: Settings,
    path: str,
    value: str | int,
    *,
    usual: str | int,
    by_preset: Mapping[str, str | int],
    answers: Answers,
) -> NumberField:
    key = f"analysis.{path}"
    place = settings.given.get(key, "")
    if key in settings.given:
        source = "environment" if place.startswith("SPARKLE_") else "file"
    else:
        source = "page" if key in settings.values else "preset"
    differ = len(set(by_preset.values())) > 1
    kind = type(usual)
    text = _written(kind, value)
    return NumberField(
        name=path.rpartition(".")[2],
        field=path,
        setting=known()[key],
        value=text,
        usual=_written(kind, usual),
        by_preset=tuple((preset, _written(kind, each)) for preset, each in by_preset.items()) if differ else (),
        source=source,
        place=place,
        typed=answers.typed.get(path, text),
        refusal=answers.refusals.get(path, ""),
    )


def _written(kind: type, value: str | int) -> str:
    return str(kind(value))


def _lines(settings: AnalysisSection) -> str:
    """The configuration that says what is in force, to be changed and pasted."""
    lines = ["[analysis]", f"preset = {toml(settings.preset)}"]
    lines += [f"{key} = {toml(value)}" for key, value in _trusted(settings).items()]
    for name, analysis in ANALYSES.items():
        mode, values = parameters(name, settings)
        lines += ["", f"[analysis.{name}]", f"mode = {toml(mode)}"]
        lines += [f"{key} = {toml(type(number.unset)(values[key]))}" for key, number in analysis.numbers.items()]
    return "\n".join(lines) + "\n"


# --- Numbers ----------------------------------------------------------------------------------------------------------


@get("/rules/analyses", guards=MEMBERS)
async def overview(request: AnyRequest, server: Injected[Server]) -> Page:
    """The analyses with their numbers."""
    return await _numbers_page(request, server)


async def _numbers_page(request: AnyRequest, server: Server, answers: Answers = _NOTHING) -> Page:
    settings = server.config.analysis
    return page(
        request,
        "rules_analyses.html",
        status=400 if answers.refusals else 200,
        settings=settings,
        preset_given=server.settings.given.get(PRESET),
        cards=_cards(server, await server.decisions.counts(), answers),
        voters=_voters(server, answers),
        refused_fields=list(answers.refusals),
        lines=_lines(settings),
        run=server.jobs.runs.get("analyse"),
        **await frame(server),
    )


@post("/rules/analyses/run", status_code=303, guards=ADMINS)
async def run_now(server: Injected[Server]) -> Page:
    """Have all analyses run now."""
    server.analyse_soon.set()
    return see_other("/rules/analyses", done="analyses_run")


@post("/rules/analyses/{name:str}", status_code=303, guards=ADMINS)
async def save(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], name: str
) -> Page:
    """Take the numbers of an analysis; all of them or none."""
    changes, refusals = {}, {}
    for number in _numbers_of(server, name):
        if number.field not in form:
            continue
        try:
            value = read(number.setting.key, form[number.field])
        except SparkleError as error:
            refusals[number.field] = error.text(language_of(request))
            continue
        # What is the preset's own number follows the preset.
        changes[number.setting.key] = None if str(value) == number.usual else value
    if refusals:
        return await _numbers_page(request, server, Answers(form, refusals))
    return await _changed(server, me, name, changes)


@post("/rules/analyses/{name:str}/back", status_code=303, guards=ADMINS)
async def set_back(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm], name: str) -> Page:
    """Give up a number that was set on a page, or all of them of an analysis."""
    field = form.get("number", "")
    numbers = [one for one in _numbers_of(server, name) if one.source == "page" and field in ("", one.field)]
    return await _changed(server, me, name, dict.fromkeys(one.setting.key for one in numbers))


async def _changed(server: Server, me: SignedIn, name: str, changes: Mapping[str, Any]) -> Page:
    await server.change_settings(changes, me.actor)
    return see_other(f"/rules/analyses#{name}", done="numbers_saved")


def _numbers_of(server: Server, name: str) -> tuple[NumberField, ...]:
    if name == VOTERS:
        return _voters(server).numbers
    if name not in ANALYSES:
        raise SparkleError("not_found", "analysis.unknown", name=name[:64])
    return _card(name, server, {}).all


# --- Dry run ----------------------------------------------------------------------------------------------------------


def one_dry_run() -> asyncio.Lock:
    """Held while a dry run is under way, which reads much of what is stored: the dependency `dry_run`."""
    return asyncio.Lock()


@get("/rules/dry-run", guards=ADMINS)
async def try_numbers(request: AnyRequest, server: Injected[Server], dry_run: Injected[asyncio.Lock]) -> Page:
    """What the analyses would list with other numbers."""
    given = {name: text.strip() for name, text in request.query_params.items() if text.strip()}
    if given != dict(request.query_params):
        return see_other(f"/rules/dry-run{query(given)}")
    values: dict[str, Any] = {"runs": []}
    if "run" in given:
        try:
            values["runs"] = await _dry_runs(server, given, dry_run)
        except SparkleError as error:
            values |= {"refused": error, "status": 400}
    cards = _cards(server, {})
    return page(
        request,
        "rules_dry_run.html",
        given=given,
        presets=PRESETS,
        cards=cards,
        tried=_tried(cards, given),
        shown=SHOWN,
        **values,
        **await frame(server),
    )


async def _dry_runs(server: Server, given: Mapping[str, str], dry_run: asyncio.Lock) -> list[DryRun]:
    if dry_run.locked():
        raise SparkleError("too_many", "analysis.dry_run_busy", retry_after=10)
    async with dry_run:
        config = _with_preset(server.config, given.get("preset"))
        wanted = given.get("name")
        names = [wanted] if wanted else list(ANALYSES)
        return [await _dry_run(server, config, name, _overrides(name, given)) for name in names]


async def _dry_run(server: Server, config: Config, name: str, overrides: Mapping[str, str]) -> DryRun:
    trial = Runs(server.database, server.decisions, lambda: config.analysis)
    plan = await trial.run(name, overrides, dry=True)
    reason = server.decisions.reason
    before = {(key_of(old), old.state) for old, _ in plan.end}
    come = [DecisionRow(new, new.state, reason(new)) for new in plan.begin if (key_of(new), new.state) not in before]
    go = [DecisionRow(old, old.state, reason(old)) for old, why in plan.end if why == "withdrawn"]
    return DryRun(name=name, plan=plan, come=come, go=go, stay=plan.kept + len(plan.begin) - len(come))


def _tried(cards: Sequence[Card], given: Mapping[str, str]) -> dict[str, str]:
    """The numbers of one analysis that were tried and can be saved: none where another preset was tried too."""
    if given.get("preset"):
        return {}
    mine = (one for card in cards if card.name == given.get("name") for one in card.all)
    return {one.field: given[one.field] for one in mine if one.field in given and not one.is_given}


def _with_preset(config: Config, preset: str | None) -> Config:
    if not preset:
        return config
    if preset not in PRESETS:
        raise SparkleError("bad_request", "analysis.no_preset", name=preset[:64])
    settings = msgspec.structs.replace(config.analysis, preset=preset)
    return msgspec.structs.replace(config, analysis=settings)


def _overrides(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """The numbers for one analysis: the parameters `<analysis>.<number>`."""
    return {key.removeprefix(f"{name}."): value for key, value in given.items() if key.startswith(f"{name}.")}


HANDLERS = (overview, run_now, save, set_back, try_numbers)
