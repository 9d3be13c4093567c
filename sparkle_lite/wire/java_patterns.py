"""Java's regular expressions: read as Java reads them, tried on text within a time limit, and judged by their cost.

Operators write them for PeerBanHelper. What tries one here does it with a library that gives up in time and leaves the
interpreter to others meanwhile; Python's own `re` does neither, and only checks the spelling.
"""

import re
import time
from dataclasses import dataclass
from functools import lru_cache

import regex

from sparkle_lite.wire.pattern_cost import expansion, may_explode

_DEEPEST_GROUP = 100
_LARGEST_EXPANSION = 20_000
# What one expression may take of the time of all: else one that never ends would leave nothing for the others.
_ONE_S = 0.2


class MatcherError(ValueError):
    """The text is no rule that PeerBanHelper could parse: `message` says why, `hint` what to write instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}; {hint}")
        self.message = message
        self.hint = hint


class PatternTimeout(Exception):
    """An expression took too long on a text: nobody knows whether it matches."""


class Patience:
    """How long all expressions of one question may take together, from now on; one of them a fifth of a second."""

    def __init__(self, seconds: float = 1.0) -> None:
        self._until = time.monotonic() + seconds

    def left_s(self) -> float:
        """What is left of it; 0 or less when it is over."""
        return self._until - time.monotonic()


@dataclass(frozen=True, slots=True)
class JavaPattern:
    """A Java expression: how Python spells it, and whether .NET reads it the same way."""

    python: str
    portable: bool
    _compiled: "regex.Pattern[str] | None"

    def matches(self, text: str, patience: Patience) -> bool:
        """Whether it matches the whole text. Raises PatternTimeout when it takes longer than there is patience."""
        left = patience.left_s()
        if left <= 0 or self._compiled is None:
            raise PatternTimeout
        try:
            return self._compiled.fullmatch(text, timeout=min(left, _ONE_S), concurrent=True) is not None
        except TimeoutError:
            raise PatternTimeout from None

    @property
    def may_explode(self) -> bool:
        """Whether it may take exponential time where it is tried as Java does it. Takes some milliseconds."""
        return may_explode(self.python)


@lru_cache(maxsize=4096)
def java_pattern(text: str) -> JavaPattern:
    """Read a Java expression. Raises MatcherError when Java would surely refuse it."""
    translation = _JavaTranslation(text)
    try:
        python = translation.run()
        # Java's \d, \w, \s and its ignoring of case are ASCII.
        re.compile(python, re.ASCII)
        # The library writes repetitions out: `(a{1000}){1000}` would take the machine's memory, and no name matches it.
        is_small = expansion(python) <= _LARGEST_EXPANSION
        compiled = regex.compile(python, regex.ASCII | regex.VERSION0) if is_small else None
    except re.error as error:
        # Java refuses a look-behind without a limit and takes one of bounded length; Python wants a fixed length.
        hint = (
            "write one look-behind for each length" if "look-behind" in error.msg else r"a literal sign is written \("
        )
        raise MatcherError(f"{_short(text)} is no valid regular expression: {error.msg}", hint) from None
    except (RecursionError, OverflowError, MemoryError, regex.error):
        raise MatcherError(f"{_short(text)} is too complex a regular expression", "make it simpler") from None
    return JavaPattern(python, translation.portable, compiled)


# What these mean inside brackets.
_CLASSES = {
    "h": r" \t\xa0\u1680\u180e\u2000-\u200a\u202f\u205f\u3000",
    "v": r"\n\x0b\f\r\x85\u2028\u2029",
    "Lower": "a-z",
    "Upper": "A-Z",
    "ASCII": r"\x00-\x7f",
    "Alpha": "a-zA-Z",
    "Digit": "0-9",
    "Alnum": "a-zA-Z0-9",
    "Punct": r"!-/:-@\[-`{-~",
    "Graph": "!-~",
    "Print": " -~",
    "Blank": r" \t",
    "Cntrl": r"\x00-\x1f\x7f",
    "XDigit": "0-9a-fA-F",
    "Space": r" \t\n\x0b\f\r",
    "L": r"a-zA-Z\xaa-\U0010ffff",
    "Lu": "A-Z\xc0-\xde",
    "Ll": "a-z\xdf-\xff",
    "N": "0-9",
    "Nd": "0-9",
}
# Scripts, blocks and the rest of Unicode's categories: letters beyond ASCII are near enough.
_ANY_SCRIPT = r"\x80-\U0010ffff"
_ASSERTIONS = {"b": r"\b", "B": r"\B", "A": r"\A", "G": r"\A", "z": r"\Z", "Z": r"(?=\n?\Z)"}
_LINE_BREAK = r"(?:\r\n|[\n\x0b\f\r\x85\u2028\u2029])"
_SIMPLE = frozenset("dDwWsSnrtfa")
_QUOTE = re.compile(r"\\Q(.*?)(?:\\E|\Z)", re.DOTALL)
_PROPERTY = re.compile(r"\\[pP](?:\{\^?([^{}]+)\}|([A-Za-z]))")
_CHARACTER = re.compile(
    r"\\(?:x\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|0([0-3]?[0-7]{1,2})|c(.)|(e))", re.DOTALL
)
_GROUP = re.compile(r"\(\?<([a-zA-Z][a-zA-Z0-9]*)>")
_NAMED_REFERENCE = re.compile(r"\\k<([a-zA-Z][a-zA-Z0-9]*)>")
_PLAIN_GROUP = re.compile(r"\((?:\?(?:[:=!>]|<[=!]))?(?!\?)")
_FLAGS = re.compile(r"\(\?([idmsuxU]*)(?:-([idmsuxU]*))?([:)])")
_QUANTIFIER = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\})([+?]?)")


# Java's are ASCII; .NET's are Unicode, and its dot stops at one line break only.
_ASCII = {"d": "0-9", "w": "A-Za-z0-9_", "s": r" \t\n\x0b\f\r"}
_WORD = f"[{_ASCII['w']}]"
_OUTSIDE = {
    **{letter: f"[{body}]" for letter, body in _ASCII.items()},
    **{letter.upper(): f"[^{body}]" for letter, body in _ASCII.items()},
    "b": f"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))",
    "B": f"(?:(?<={_WORD})(?={_WORD})|(?<!{_WORD})(?!{_WORD}))",
    "Z": r"(?=\n?\z)",
}
_DOT = r"[^\n\r\x85\u2028\u2029]"
_SIGN = re.compile(r"\\.|.", re.DOTALL)
_DOTALL = re.compile(r"\(\?[a-z]*s")


def dotnet_spelling(text: str) -> str:
    """A portable Java expression with its classes written out, so that .NET takes them for Java's."""
    written: list[str] = []
    in_brackets = follows_class = False
    any_sign = _DOTALL.search(text) is not None
    for sign in _SIGN.findall(text):
        letter = sign[1:]
        if in_brackets:
            # Behind a class a dash is only a dash.
            written.append(r"\-" if sign == "-" and follows_class else _ASCII.get(letter, sign))
        else:
            written.append(_DOT if sign == "." and not any_sign else _OUTSIDE.get(letter, sign))
        follows_class = in_brackets and letter in _ASCII
        in_brackets = sign == "[" or (in_brackets and sign != "]")
    return "".join(written)


