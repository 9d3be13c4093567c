"""Shapes that keep the code readable, over the whole package: names, calls and functions."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import sparkle_lite

PACKAGE = Path(sparkle_lite.__file__).parent
Function = ast.FunctionDef | ast.AsyncFunctionDef
LONGEST_FUNCTION, MOST_POSITIONAL, MOST_NESTED = 80, 5, 0.06


class Node(NamedTuple):
    """A part of the code, where it stands, and whether that is inside a function."""

    node: ast.AST
    place: str
    is_inside: bool


def nodes() -> Iterator[Node]:
    """Every node of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield from _below(ast.parse(path.read_text("utf-8")), str(path.relative_to(PACKAGE)), is_inside=False)


def _below(node: ast.AST, file: str, *, is_inside: bool) -> Iterator[Node]:
    for child in ast.iter_child_nodes(node):
        yield Node(child, f"{file}:{getattr(child, 'lineno', 0)}", is_inside)
        yield from _below(child, file, is_inside=is_inside or isinstance(child, Function))


def functions() -> list[tuple[Function, str, bool]]:
    return [(node, place, is_inside) for node, place, is_inside in nodes() if isinstance(node, Function)]


def test_a_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for node, place, _ in nodes():
        if isinstance(node, ast.ClassDef):
            places[node.name].append(place)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_a_call_has_at_most_five_positional_arguments() -> None:
    calls = [(node, place) for node, place, _ in nodes() if isinstance(node, ast.Call)]
    assert [f"{place} {ast.unparse(node.func)}" for node, place in calls if len(node.args) > MOST_POSITIONAL] == []


def test_a_function_fits_on_two_screens() -> None:
    lengths = [((node.end_lineno or 0) - node.lineno + 1, f"{place} {node.name}") for node, place, _ in functions()]
    assert [place for length, place in lengths if length > LONGEST_FUNCTION] == []


def test_few_functions_stand_inside_others() -> None:
    found = functions()
    nested = [place for _, place, is_inside in found if is_inside]
    assert len(nested) <= MOST_NESTED * len(found), nested
