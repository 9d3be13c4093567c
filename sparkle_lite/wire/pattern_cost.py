"""What an expression may cost: how large it becomes, and whether it may take exponential time on some text.

It may where a text can be read in two ways within one repetition: `(a+)+`, `(a|aa)*`, `(\\w|\\d)*`. Each further sign
then doubles the ways that are tried before the expression gives up. The expression is made an automaton whose states
are its single signs (Glushkov's construction), and two readings are two different ways round from a state to itself.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

# Beyond so many signs, or ways between pairs of them, nothing is said.
_MOST_STATES, _MOST_WAYS = 400, 300_000

# A repetition with an end is written out as so many copies; with more than this it counts as one without.
_COPIES, _MANY = 6, 12

# Signs that stand for all: those of ASCII, and a few beyond it. Those that an expression names are added.
_ALPHABET = "".join(map(chr, range(128))) + "\x85\xa0\u2028\xe9\u8fc5"
_TOKEN = re.compile(
    r"(?P<back>\\[1-9][0-9]?|\(\?P=\w+\))"
    r"|(?P<open>\((?:\?(?:[:=!>]|<[=!]|P<\w+>|[a-z]*(?:-[a-z]+)?:))?)|(?P<close>\))|(?P<choice>\|)"
    r"|(?P<repeat>(?:[*+?]|\{(?P<low>\d+)(?P<comma>,(?P<high>\d*))?\})(?P<how>[+?]?))"
    r"|(?P<nothing>\^|\$|\\[bBAZ])"
    r"|(?P<sign>\[\^?(?:\\.|[^\]\\])*\]|\\.|.)",
    re.DOTALL,
)


class _TooComplex(Exception):
    """The expression has too many signs to be judged."""


class _Sign(NamedTuple):
    """One sign of a set; a bit for each letter of the alphabet that is in it."""

    letters: int


class _Sequence(NamedTuple):
    parts: "Sequence[_Node]"


class _Choice(NamedTuple):
    options: "Sequence[_Node]"


class _Repeat(NamedTuple):
    """`high` is None without an end."""

    body: "_Node"
    low: int
    high: int | None


class _Apart(NamedTuple):
    """What is looked at by itself and never tried again: for the rest it is nothing, or one of its signs."""

    body: "_Node"
    takes: bool


_Node: TypeAlias = _Sign | _Sequence | _Choice | _Repeat | _Apart


def expansion(python: str) -> int:
    """How many signs a valid expression (in Python's spelling) has when its repetitions are written out."""
    return _size(_Parser(python).tree)


def may_explode(python: str) -> bool:
    """Whether a valid expression (in Python's spelling) may take exponential time; not when it is hard to say."""
    waiting = [_Parser(python).tree]
    while waiting:
        automaton = _Automaton()
        try:
            automaton.add(waiting.pop())
            if automaton.is_ambiguous():
                return True
        except _TooComplex:
            continue
        waiting += automaton.apart
    return False


class _Parser:
    """Reads an expression that Python takes."""

    def __init__(self, python: str) -> None:
        self._alphabet = "".join(dict.fromkeys(_ALPHABET + python))
        self._sets: dict[str, int] = {}
        self._tokens = list(_TOKEN.finditer(python))
        self._at = 0
        self.tree = self._choice("")

    def _choice(self, flags: str) -> _Node:
        """Up to the end of a group; `flags` are the openings of the groups around it that set flags."""
        options: list[list[_Node]] = [[]]
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            self._at += 1
            match token.lastgroup:
                case "close":
                    break
                case "choice":
                    options.append([])
                case "open":
                    options[-1].append(self._group(token[0], flags))
                case "repeat":
                    options[-1].append(_repeated(options[-1].pop(), token))
                case "nothing":
                    options[-1].append(_Sequence(()))
                case "back":
                    options[-1].append(_Sign((1 << len(self._alphabet)) - 1))
                case _:
                    options[-1].append(_Sign(self._set(token[0], flags)))
        return _Choice([_Sequence(parts) for parts in options])

    def _group(self, opening: str, flags: str) -> _Node:
        sets_flags = opening.endswith(":") and opening != "(?:"
        body = self._choice(flags + opening if sets_flags else flags)
        if opening in ("(?=", "(?!", "(?<=", "(?<!", "(?>"):
            return _Apart(body, takes=opening == "(?>")
        return body

    def _set(self, sign: str, flags: str) -> int:
        written = f"{flags}{sign}{')' * flags.count('(')}"
        if written not in self._sets:
            found = re.compile(written, re.ASCII).finditer(self._alphabet)
            self._sets[written] = sum(1 << match.start() for match in found)
        return self._sets[written]


def _repeated(body: _Node, token: re.Match[str]) -> _Node:
    low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(token["repeat"][0], (0, None))
    if token["low"]:
        low = int(token["low"])
        high = low if token["comma"] is None else int(token["high"]) if token["high"] else None
    repeat = _Repeat(body, low, high)
    return _Apart(repeat, takes=True) if token["how"] == "+" else repeat


def _size(node: _Node) -> int:
    match node:
        case _Sign():
            return 1
        case _Sequence(nodes) | _Choice(nodes):
            return sum(map(_size, nodes))
        case _Repeat(body, low, _):
            return max(1, low) * max(1, _size(body))
        case _Apart(body, _):
            return _size(body)


def _letters(node: _Node) -> int:
    """All letters that stand anywhere in it."""
    match node:
        case _Sign(letters):
            return letters
        case _Sequence(nodes) | _Choice(nodes):
            found = 0
            for part in nodes:
                found |= _letters(part)
            return found
        case _Repeat(body, _, _) | _Apart(body, _):
            return _letters(body)


class _Stretch(NamedTuple):
    """A piece of the automaton: whether it can be nothing, and the states that it begins and ends with."""

    empty: bool
    first: tuple[int, ...]
    last: tuple[int, ...]


_NOTHING = _Stretch(True, (), ())


class _Automaton:
    """The states of an expression, which letters each takes, and how many ways lead from one to the next."""

    def __init__(self) -> None:
        self._letters: list[int] = []
        self._ways: Counter[tuple[int, int]] = Counter()
        self.apart: list[_Node] = []

    def add(self, node: _Node) -> _Stretch:
        """Add a part of the expression. Raises _TooComplex."""
        match node:
            case _Sign(letters):
                return self._state(letters)
            case _Sequence(parts):
                joined = _NOTHING
                for part in parts:
                    joined = self._then(joined, self.add(part))
                return joined
            case _Choice(options):
                return _either(self.add(option) for option in options)
            case _Repeat(body, low, high):
                return self._repeat(body, low, high)
            case _Apart(body, takes):
                self.apart.append(body)
                # It may take many signs, or none: for what is around it, one that may be missing.
                return self._state(_letters(body))._replace(empty=True) if takes else _NOTHING

    def _state(self, letters: int) -> _Stretch:
        if len(self._letters) >= _MOST_STATES:
            raise _TooComplex
        state = (len(self._letters),)
        self._letters.append(letters)
        return _Stretch(False, state, state)

    def _then(self, left: _Stretch, right: _Stretch) -> _Stretch:
        self._connect(left.last, right.first)
        return _Stretch(
            left.empty and right.empty,
            left.first + right.first if left.empty else left.first,
            left.last + right.last if right.empty else right.last,
        )

    def _connect(self, last: Iterable[int], first: Sequence[int]) -> None:
        self._ways.update((before, after) for before in last for after in first)
        if len(self._ways) > _MOST_WAYS:
            raise _TooComplex

    def _repeat(self, body: _Node, low: int, high: int | None) -> _Stretch:
        if high is None or (high >= _MANY and not isinstance(body, _Sign)):
            part = self.add(body)
            self._connect(part.last, part.first)
            if high is not None and part.empty:
                # Which of the rounds are the empty ones can be chosen in many ways.
                self._connect(part.last, part.first)
            return part._replace(empty=part.empty or not low)
        joined = _NOTHING
        for copy in range(min(high, _COPIES)):
            part = self.add(body)
            joined = self._then(joined, part if copy < low else part._replace(empty=True))
        return joined

    def is_ambiguous(self) -> bool:
        """Whether two different ways lead from a state back to itself over the same text. Raises _TooComplex."""
        after: list[list[int]] = [[] for _ in self._letters]
        for before, state in self._ways:
            after[before].append(state)
        reach = _reachable(after)
        circle = [mask & sum(1 << b for b in range(len(after)) if reach[b] >> a & 1) for a, mask in enumerate(reach)]
        if any(count > 1 and circle[a] >> b & 1 for (a, b), count in self._ways.items()):
            return True
        inside = [[b for b in states if circle[a] >> b & 1] for a, states in enumerate(after)]
        return self._has_second_way(inside)

    def _has_second_way(self, after: Sequence[Sequence[int]]) -> bool:
        """Whether a pair of different states is reached from a pair of equal ones, and leads back to one.

        The pairs of equal states of one circle all reach each other, so that it need not be the same one.
        """
        before: dict[tuple[int, int], list[tuple[int, int]]] = {}
        waiting = [(state, state) for state, states in enumerate(after) if states]
        seen, ways = set(waiting), 0
        while waiting:
            pair = waiting.pop()
            for a in after[pair[0]]:
                for b in after[pair[1]]:
                    if not self._letters[a] & self._letters[b]:
                        continue
                    ways += 1
                    if ways > _MOST_WAYS:
                        raise _TooComplex
                    following = (a, b) if a <= b else (b, a)
                    before.setdefault(following, []).append(pair)
                    if following not in seen:
                        seen.add(following)
                        waiting.append(following)
        back = [pair for pair in seen if pair[0] == pair[1]]
        leads_back = set(back)
        while back:
            for pair in before.get(back.pop(), ()):
                if pair not in leads_back:
                    leads_back.add(pair)
                    back.append(pair)
        return any(a != b for a, b in leads_back)


def _either(parts: Iterable[_Stretch]) -> _Stretch:
    found = list(parts)
    return _Stretch(
        any(part.empty for part in found),
        tuple(state for part in found for state in part.first),
        tuple(state for part in found for state in part.last),
    )


def _reachable(after: Sequence[Sequence[int]]) -> list[int]:
    """For each state a bit for every state that it leads to, over one way or more."""
    reach = [sum(1 << state for state in set(states)) for states in after]
    for middle in range(len(after)):
        bit, beyond = 1 << middle, reach[middle]
        for state, mask in enumerate(reach):
            if mask & bit:
                reach[state] = mask | beyond
    return reach