class _JavaTranslation:
    """One pass over a Java expression that writes Python's spelling of it.

    `portable` turns False at the first construct that .NET doesn't know or understands otherwise.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.portable = True
        # Java's dot stops at every line break, unless a flag says otherwise.
        self.dot = "." if _DOTALL.search(text) else _DOT
        # Per open group: the inline flags (`(?i)`) in force up to its end.
        self.flags: list[list[str]] = [[]]

    def run(self) -> str:
        written: list[str] = []
        while self.at < len(self.text):
            written.append(self._next())
        return "".join(written) + ")" * len(self.flags[0])

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        return match

    def _next(self) -> str:
        sign = self.text[self.at]
        if sign == "\\":
            return self._escape()
        if sign == "[":
            return self._class()
        if sign == "(":
            return self._open()
        if sign in "*+?{":
            return self._quantifier()
        self.at += 1
        if sign == ")":
            closed = self.flags.pop() if len(self.flags) > 1 else []
            return ")" * (len(closed) + 1)
        if sign == "|":
            return ")" * len(self.flags[-1]) + "|" + "".join(self.flags[-1])
        if sign == ".":
            return self.dot
        return sign if sign in "^$" or sign.isalnum() else re.escape(sign)

    def _quantifier(self) -> str:
        match = self._take(_QUANTIFIER)
        if match is None:
            raise MatcherError(f"{_short(self.text)}: Java takes {{ for a repetition", r"write \{ for the sign itself")
        self.portable &= match[1] != "+"
        return match[0]

    def _open(self) -> str:
        if match := self._take(_GROUP):
            self._enter()
            return f"(?P<{match[1]}>"
        if match := self._take(_FLAGS):
            return self._inline_flags(match)
        match = self._take(_PLAIN_GROUP)
        if match is None:
            opening = self.text[self.at : self.at + 3]
            raise MatcherError(
                f"{_short(self.text)}: Java doesn't know {opening!r}", "use (?:…), (?=…), (?!…) or (?<name>…)"
            )
        self._enter()
        return match[0]

    def _enter(self) -> None:
        self.flags.append([])
        self._check_depth()

    def _check_depth(self) -> None:
        if len(self.flags) + sum(map(len, self.flags)) > _DEEPEST_GROUP:
            raise MatcherError(f"{_short(self.text)} has groups in groups, too deep", "make it simpler")

    def _inline_flags(self, match: re.Match[str]) -> str:
        on, off = match[1], match[2] or ""
        self.portable &= not set(on + off) & set("duxU")
        on, off = ("".join(flag for flag in "imsx" if flag in flags) for flags in (on, off))
        opening = f"(?{on}{'-' + off if off else ''}:"
        if match[3] == ":":
            self._enter()
        else:
            # Flags alone hold up to the end of the group they stand in; in Python they need a group of their own.
            self.flags[-1].append(opening)
            self._check_depth()
        return opening

    def _escape(self) -> str:
        if match := self._take(_QUOTE):
            self.portable = False
            return "".join(re.escape(sign) for sign in match[1])
        if match := self._take(_NAMED_REFERENCE):
            return f"(?P={match[1]})"
        if (character := self._character()) is not None:
            return re.escape(character)
        if (body := self._class_body()) is not None:
            return body
        letter = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if letter in _ASSERTIONS and letter:
            return _ASSERTIONS[letter]
        if letter in ("R", "X"):
            self.portable = False
            return _LINE_BREAK if letter == "R" else "."
        if letter.isdigit() and letter != "0":
            return f"\\{letter}"
        return self._literal(letter)

    def _literal(self, letter: str) -> str:
        if not letter or (letter.isascii() and letter.isalnum()):
            raise MatcherError(f"{_short(self.text)}: Java doesn't know \\{letter}", r"write \\ for a backslash itself")
        return re.escape(letter)

    def _character(self) -> str | None:
        """A single character that is written by its number."""
        match = self._take(_CHARACTER)
        if match is None:
            return None
        braced, short, long, octal, control, _ = match.groups()
        self.portable &= braced is None and octal is None
        if control:
            return chr(ord(control) ^ 64)
        number = int(octal, 8) if octal else int(braced or short or long or "1b", 16)
        if number > 0x10FFFF:
            raise MatcherError(f"{_short(self.text)}: {match[0]} is no character", "the largest is \\x{10ffff}")
        return chr(number)

    def _class_body(self) -> str | None:
        """A predefined set of characters (`\\d`, `\\h`, `\\p{L}`), usable inside and outside brackets."""
        letter = self.text[self.at + 1 : self.at + 2]
        if letter and letter in _SIMPLE:
            self.at += 2
            return f"\\{letter}"
        if letter and letter in "hHvV":
            self.at += 2
            body = _CLASSES[letter.lower()]
        elif match := self._take(_PROPERTY):
            name = (match[1] or match[2]).removeprefix("Is")
            body = _CLASSES.get(name, _CLASSES["L"] if name in ("Alphabetic", "Letter") else _ANY_SCRIPT)
        else:
            return None
        self.portable = False
        return f"[^{body}]" if letter.isupper() else f"[{body}]"

    # Java's brackets nest and intersect: `[a-z&&[^aeiou]]`. Each becomes an alternation of plain brackets.

    def _class(self) -> str:
        self.at += 1
        negated = self.text.startswith("^", self.at)
        self.at += negated
        sets = [self._union(True)]
        while self.text.startswith("&&", self.at):
            self.portable = False
            self.at += 2
            sets.append(self._union(False))
        self.at += 1
        sets = [one for one in sets if one]
        if not sets:
            raise MatcherError(f"{_short(self.text)}: empty brackets", "write the characters between them")
        if len(sets) == 1 and sets[0].startswith("[") and not sets[0].startswith("[^"):
            return f"[^{sets[0][1:]}" if negated else sets[0]
        both = "".join(f"(?={one})" for one in sets[:-1]) + sets[-1]
        return f"(?:(?!{both})[\\s\\S])" if negated else f"(?:{both})"

    def _union(self, first: bool) -> str:
        """The sets up to `]` or `&&` as one expression for one character; "" for none."""
        plain: list[str] = []
        nested: list[str] = []
        while not (self.text.startswith("&&", self.at) or (self.text.startswith("]", self.at) and not first)):
            if self.at >= len(self.text):
                raise MatcherError(f"{_short(self.text)}: a [ isn't closed", r"write \[ for the sign itself")
            self._member(plain, nested)
            first = False
        sets = ([f"[{''.join(plain)}]"] if plain else []) + nested
        return sets[0] if len(sets) == 1 else f"(?:{'|'.join(sets)})" if sets else ""

    def _member(self, plain: list[str], nested: list[str]) -> None:
        sign = self.text[self.at]
        if sign == "[":
            self.portable = False
            nested.append(self._class())
            return
        if sign != "\\":
            self.at += 1
            plain.append(sign if sign == "-" or sign.isalnum() else re.escape(sign))
            return
        if match := self._take(_QUOTE):
            self.portable = False
            plain.extend(re.escape(quoted) for quoted in match[1])
        elif (character := self._character()) is not None:
            plain.append(re.escape(character))
        elif (body := self._class_body()) is not None:
            # The complement of ASCII's class can't be written out between others.
            self.portable &= not (body.startswith("\\") and body[1] in "DWS")
            (nested if body.startswith("[") else plain).append(body)
            # A dash behind a set is only a dash.
            if re.match(r"-(?!\])", self.text[self.at :]) and body.startswith("\\"):
                self.at += 1
                plain.append("\\-")
        else:
            self.at += 2
            plain.append(self._literal(self.text[self.at - 1 : self.at]))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
