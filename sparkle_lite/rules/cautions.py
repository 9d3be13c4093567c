"""What is said about rules that are valid, where their writer should look again: expressions that may take for ever in
a client, and scripts whose brackets don't match.

`config check` prints it and still succeeds: of the language of scripts no more is read here than that.
"""

import re
from collections.abc import Iterator

from sparkle_lite.config import Config
from sparkle_lite.errors import Problem
from sparkle_lite.wire.matchers import MatcherError, parse

# What of a script is no code: strings, comments (##), expressions (/…/, where no value stands before to be divided).
_NO_CODE = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*(?P<quote>"?)|'(?:\\.|[^'\\])*(?P<tick>'?))|\#\#[^\n]*"""
    r"""|(?<![\w)\]}"'\s])\s*/(?:\\.|[^/\\\n])+/|(?P<bracket>[()\[\]{}])""",
    re.DOTALL,
)
_PAIRS = {")": "(", "]": "[", "}": "{"}


def cautions(config: Config) -> Iterator[Problem]:
    """Every caution about the rules and exceptions of a configuration. Takes milliseconds for each expression."""
    for section, entries in (("rules", config.rules), ("exceptions", config.exceptions)):
        for number, entry in enumerate(entries):
            for place, item in enumerate(entry.content):
                path = (section, number, "content", place)
                if entry.type in ("peer_id", "client_name") and not isinstance(item, int):
                    if _may_explode(item):
                        yield Problem(
                            path,
                            "on some names this expression may take a client exponential time, because it can read the"
                            " same text in many ways",
                            "let each repetition begin with a sign that can't stand at its end, or write it possessive"
                            " (a++)",
                        )
                elif entry.type == "script" and isinstance(item, str) and (why := unbalanced(item)):
                    yield Problem(path, f"this script looks broken: {why}", "scripts are published as they are; try it")


def _may_explode(item: object) -> bool:
    try:
        return parse(item).may_explode  # type: ignore[arg-type]  # whatever TOML holds
    except MatcherError:
        return False


def unbalanced(script: str) -> str | None:
    """What is wrong with a script's brackets and quotes, None where they match."""
    opened: list[tuple[str, int]] = []
    for token in _NO_CODE.finditer(script):
        line = script.count("\n", 0, token.start()) + 1
        if token["string"]:
            if not (token["quote"] or token["tick"]):
                return f"a {token['string'][0]} in line {line} isn't closed"
        elif (sign := token["bracket"]) in ("(", "[", "{"):
            opened.append((sign, line))
        elif sign:
            if not opened or opened[-1][0] != _PAIRS[sign]:
                return f"a {sign} in line {line} closes nothing"
            opened.pop()
    return f"a {opened[-1][0]} in line {opened[-1][1]} isn't closed" if opened else None
