"""Rule checks: criteria that are verified by executing them, not by asking a judge.

A small closed set. Each rule is a frozen model that is validated when a rubric
is loaded, so a rule that can't run never reaches training:

    {"rule": "contains_any", "terms": ["doctor", "GP"]}
    {"rule": "word_count", "min": 30, "max": 80}

`check(text)` returns whether the text satisfies the rule and the evidence in
words. The text is a policy's output, hence hostile: every pattern runs with a
time limit, and running out of it is a failure of the rule, not of the answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import regex
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from rubric_rl.errors import DataError

# Long enough for any sane pattern on an answer of some thousand words; short
# enough that a batch of hostile answers can't stall a judge worker.
PATTERN_TIMEOUT_S = 1.0

_WORD = regex.compile(r"\w+(?:[\u2019'\-]\w+)*")
_SENTENCE_END = regex.compile(r"[.!?]+(?=[\s\"')\]]|$)")
_BULLET_ITEM = regex.compile(r"(?m)^[ \t]*[-*\u2022][ \t]+\S")
_NUMBERED_ITEM = regex.compile(r"(?m)^[ \t]*\d{1,2}[.)][ \t]+\S")
_NUMBER = regex.compile(r"\d+(?:[.,]\d+)*")


class RuleOutcome(NamedTuple):
    """Whether the text satisfies the rule, and the evidence."""

    met: bool
    reason: str


class RuleTimeoutError(Exception):
    """A pattern ran out of its time limit."""


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def check(self, text: str) -> RuleOutcome:
        """Apply the rule to `text`. Raises RuleTimeoutError."""
        try:
            return self._check(text)
        except TimeoutError as err:
            raise RuleTimeoutError(str(self)) from err

    def _check(self, text: str) -> RuleOutcome:
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, as a rubric file holds it."""
        return self.model_dump(mode="json", exclude_defaults=False)


def _no_blank_term(terms: tuple[str, ...]) -> tuple[str, ...]:
    # Every text contains a blank term, and starts and ends with it.
    if any(not term.strip() for term in terms):
        raise ValueError("a term is blank")
    return terms


Terms = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_no_blank_term)]


class _Terms(_Rule):
    """Terms match whole words, so that "rest" is not found in "interest"."""

    terms: Terms
    ignore_case: bool = True

    def _found(self, text: str) -> list[str]:
        flags = regex.IGNORECASE if self.ignore_case else 0
        return [
            term
            for term in self.terms
            if regex.search(
                rf"(?<!\w){regex.escape(term)}(?!\w)", text, flags, timeout=PATTERN_TIMEOUT_S
            )
        ]


class ContainsAny(_Terms):
    """At least `min_count` of the terms occur."""

    rule: Literal["contains_any"] = "contains_any"
    min_count: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _reachable(self) -> ContainsAny:
        if self.min_count > len(self.terms):
            raise ValueError(f"min_count is {self.min_count} but there are {len(self.terms)} terms")
        return self

    def _check(self, text: str) -> RuleOutcome:
        found = self._found(text)
        return RuleOutcome(len(found) >= self.min_count, f"found {found}, need {self.min_count}")


class ContainsAll(_Terms):
    """Every term occurs."""

    rule: Literal["contains_all"] = "contains_all"

    def _check(self, text: str) -> RuleOutcome:
        missing = sorted(set(self.terms) - set(self._found(text)))
        return RuleOutcome(not missing, f"missing {missing}" if missing else "all terms found")


class ContainsNone(_Terms):
    """No term occurs, in an answer that is not empty."""

    rule: Literal["contains_none"] = "contains_none"

    def _check(self, text: str) -> RuleOutcome:
        if not text.strip():
            return RuleOutcome(False, "the answer is empty")
        found = self._found(text)
        return RuleOutcome(not found, f"found {found}" if found else "no term found")


class Matches(_Rule):
    """The pattern is found somewhere in the text (`regex` module syntax)."""

    rule: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1)
    ignore_case: bool = False

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error as err:
            raise ValueError(f"pattern {pattern!r} does not compile: {err}") from err
        return pattern

    def _check(self, text: str) -> RuleOutcome:
        flags = regex.IGNORECASE if self.ignore_case else 0
        match = regex.search(self.pattern, text, flags, timeout=PATTERN_TIMEOUT_S)
        return RuleOutcome(match is not None, f"matched {match[0]!r}" if match else "no match")


