"""The plan of the house: its rooms, the floors that they stand on, and the doors between them.

A room is a folder of the package; files that stand beside the rooms are rooms of one file. A room uses what is on its
own floor and on the floors below, and nothing above: so what stands low can be understood, tested and changed without
what stands on it. What a floor is for is said in the manual ("Work on the code").
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import sparkle_lite

PACKAGE = Path(sparkle_lite.__file__).parent

# From the ground up. Everything in the package has its place here.
FLOORS = (
    {
        "",
        "texts",
        "units",
        "clock",
        "errors",
        "net",
        "logs",
        "metrics",
        "rate_limits",
        "turns",
        "worker_process",
        "fetching",
        "service_manager",
    },
    {"config", "wire", "db"},
    {"accounts"},
    {"ingest", "rules"},
    {"observations", "analyses", "settings", "jobs", "timekeeping", "backups"},
    {"server", "doctor"},
    {"http"},
    {"app"},
    {"cli", "__main__", "simulation"},
)
# Of what is below them these rooms see no more than this.
NARROW: Mapping[str, set[str]] = {
    "units": set(),
    "texts": set(),
    "clock": {"units"},
    "errors": {"texts"},
    "net": {"errors", "texts"},
    "fetching": {"units", "clock", "errors", "net", "texts"},
    "config": {"units", "errors", "net", "texts"},
}
# Rooms that have no door between them. What http shows of the store it gets from the rooms in between.
APART = (("wire", "db"), ("ingest", "rules"), ("http", "db"))
# Who may know a library: a room, or a file of it.
LIBRARIES: Mapping[str, set[str]] = {
    "litestar": {"http", "app"},
    "uvicorn": {"http"},
    "httptools": {"http"},
    "httpx": {"http", "fetching"},
    "jinja2": {"http"},
    "sqlite3": {"db"},
    "aiosqlite": {"db"},
    "prometheus_client": {"metrics", "http"},
    "jwt": {"accounts"},
    "regex": {"wire"},
}
# What a name with an underscore of another class still is: the documented methods of named tuples.
_OF_TUPLES = {"_replace", "_asdict", "_make", "_fields"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name below the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    """The room that a dotted name below the package belongs to."""
    return name.partition(".")[0]


def floor_of(room: str) -> int:
    return next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports_of(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Everything that a module imports, inside functions too, by absolute names."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def own_imports_of(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """The modules of this package that a module imports, below the package."""
    for node, name in imports_of(path):
        top, _, below = name.partition(".")
        if top == "sparkle_lite":
            yield node, below if is_module(below) else below.rpartition(".")[0]


def is_module(name: str) -> bool:
    place = PACKAGE.joinpath(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def test_everything_has_its_floor() -> None:
    rooms = {room_of(name_of(path)) for path in MODULES}
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_map_in_the_manual_names_every_room_on_its_floor(language: str) -> None:
    text = (PACKAGE / "manual" / language / "code.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", text, re.MULTILINE)
    floors = [
        {room for number, rooms in rows if int(number) == floor for room in re.findall("`([^`]+)`", rooms)}
        for floor in range(1, len(FLOORS) + 1)
    ]
    assert floors == [rooms - {""} for rooms in FLOORS]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_uses_its_own_floor_and_those_below(path: Path) -> None:
    room = room_of(name_of(path))
    used = {room_of(name) for _, name in own_imports_of(path)} - {room}
    assert {other for other in used if floor_of(other) > floor_of(room)} == set()
    assert used <= NARROW.get(room, used) | {""}


@pytest.mark.parametrize(("one", "other"), APART)
def test_there_is_no_door_between(one: str, other: str) -> None:
    for path in MODULES:
        room = room_of(name_of(path))
        forbidden = {one: other, other: one}.get(room)
        assert [name for _, name in own_imports_of(path) if room_of(name) == forbidden] == [], path


def test_no_imports_go_in_a_circle() -> None:
    """Neither between rooms, nor between the files of one. What only types need is no import when the program runs."""
    edges: dict[str, set[str]] = {}
    for path in MODULES:
        for_types = {
            node
            for block in ast.walk(tree_of(path))
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        name = name_of(path)
        edges[name] = {other for node, other in own_imports_of(path) if node not in for_types} - {name, ""}
    rooms: dict[str, set[str]] = {}
    for name, others in edges.items():
        rooms.setdefault(room_of(name), set()).update(map(room_of, others))
    for graph in (edges, {room: others - {room} for room, others in rooms.items()}):
        assert circle_in(graph) == []


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """What is left when everything that uses nothing of the rest has been taken away, again and again."""
    left = dict(graph)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_begins_with_an_underscore_is_its_files_own(path: Path) -> None:
    nodes = list(ast.walk(tree_of(path)))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    imported = [name.rpartition(".")[2] for _, name in imports_of(path) if name.startswith("sparkle_lite")]
    used = [
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    private = {name for name in (*imported, *used) if name.startswith("_") and not name.startswith("__")}
    assert private - own - _OF_TUPLES == set()


@pytest.mark.parametrize(("library", "rooms"), LIBRARIES.items())
def test_only_its_room_knows_a_library(library: str, rooms: set[str]) -> None:
    users = {
        room_of(name_of(path)) for path in MODULES if any(n.partition(".")[0] == library for _, n in imports_of(path))
    }
    assert users <= rooms


def test_only_the_store_writes_sql() -> None:
    for path in MODULES:
        if room_of(name_of(path)) in ("db", "server"):
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = node.value.lstrip().split(" ", 2)
                assert words[0] not in ("SELECT", "INSERT", "UPDATE", "DELETE", "PRAGMA") or len(words) < 3, path
