"""The analyses: their numbers and where each comes from, changing them, and trying them on what is stored."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from sparkle_lite import analyses
from sparkle_lite.analyses import ANALYSES
from sparkle_lite.analyses.numbers import PRESETS, TABLE
from sparkle_lite.analyses.runs import Runs
from sparkle_lite.config import AnalysisSection, Config
from sparkle_lite.config.values import toml
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.web import render
from sparkle_lite.http.web.render import Asked, Page, Pages, page
from sparkle_lite.http.web.rules import Told, frame
from sparkle_lite.http.web.welcome import PRESET
from sparkle_lite.plan import Plan, key_of
from sparkle_lite.runtime import Server
from sparkle_lite.settings import Setting, Settings, known, read

# Entries of each side of a dry run that are shown.
SHOWN = 200
# Whose word counts: what belongs to no analysis alone, as if it were one.
VOTERS = "voters"


class Number(NamedTuple):
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
    def is_given(self) -> bool:
        """Whether no page can change it."""
        return self.source in ("file", "environment")


class Card(NamedTuple):
    """An analysis with its mode and numbers, and how many of its decisions stand, by state."""

    name: str
    mode: Number | None
    numbers: tuple[Number, ...]
    counts: Mapping[str, int]

    @property
    def all(self) -> tuple[Number, ...]:
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


class Run(NamedTuple):
    """What an analysis would change: what is not there now in that state, what ends; `stay` counts the rest."""

    name: str
    plan: Plan
    come: list[Told]
    go: list[Told]
    stay: int


class Answers(NamedTuple):
    """What was written in a form, and what can't be taken of it, by field."""

    typed: Mapping[str, str]
    refusals: Mapping[str, str]


_NOTHING = Answers({}, {})


def routes(pages: Pages) -> list[HTTPRouteHandler]:
    """The handlers of one server."""
    return [*_numbers(pages), _dry_run(pages)]


# --- Cards ------------------------------------------------------------------------------------------------------------


def _cards(server: Server, counts: Mapping[tuple[str, str], int], answers: Answers = _NOTHING) -> list[Card]:
    return [_card(name, server, counts, answers) for name in ANALYSES]


def _card(name: str, server: Server, counts: Mapping[tuple[str, str], int], answers: Answers = _NOTHING) -> Card:
    settings = server.config.analysis
    chosen = analyses.choose(name, settings)
    values = {"mode": chosen.mode, **chosen.numbers}
    by_preset = {key: dict(zip(PRESETS, columns, strict=True)) for key, columns in TABLE[name].items()}
    mode, *numbers = (
        _number(server.settings, f"{name}.{key}", kinds[settings.preset], values[key], kinds, answers)
        for key, kinds in by_preset.items()
    )
    mine = {state: number for (origin, state), number in counts.items() if origin == name}
    return Card(name, mode, tuple(numbers), mine)


def _voters(server: Server, answers: Answers = _NOTHING) -> Card:
    usual, settings = AnalysisSection(), server.config.analysis
    numbers = tuple(
        _number(server.settings, key, getattr(usual, key), getattr(settings, key), {}, answers)
        for key in ("account_age", "active_days")
    )
    return Card(VOTERS, None, numbers, {})


def _number(
    settings: Settings, path: str, usual: str | int, value: str | int, by_preset: Mapping[str, str | int], its: Answers
) -> Number:
    key = f"analysis.{path}"
    place = settings.given.get(key, "")
    if key in settings.given:
        source = "environment" if place.startswith("SPARKLE_") else "file"
    else:
        source = "page" if key in settings.values else "preset"
    differ = len(set(by_preset.values())) > 1
    text = _written(type(usual), value)
    return Number(
        path.rpartition(".")[2],
        path,
        known()[key],
        text,
        _written(type(usual), usual),
        tuple((preset, _written(type(usual), each)) for preset, each in by_preset.items()) if differ else (),
        source,
        place,
        its.typed.get(path, text),
        its.refusals.get(path, ""),
    )


def _written(kind: type, value: str | int) -> str:
    return str(kind(value))


def _lines(settings: AnalysisSection) -> str:
    """The configuration that says what is in force, to be changed and pasted."""
    lines = ["[analysis]", f"preset = {toml(settings.preset)}"]
    lines += [f"account_age = {toml(settings.account_age)}", f"active_days = {toml(settings.active_days)}"]
    for name in ANALYSES:
        chosen = analyses.choose(name, settings)
        lines += ["", f"[analysis.{name}]", f"mode = {toml(chosen.mode)}"]
        for key, columns in TABLE[name].items():
            if key != "mode":
                lines.append(f"{key} = {toml(type(columns[0])(chosen.numbers[key]))}")
    return "\n".join(lines) + "\n"