class _Affix(_Rule):
    terms: Terms
    ignore_case: bool = True

    def _fold(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text


class StartsWith(_Affix):
    """The text, stripped, starts with one of the terms."""

    rule: Literal["starts_with"] = "starts_with"

    def _check(self, text: str) -> RuleOutcome:
        stripped = self._fold(text.strip())
        met = any(stripped.startswith(self._fold(term)) for term in self.terms)
        return RuleOutcome(met, f"starts with {text.strip()[:20]!r}")


class EndsWith(_Affix):
    """The text, stripped, ends with one of the terms."""

    rule: Literal["ends_with"] = "ends_with"

    def _check(self, text: str) -> RuleOutcome:
        stripped = self._fold(text.strip())
        met = any(stripped.endswith(self._fold(term)) for term in self.terms)
        return RuleOutcome(met, f"ends with {text.strip()[-20:]!r}")


class _Count(_Rule):
    min: int = Field(default=0, ge=0)
    max: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _bounded(self) -> _Count:
        if self.min == 0 and self.max is None:
            raise ValueError("needs min, max or both")
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self

    def _count(self, text: str) -> int:
        raise NotImplementedError

    def _check(self, text: str) -> RuleOutcome:
        count = self._count(text)
        met = count >= self.min and (self.max is None or count <= self.max)
        bounds = f"at least {self.min}" if self.max is None else f"{self.min} to {self.max}"
        return RuleOutcome(met, f"counted {count}, want {bounds}")


class WordCount(_Count):
    """Number of words."""

    rule: Literal["word_count"] = "word_count"

    def _count(self, text: str) -> int:
        return len(_WORD.findall(text, timeout=PATTERN_TIMEOUT_S))


class SentenceCount(_Count):
    """Number of sentences that end in . ! or ?"""

    rule: Literal["sentence_count"] = "sentence_count"

    def _count(self, text: str) -> int:
        return len(_SENTENCE_END.findall(text, timeout=PATTERN_TIMEOUT_S))


class ParagraphCount(_Count):
    """Number of blocks separated by blank lines."""

    rule: Literal["paragraph_count"] = "paragraph_count"

    def _count(self, text: str) -> int:
        return sum(1 for block in regex.split(r"\n\s*\n", text) if block.strip())


class ListItems(_Count):
    """Number of list items: lines that start with a bullet or a number."""

    rule: Literal["list_items"] = "list_items"
    style: Literal["bullet", "numbered", "any"] = "any"

    def _count(self, text: str) -> int:
        bullets = len(_BULLET_ITEM.findall(text, timeout=PATTERN_TIMEOUT_S))
        numbered = len(_NUMBERED_ITEM.findall(text, timeout=PATTERN_TIMEOUT_S))
        return {"bullet": bullets, "numbered": numbered, "any": bullets + numbered}[self.style]


class QuestionCount(_Count):
    """Number of question marks that end a question."""

    rule: Literal["question_count"] = "question_count"

    def _count(self, text: str) -> int:
        return len(regex.findall(r"\?+", text, timeout=PATTERN_TIMEOUT_S))


class NumberCount(_Count):
    """Number of numerals, such as 30, 1,000 or 2.5; list markers count too."""

    rule: Literal["number_count"] = "number_count"

    def _count(self, text: str) -> int:
        return len(_NUMBER.findall(text, timeout=PATTERN_TIMEOUT_S))


RuleCheck = (
    ContainsAny
    | ContainsAll
    | ContainsNone
    | Matches
    | StartsWith
    | EndsWith
    | WordCount
    | SentenceCount
    | ParagraphCount
    | ListItems
    | QuestionCount
    | NumberCount
)

_ADAPTER: TypeAdapter[RuleCheck] = TypeAdapter(Annotated[RuleCheck, Field(discriminator="rule")])


def parse_rule(raw: object) -> RuleCheck:
    """Validate the JSON form of a rule.

    Raises:
        DataError: names the rule received, what is wrong and which rules exist.
    """
    try:
        return _ADAPTER.validate_python(raw)
    except ValidationError as err:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in e['loc'][1:]) or 'rule'}: {e['msg']}"
            for e in err.errors()
        )
        names = ", ".join(RULE_NAMES)
        raise DataError(f"rule check {raw!r} is not valid: {problems} (rules: {names})") from err


RULE_NAMES: tuple[str, ...] = (
    "contains_any",
    "contains_all",
    "contains_none",
    "regex",
    "starts_with",
    "ends_with",
    "word_count",
    "sentence_count",
    "paragraph_count",
    "list_items",
    "question_count",
    "number_count",
)
