"""The grammar of peer_id and client_name rules: what PeerBanHelper means by one, and what other clients make of it.

A rule is a JSON object with `method` and `content` (or `min` and `max`); PeerBanHelper loses its whole update over one
that it can't parse, so everything is checked here. Within a category any rule that says FALSE wins over every TRUE,
wherever it stands. Shapes and semantics: PeerBanHelper's RuleParser and its matchers, all releases from 3.2 on.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import msgspec


class MatcherError(ValueError):
    """The text is no rule that PeerBanHelper could parse: `message` says why, `hint` what to write instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}; {hint}")
        self.message = message
        self.hint = hint


class Method(StrEnum):
    """How a rule looks at the text."""

    STARTS_WITH = "STARTS_WITH"
    ENDS_WITH = "ENDS_WITH"
    CONTAINS = "CONTAINS"
    EQUALS = "EQUALS"
    REGEX = "REGEX"
    LENGTH = "LENGTH"


class MatchResult(StrEnum):
    """What a rule says about a text: matched, surely not (the whole category is off), or nothing."""

    TRUE = "TRUE"
    FALSE = "FALSE"
    DEFAULT = "DEFAULT"


_MEANING = {MatchResult.TRUE: True, MatchResult.FALSE: False, MatchResult.DEFAULT: None}
# A prefix shorter than this, read as a substring, would match half the world.
_SHORTEST_SUBSTRING = 3
_LONGEST_CONTENT = 4096
_DEEPEST_IF = 8
_LARGEST_INT = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Matcher:
    """One rule. `content` belongs to every method but LENGTH, which has `minimum` and `maximum` (UTF-16 units)."""

    method: Method
    content: str = ""
    minimum: int = 0
    maximum: int = 0
    hit: MatchResult = MatchResult.TRUE
    miss: MatchResult = MatchResult.DEFAULT
    condition: "Matcher | None" = None

    @property
    def excludes(self) -> bool:
        """Whether it can say FALSE and so switch its whole category off for some texts."""
        return MatchResult.FALSE in (self.hit, self.miss) or (self.condition is not None and self.condition.excludes)

    @property
    def is_plain(self) -> bool:
        """Whether it only ever says TRUE or nothing, without a condition."""
        return self.hit is MatchResult.TRUE and self.miss is MatchResult.DEFAULT and self.condition is None

    def negated(self) -> "Matcher":
        """The same rule as an exclusion: whatever it matched, it now takes out of its category."""
        return replace(self, hit=MatchResult.FALSE)

    def matches(self, text: str) -> bool | None:
        """What PeerBanHelper makes of a text: True, False, or None when the rule says nothing about it.

        Unicode's character classes (`\\p{IsHan}`) are only roughly right here.
        """
        if self.condition is not None and self.condition.matches(text) is False:
            return False
        return _MEANING[self.hit if self._hits(text) else self.miss]

    def _hits(self, text: str) -> bool:
        if self.method is Method.LENGTH:
            return self.minimum <= len(text.encode("utf-16-le", "surrogatepass")) // 2 <= self.maximum
        if self.method is Method.REGEX:
            return _java_pattern(self.content).compiled.fullmatch(text) is not None
        text, content = text.lower(), self.content.lower()
        if self.method is Method.STARTS_WITH:
            return text.startswith(content)
        if self.method is Method.ENDS_WITH:
            return text.endswith(content)
        return text == content if self.method is Method.EQUALS else content in text

    def pbh(self, *, lower_case: bool = False) -> str:
        """The rule as PeerBanHelper reads it: JSON text in one canonical spelling.

        `lower_case` is for releases before 3.3.6, which lower-case the peer's text but not the rule's. `miss` is always
        written out, because its default has not been the same in every build.
        """
        return msgspec.json.encode(self._as_json(lower_case)).decode()

    def _as_json(self, lower_case: bool) -> dict[str, Any]:
        lower = lower_case and self.method not in (Method.REGEX, Method.LENGTH)
        fields: dict[str, Any] = {"method": self.method.value}
        if self.method is Method.LENGTH:
            fields |= {"min": self.minimum, "max": self.maximum}
        else:
            fields["content"] = self.content.lower() if lower else self.content
        if self.hit is not MatchResult.TRUE:
            fields["hit"] = self.hit.value
        fields["miss"] = self.miss.value
        if self.condition is not None:
            fields["if"] = self.condition._as_json(lower_case)
        return fields

    def expression(self) -> str | None:
        """The rule for a client that compares content case-sensitively and reads neither hit, miss nor if.

        Only an expression ignores case there (and matches any part of the text), so every rule becomes an anchored
        one in .NET's dialect. None when it can't be said so.
        """
        pattern = self._anchored() if self.is_unconditional else None
        return None if pattern is None else _object("REGEX", pattern)

    def method_alone(self) -> str | None:
        """The rule for a client that reads nothing of it but method and content, or None when that isn't all of it.

        An expression matches any part of the text in any case there, so it is anchored.
        """
        if not self.is_unconditional:
            return None
        content = self._anchored() if self.method is Method.REGEX else self.content
        return None if content is None or self.method is Method.LENGTH else _object(self.method.value, content)

    def _anchored(self) -> str | None:
        """An expression that means the same where it is looked for anywhere in the text, in any case."""
        literal = _DOTNET_SPECIAL.sub(r"\\\g<0>", self.content)
        match self.method:
            case Method.STARTS_WITH:
                return f"^{literal}"
            # Not $, which also matches before a last line break.
            case Method.ENDS_WITH:
                return rf"{literal}\z"
            case Method.EQUALS:
                return rf"^{literal}\z"
            case Method.CONTAINS:
                return literal
            case Method.REGEX if _java_pattern(self.content).portable:
                return rf"^(?-i:{_ascii_classes(self.content)})\z"
            case _:
                return None

    def substring(self) -> str | None:
        """The rule for a client that takes it for a substring in any case, or None when that would say something else.

        A prefix is let through although the substring may then stand anywhere, unless it is very short.
        """
        if not self.is_unconditional:
            return None
        if self.method is Method.CONTAINS:
            return self.content
        is_prefix = self.method is Method.STARTS_WITH and len(self.content) >= _SHORTEST_SUBSTRING
        return self.content if is_prefix else None

    @property
    def is_unconditional(self) -> bool:
        """Whether it says TRUE of just what its method matches, so that hit, miss and if need not be read."""
        return self.hit is MatchResult.TRUE and self.miss is not MatchResult.TRUE and self.condition is None


