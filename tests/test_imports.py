"""Dependencies point one way: what a module may import follows from its place in the layers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparkle_lite

PACKAGE = Path(sparkle_lite.__file__).parent
# A module imports from its own row and the rows above it. What is named in no row belongs to DOMAIN.
LAYERS = (
    {"", "units", "texts", "errors", "net", "logs", "metrics", "config", "clock", "rate_limits"},
    {"wire", "db"},
    {"accounts", "ingest", "rules"},
    {"jobs", "analyses", "settings", "observations"},
    {"server"},
    {"http"},
    {"app", "cli", "__main__"},
)
DOMAIN = 2
FOUNDATION: dict[str, set[str]] = {
    "units": set(),
    "texts": set(),
    "errors": {"texts"},
    "net": {"errors"},
    "config": {"units", "errors", "net"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def unit_of(name: str) -> str:
    """The part of the package that a dotted name below it belongs to."""
    return name.partition(".")[0]


def layer_of(unit: str) -> int:
    return next((level for level, units in enumerate(LAYERS) if unit in units), DOMAIN)


def name_of(path: Path) -> str:
    """The dotted name below the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """The absolute names of everything that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports_of(path: Path) -> Iterator[str]:
    """The units of this package that a module imports."""
    for name in imports_of(path):
        top, _, below = name.partition(".")
        unit = unit_of(below)
        if top == "sparkle_lite" and ((PACKAGE / unit).is_dir() or (PACKAGE / f"{unit}.py").exists()):
            yield unit


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_from_its_own_layer_or_a_lower_one(path: Path) -> None:
    unit = unit_of(name_of(path))
    assert [name for name in own_imports_of(path) if layer_of(name) > layer_of(unit)] == []
    if unit in FOUNDATION:
        assert set(own_imports_of(path)) <= FOUNDATION[unit] | {unit, ""}
    if unit in ("wire", "db"):
        assert not ({"wire", "db"} - {unit}) & set(own_imports_of(path))


@pytest.mark.parametrize(
    ("library", "units"),
    [
        ("litestar", {"http", "app"}),
        ("uvicorn", {"http"}),
        ("httptools", {"http"}),
        ("sqlite3", {"db"}),
        ("aiosqlite", {"db"}),
        ("prometheus_client", {"metrics", "http"}),
        ("jwt", {"accounts"}),
    ],
)
def test_only_its_place_knows_a_library(library: str, units: set[str]) -> None:
    found = {
        unit_of(name_of(path))
        for path in MODULES
        if any(name.partition(".")[0] == library for name in imports_of(path))
    }
    assert found <= units


def test_only_the_store_writes_sql() -> None:
    for path in MODULES:
        if unit_of(name_of(path)) in ("db", "server"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = node.value.lstrip().split(" ", 2)
                assert words[0] not in ("SELECT", "INSERT", "UPDATE", "DELETE", "PRAGMA") or len(words) < 3, path