# --- Numbers ----------------------------------------------------------------------------------------------------------


def _numbers(pages: Pages) -> list[HTTPRouteHandler]:
    server = pages.runtime

    async def shown(request: Asked, answers: Answers = _NOTHING) -> Page:
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
            **await frame(pages.runtime),
        )

    @get("/rules/analyses")
    async def overview(request: Asked) -> Page:
        await pages.member(request)
        return await shown(request)

    @post("/rules/analyses/run", status_code=303)
    async def run(request: Asked) -> Page:
        await pages.admin(request)
        server.analyse_soon.set()
        return render.see_other("/rules/analyses", done="analyses_run")

    @post("/rules/analyses/{name:str}", status_code=303)
    async def save(request: Asked, name: str) -> Page:
        me = await pages.admin(request)
        form = await render.posted(request)
        changes, refusals = {}, {}
        for one in _of(name):
            if one.field not in form:
                continue
            try:
                value = read(one.setting.key, form[one.field])
            except SparkleError as error:
                refusals[one.field] = render.said(error, render.language_of(request))
                continue
            # What is the preset's own number follows the preset.
            changes[one.setting.key] = None if str(value) == one.usual else value
        if refusals:
            return await shown(request, Answers(form, refusals))
        await server.change_settings(changes, me.actor)
        return render.see_other(f"/rules/analyses#{name}", done="numbers_saved")

    @post("/rules/analyses/{name:str}/back", status_code=303)
    async def back(request: Asked, name: str) -> Page:
        me = await pages.admin(request)
        number = (await render.posted(request)).get("number", "")
        keys = [one.setting.key for one in _of(name) if one.source == "page" and number in ("", one.field)]
        await server.change_settings(dict.fromkeys(keys), me.actor)
        return render.see_other(f"/rules/analyses#{name}", done="numbers_saved")

    def _of(name: str) -> tuple[Number, ...]:
        if name == VOTERS:
            return _voters(server).numbers
        if name not in ANALYSES:
            raise SparkleError("not_found", "There is no such analysis.", "没有此分析。")
        return _card(name, server, {}).all

    return [overview, run, save, back]


# --- Dry run ----------------------------------------------------------------------------------------------------------


def _dry_run(pages: Pages) -> HTTPRouteHandler:
    server = pages.runtime
    # A run reads much of what is stored: one at a time.
    running = asyncio.Lock()

    @get("/rules/dry-run")
    async def dry_run(request: Asked) -> Page:
        await pages.admin(request)
        given = {name: text.strip() for name, text in request.query_params.items() if text.strip()}
        if given != dict(request.query_params):
            return render.see_other(f"/rules/dry-run{render.query(given)}")
        values: dict[str, Any] = {"runs": []}
        if "run" in given:
            try:
                values["runs"] = await _dry(given)
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
            **await frame(pages.runtime),
        )

    async def _dry(given: Mapping[str, str]) -> list[Run]:
        if running.locked():
            raise SparkleError("too_many", "Another dry run is under way.", "另一次试运行正在进行。", retry_after=10)
        async with running:
            config = _with_preset(server.config, given.get("preset"))
            wanted = given.get("name")
            names = [wanted] if wanted else list(ANALYSES)
            return [await _dry_one(config, name, _overrides(name, given)) for name in names]

    async def _dry_one(config: Config, name: str, overrides: Mapping[str, str]) -> Run:
        trial = Runs(server.database, server.decisions, lambda: config.analysis)
        plan = await trial.run(name, overrides, dry=True)
        reason = server.decisions.reason
        before = {(key_of(old), old.state) for old, _ in plan.end}
        come = [Told(new, new.state, reason(new)) for new in plan.begin if (key_of(new), new.state) not in before]
        go = [Told(old, old.state, reason(old)) for old, why in plan.end if why == "withdrawn"]
        return Run(name, plan, come, go, plan.kept + len(plan.begin) - len(come))

    return dry_run


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
        raise SparkleError("bad_request", f"There is no preset {preset[:64]!r}.", "没有此预设。")
    settings = msgspec.structs.replace(config.analysis, preset=preset)
    return msgspec.structs.replace(config, analysis=settings)


def _overrides(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """The numbers for one analysis: the parameters `<analysis>.<number>`."""
    return {key.removeprefix(f"{name}."): value for key, value in given.items() if key.startswith(f"{name}.")}