def _object(method: str, content: str) -> str:
    return msgspec.json.encode({"method": method, "content": content}).decode()


_DOTNET_SPECIAL = re.compile(r"[\\*+?|{\[()^$.#]")


def category_matches(matchers: Iterable[Matcher], text: str) -> bool:
    """Whether a whole category matches: one FALSE anywhere is final, else one TRUE is enough."""
    verdicts = {matcher.matches(text) for matcher in matchers}
    return True in verdicts and False not in verdicts


# --- Reading ----------------------------------------------------------------------------------------------------------

_EXAMPLE = '{"method":"STARTS_WITH","content":"-XL"}'


def parse(content: str | Mapping[str, Any]) -> Matcher:
    """A rule from what the operator wrote.

    A table or the text of a JSON object is taken as such; any other text means CONTAINS that text, in any case. A bare
    true, false, null or number is refused: PeerBanHelper would match everything or nothing. Raises MatcherError.
    """
    if not isinstance(content, str):
        return _from_object(content, 0)
    text = content.strip()
    if text.startswith("{"):
        try:
            decoded = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise MatcherError(f"{_short(text)} is not valid JSON: {error}", f"write {_EXAMPLE}") from None
        return _from_object(decoded, 0)
    if text.startswith("[") or text.lower() in ("true", "false", "null") or _is_number(text):
        raise MatcherError(
            f"{_short(text)} alone is not a rule", f'write {{"method":"CONTAINS","content":{_json_text(text)}}}'
        )
    return _checked(Matcher(Method.CONTAINS, content))


def _from_object(fields: Mapping[str, Any], depth: int) -> Matcher:
    if depth > _DEEPEST_IF:
        raise MatcherError(f'"if" is nested more than {_DEEPEST_IF} deep', "use fewer conditions")
    method = _word(fields, "method", Method, None)
    own = ("min", "max") if method is Method.LENGTH else ("content",)
    for key in fields:
        if key not in ("method", "hit", "miss", "if", *own):
            raise MatcherError(
                f"{_short(key)} is no key of a {method} rule", f"its keys are {', '.join(own)}, hit, miss, if"
            )
    hit = _word(fields, "hit", MatchResult, MatchResult.TRUE)
    miss = _word(fields, "miss", MatchResult, MatchResult.DEFAULT)
    condition = None
    if "if" in fields:
        if not isinstance(fields["if"], Mapping):
            raise MatcherError('"if" must be a rule', f'write "if": {_EXAMPLE}')
        condition = _from_object(fields["if"], depth + 1)
    if method is Method.LENGTH:
        minimum, maximum = _length_bound(fields, "min"), _length_bound(fields, "max")
        return _checked(Matcher(method, minimum=minimum, maximum=maximum, hit=hit, miss=miss, condition=condition))
    text = fields.get("content")
    if not isinstance(text, str):
        raise MatcherError(f'a {method} rule needs "content" with a text', f"write {_EXAMPLE}")
    return _checked(Matcher(method, text, hit=hit, miss=miss, condition=condition))


