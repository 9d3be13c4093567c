"""The grammar of peer_id and client_name rules: what PeerBanHelper means by one, and what other clients make of it.

A rule is a JSON object with `method` and `content` (or `min` and `max`); PeerBanHelper loses its whole update over one
that it can't parse, so everything is checked here. Within a category any rule that says FALSE wins over every TRUE,
wherever it stands. Shapes and semantics: PeerBanHelper's RuleParser and its matchers, all releases from 3.2 on.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from sparkle_lite.wire.java_patterns import MatcherError as MatcherError
from sparkle_lite.wire.java_patterns import Patience as Patience
from sparkle_lite.wire.java_patterns import PatternTimeout as PatternTimeout
from sparkle_lite.wire.java_patterns import dotnet_spelling, java_pattern


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

    @property
    def may_explode(self) -> bool:
        """Whether one of its expressions may take exponential time in a client. Takes some milliseconds."""
        if self.condition is not None and self.condition.may_explode:
            return True
        return self.method is Method.REGEX and java_pattern(self.content).may_explode

    def negated(self) -> "Matcher":
        """The same rule as an exclusion: whatever it matched, it now takes out of its category."""
        return replace(self, hit=MatchResult.FALSE)

    def matches(self, text: str, patience: Patience | None = None) -> bool | None:
        """What PeerBanHelper makes of a text: True, False, or None when the rule says nothing about it.

        Unicode's character classes (`\\p{IsHan}`) are only roughly right here. An expression may take long: call it
        off the event loop. Raises PatternTimeout when there is no more patience (a second of its own without one).
        """
        patience = patience or Patience()
        if self.condition is not None and self.condition.matches(text, patience) is False:
            return False
        return _MEANING[self.hit if self._hits(text, patience) else self.miss]

    def _hits(self, text: str, patience: Patience) -> bool:
        if self.method is Method.LENGTH:
            return self.minimum <= len(text.encode("utf-16-le", "surrogatepass")) // 2 <= self.maximum
        if self.method is Method.REGEX:
            return java_pattern(self.content).matches(text, patience)
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
            case Method.REGEX if java_pattern(self.content).portable:
                return rf"^(?-i:{dotnet_spelling(self.content)})\z"
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


def category_verdict(verdicts: Iterable[bool | None]) -> bool:
    """Whether a whole category matches, from what its rules say: one FALSE is final, else one TRUE is enough."""
    said = set(verdicts)
    return True in said and False not in said


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
        java_pattern(content)
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