def _checked(matcher: Matcher) -> Matcher:
    method, content = matcher.method, matcher.content
    if method is Method.LENGTH:
        if matcher.minimum > matcher.maximum:
            raise MatcherError(f'"min" {matcher.minimum} is larger than "max" {matcher.maximum}', "swap them")
        return matcher
    if len(content) > _LONGEST_CONTENT:
        raise MatcherError(f"the content has {len(content)} characters", f"write at most {_LONGEST_CONTENT}")
    if any("\ud800" <= sign <= "\udfff" for sign in content):
        raise MatcherError(f"{_short(content)} holds half a character", "write whole characters, in UTF-8")
    if not content and method in (Method.STARTS_WITH, Method.ENDS_WITH, Method.CONTAINS):
        raise MatcherError(
            f"an empty {method} rule matches everybody", "write some text, or use EQUALS for empty names"
        )
    if method is Method.REGEX:
        _java_pattern(content)
    return matcher


_Word = TypeVar("_Word", bound=StrEnum)


def _word(fields: Mapping[str, Any], key: str, words: type[_Word], default: _Word | None) -> _Word:
    value = fields.get(key, default)
    if isinstance(value, str) and value in words.__members__:
        return words[value]
    allowed = ", ".join(words.__members__)
    found = f'"{key}" is missing' if key not in fields else f'"{key}" can\'t be {_short(value)}'
    upper = value.upper() if isinstance(value, str) else ""
    raise MatcherError(found, f'write "{upper}"' if upper in words.__members__ else f"use one of {allowed}")


def _length_bound(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_INT:
        raise MatcherError(f'a LENGTH rule needs "{key}" with a whole number from 0', 'write "min":3,"max":64')
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_text(text: str) -> str:
    return msgspec.json.encode(text[:64]).decode()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


# --- Java's regular expressions ---------------------------------------------------------------------------------------


class _JavaPattern(NamedTuple):
    """A Java expression: compiled for Python, and whether .NET reads it the same way."""

    compiled: re.Pattern[str]
    portable: bool


@lru_cache(maxsize=4096)
def _java_pattern(text: str) -> _JavaPattern:
    """Translate a Java expression. Raises MatcherError when Java would surely refuse it."""
    translation = _JavaTranslation(text)
    try:
        # Java's \d, \w, \s and its ignoring of case are ASCII.
        compiled = re.compile(translation.run(), re.ASCII)
    except re.error as error:
        # Java refuses a look-behind without a limit and takes one of bounded length; Python wants a fixed length.
        hint = (
            "write one look-behind for each length" if "look-behind" in error.msg else r"a literal sign is written \("
        )
        raise MatcherError(f"{_short(text)} is no valid regular expression: {error.msg}", hint) from None
    except (RecursionError, OverflowError):
        raise MatcherError(f"{_short(text)} is too complex a regular expression", "make it simpler") from None
    return _JavaPattern(compiled, translation.portable)


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


def _ascii_classes(text: str) -> str:
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
            self.flags.append([])
            return f"(?P<{match[1]}>"
        if match := self._take(_FLAGS):
            return self._inline_flags(match)
        match = self._take(_PLAIN_GROUP)
        if match is None:
            opening = self.text[self.at : self.at + 3]
            raise MatcherError(
                f"{_short(self.text)}: Java doesn't know {opening!r}", "use (?:…), (?=…), (?!…) or (?<name>…)"
            )
        self.flags.append([])
        return match[0]

    def _inline_flags(self, match: re.Match[str]) -> str:
        on, off = match[1], match[2] or ""
        self.portable &= not set(on + off) & set("duxU")
        on, off = ("".join(flag for flag in "imsx" if flag in flags) for flags in (on, off))
        opening = f"(?{on}{'-' + off if off else ''}:"
        if match[3] == ":":
            self.flags.append([])
        else:
            # Flags alone hold up to the end of the group they stand in; in Python they need a group of their own.
            self.flags[-1].append(opening)
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
