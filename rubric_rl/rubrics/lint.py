"""What is doubtful about rubrics that are valid.

A lint never changes a rubric: each finding is a sentence for the person who owns
it. The kinds are in KINDS. Words are read as English and are only ever grounds
for a doubt; in particular polarity is what its field says, whatever the text.

Criteria are compared within their rubric only, so the cost grows with the number
of rubrics and not with its square.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

from rubric_rl.types import Criterion, PromptRecord, Rubric

FindingKind = Literal[
    "duplicate",
    "near_duplicate",
    "stacked",
    "vague",
    "outside_reference",
    "weights",
    "polarity_doubt",
    "too_many",
    "too_long",
]

KINDS: dict[FindingKind, str] = {
    "duplicate": "two criteria of a rubric have the same text, but for case and punctuation",
    "near_duplicate": "two criteria of a rubric are about the same thing: it counts twice",
    "stacked": "several demands in one criterion: part of them can be met and part not",
    "vague": "a quality is asked for and nothing that could be checked",
    "outside_reference": "refers to what a judge does not see: other criteria, a reference answer",
    "weights": "one criterion holds more than half of the weight",
    "polarity_doubt": "worded as a fault but good to meet, or as a virtue but bad to meet",
    "too_many": "more criteria than a judge can be expected to hold apart",
    "too_long": "longer than one statement needs",
}
"""Each kind with what it means."""

MAX_CRITERIA = 40
MAX_CHARS = 600
NEAR_DUPLICATE = 0.7
"""Least share of content words that two criteria have in common, of all that either has."""
MIN_CONTENT_WORDS = 3
"""Criteria with fewer content words are never near duplicates: one word decides too much."""
MAX_WEIGHT_SHARE = 0.5
MIN_CRITERIA_FOR_WEIGHTS = 3
"""Of two criteria with unequal weights one always holds more than half."""


# Wording is looked at as far as this, so that no text can make a pattern slow.
_READ_CHARS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One doubt."""

    prompt_id: str
    cid: str | None
    """None: it is about the rubric as a whole."""
    kind: FindingKind
    detail: str


class _Doubt(NamedTuple):
    """A finding before it knows its prompt."""

    cid: str | None
    kind: FindingKind
    detail: str


def lint_rubrics(
    rubrics: Iterable[Rubric], records: Mapping[str, PromptRecord] | None = None
) -> list[Finding]:
    """All findings: rubrics in their order, kinds in the order of KINDS within each.

    Args:
        rubrics: The rubrics to look at.
        records: Their prompts by id, where they are at hand. With them it can be told
            whether there is a reference answer or an earlier turn to refer to.
    """
    findings: list[Finding] = []
    for rubric in rubrics:
        record = None if records is None else records.get(rubric.prompt_id)
        doubts = sorted(_doubts(rubric, record), key=lambda doubt: _ORDER[doubt.kind])
        findings += [Finding(prompt_id=rubric.prompt_id, **doubt._asdict()) for doubt in doubts]
    return findings


_ORDER = {kind: position for position, kind in enumerate(KINDS)}


def _doubts(rubric: Rubric, record: PromptRecord | None) -> Iterator[_Doubt]:
    yield from _repeated(rubric.criteria)
    yield from _weights(rubric.criteria)
    if len(rubric.criteria) > MAX_CRITERIA:
        yield _Doubt(None, "too_many", f"{len(rubric.criteria)} criteria, want {MAX_CRITERIA}")
    for criterion in rubric.criteria:
        yield from _text_doubts(criterion, record)


def _text_doubts(criterion: Criterion, record: PromptRecord | None) -> Iterator[_Doubt]:
    # A rule is executed, so its text need not be fit for a judge.
    text = "" if criterion.rule is not None else criterion.text
    read = text[:_READ_CHARS]
    checks: tuple[tuple[FindingKind, str | None], ...] = (
        ("stacked", _stacked(read)),
        ("vague", _vague(read)),
        ("outside_reference", _outside_reference(read, record)),
        ("polarity_doubt", _polarity_doubt(criterion)),
        ("too_long", _too_long(text)),
    )
    for kind, detail in checks:
        if detail is not None:
            yield _Doubt(criterion.cid, kind, detail)


# ----------------------------------------------------------------------------
# Words

_WORD = re.compile(r"[^\W_]+(?:['\u2019.-][^\W_]+)*")
_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
# In single quotes only between spaces: an apostrophe is no quotation mark.
_QUOTED = re.compile(r"\"[^\"]*\"|\u201c[^\u201d]*\u201d|(?<!\w)'[^']*'(?!\w)")


def _list(words: str) -> frozenset[str]:
    return frozenset(words.split())


_FUNCTION_WORDS = _list(
    "a an the this that these those it its he she they their them his her we our you your i me my "
    "and or but nor so if then than when while where who whom whose which what how why whether "
    "of in on at to for from by with without within as into onto about over under between through "
    "during before after against per via is are was were be been being am do does did done has "
    "have had having can could may might must shall should will would not no never any all each "
    "every both some such only also too very more most less least other another same there here "
    "up down out off again both either neither just even still yet"
)
# How a criterion says that something is said: two criteria that differ in these alone
# are about the same thing.
_REPORTING = _list(
    "mention mentions mentioned mentioning state states stating say says tell tells inform informs "
    "explain explains explaining describe describes describing discuss discusses note notes "
    "advise advises advising recommend recommends recommending suggest suggests suggesting "
    "provide provides providing give gives giving include includes including included list lists "
    "listing offer offers present presents clarify clarifies highlight highlights emphasize "
    "emphasizes emphasise emphasises indicate indicates outline outlines acknowledge acknowledges "
    "address addresses cover covers specify specifies identify identifies point points contain "
    "contains make makes use uses using ask asks asking seek seeks inquire inquires fail fails "
    "failing failed omit omits neglect neglects miss misses avoid avoids "
    "correctly accurately clearly explicitly briefly appropriately incorrectly inaccurately"
)
_ANYTHING = _list(
    "response responses answer answers reply replies output completion model assistant user users "
    "user's reader question questions query prompt request requests task information content "
    "explanation explanations communication language wording text detail details level amount way "
    "manner tone style quality instruction instructions follows follow requested request component "
    "components context needs need part parts aspect aspects thing things point points advice "
    "overall communicates communicate written formatted structured sounds sound feels feel remains "
    "ensures ensure keeps keep one get gets respond responds"
)
_QUALITIES = _list(
    "good better best great excellent outstanding strong high-quality quality helpful useful nice "
    "appropriate appropriately adequate adequately suitable suitably proper properly reasonable "
    "reasonably relevant meaningful valuable insightful thoughtful thorough thoroughly "
    "comprehensive comprehensively complete completely clear clearly concise concisely coherent "
    "well well-written well-structured well-organized effective effectively natural naturally "
    "engaging professional professionally sufficient sufficiently satisfactory decent polite "
    "accurate accurately correct correctly precise precisely simple easy readable understandable"
)


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _without(pattern: re.Pattern[str], text: str) -> str:
    """The text with what matches taken out, nested asides from the inside."""
    while (shorter := pattern.sub(" ", text)) != text:
        text = shorter
    return text


def _content(text: str) -> frozenset[str]:
    """Words that say what a criterion is about, plurals as singulars."""
    words = _words(_without(_ASIDE, text))
    return frozenset(
        word.removesuffix("s")
        for word in words
        if word not in _FUNCTION_WORDS and word not in _REPORTING
    )


def _numbers(words: Iterable[str]) -> frozenset[str]:
    return frozenset(word for word in words if any(ch.isdigit() for ch in word))


# ----------------------------------------------------------------------------
# The rubric as a whole


def _repeated(criteria: tuple[Criterion, ...]) -> Iterator[_Doubt]:
    """Of two that repeat each other the later one is named."""
    texts = {c.cid: _words(c.text) for c in criteria}
    contents = {c.cid: _content(c.text[:_READ_CHARS]) for c in criteria}
    for first, second in combinations((c.cid for c in criteria), 2):
        if texts[first] == texts[second]:
            yield _Doubt(second, "duplicate", f"the same as {first!r}")
            continue
        shared = _likeness(contents[first], contents[second])
        if shared >= NEAR_DUPLICATE:
            detail = f"shares {shared:.0%} of its content words with {first!r}"
            yield _Doubt(second, "near_duplicate", detail)


def _likeness(a: frozenset[str], b: frozenset[str]) -> float:
    """Words in common over words in either; 0 if too few or if their numbers differ."""
    if min(len(a), len(b)) < MIN_CONTENT_WORDS or _numbers(a) != _numbers(b):
        return 0.0
    return len(a & b) / len(a | b)


def _weights(criteria: tuple[Criterion, ...]) -> Iterator[_Doubt]:
    if len(criteria) < MIN_CRITERIA_FOR_WEIGHTS:
        return
    total = math.fsum(c.weight for c in criteria)
    for criterion in criteria:
        share = criterion.weight / total
        if share > MAX_WEIGHT_SHARE:
            yield _Doubt(
                criterion.cid,
                "weights",
                f"weight {criterion.weight:g} of {total:g} is {share:.0%} of the rubric",
            )


# ----------------------------------------------------------------------------
# One text

# Any of what follows will do, up to the end of the clause.
_EXAMPLES = re.compile(
    r"\b(?:such as|e\.g\.|for example|for instance|like(?= [\w' -]+,)|"
    r"any of|one of|at least \w+ of|either)[^.;]*",
    re.IGNORECASE,
)
_VERBS = (
    "mention|state|say|tell|inform|explain|describe|discuss|note|advise|recommend|suggest|provide|"
    "give|include|list|offer|clarify|highlight|emphasi[sz]e|indicate|outline|acknowledge|address|"
    "cover|specify|identify|ask|seek|inquire|warn|encourage|urge|remind|refer|compare|define|"
    "summari[sz]e|justif(?:y|ies)|avoid|refrain|call|direct|instruct|propose|calculate|cite|name"
)
_JOINED = re.compile(
    rf"\b(?:and|but|then|while)(?: also| then)?(?: \w+ly)? (?:(?:{_VERBS})(?:s|es)?|does not|"
    rf"doesn't|fails to|should|must)\b",
    re.IGNORECASE,
)
_AS_WELL = re.compile(r"\b(?:as well as|in addition to|along with)\b", re.IGNORECASE)
# Three or more with a final "and": all of them. With a final "or" any one will do.
# What comes between is short and is no clause of its own.
_ENUMERATION = re.compile(
    r"(?:^|(?<=[,;.:]))[^,;.:]+,\s+(?!(?:which|who|where|but|or|then|because|so|if|when|that|as|with|"
    r"including|especially|particularly|irrespective|regardless|rather)\b)"
    r"(?:[^\s,;.:]+\s+){0,5}[^\s,;.:]+,?\s+and\b[^,;.:]+",
    re.IGNORECASE,
)
_STEPS = re.compile(r"\bstep 2\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n+")
_DEMAND = re.compile(
    rf"^(?:also )?(?:{_VERBS})s\b|\b(?:should|must|needs to|has to)\b", re.IGNORECASE
)


def _stacked(text: str) -> str | None:
    plain = _without(_EXAMPLES, _without(_QUOTED, _without(_ASIDE, text)))
    if _STEPS.search(plain):
        return "several steps"
    if ";" in plain:
        return "parts joined by ';'"
    for pattern in (_JOINED, _AS_WELL):
        if found := pattern.search(plain):
            return f"demands joined by {' '.join(found[0].split())!r}"
    if found := _ENUMERATION.search(plain):
        return f"a list that must be met as a whole: {_short(found[0])!r}"
    demands = [part for part in _SENTENCE_END.split(plain) if _DEMAND.search(part.strip())]
    return f"{len(demands)} sentences that demand something" if len(demands) > 1 else None


def _vague(text: str) -> str | None:
    words = set(_words(text))
    qualities = words & _QUALITIES
    rest = words - _QUALITIES - _ANYTHING - _FUNCTION_WORDS - _REPORTING
    if not qualities or rest or _QUOTED.search(text):
        return None
    return f"{', '.join(sorted(qualities))}: of what, and seen by what?"


def _too_long(text: str) -> str | None:
    return f"{len(text)} characters, want {MAX_CHARS}" if len(text) > MAX_CHARS else None


_OTHER_CRITERIA = re.compile(
    r"\b(?:previous|preceding|other|above|earlier|next|following) criteri(?:on|a)\b|"
    r"\bcriteri(?:on|a) (?:above|below|#?\d+|c\d+)\b|\bas above\b|\bsee above\b|"
    r"\b(?:mentioned|listed|described|stated|noted) (?:above|below)\b|\babove-mentioned\b|"
    r"\b(?:the|this) rubric\b",
    re.IGNORECASE,
)
_REFERENCE = re.compile(
    r"\b(?:the|a) (?:reference|ideal|gold|golden|expected|sample|correct) "
    r"(?:answer|response|solution|completion)\b|\bground truth\b",
    re.IGNORECASE,
)
_EARLIER_TURN = re.compile(
    r"\b(?:previous|earlier|prior|last) (?:turn|message|response|answer|reply|conversation)s?\b|"
    r"\bearlier in the conversation\b",
    re.IGNORECASE,
)


def _outside_reference(text: str, record: PromptRecord | None) -> str | None:
    if found := _OTHER_CRITERIA.search(text):
        return f"{found[0]!r}: a judge may see this criterion alone"
    if found := _REFERENCE.search(text):
        if record is not None and record.reference is not None:
            return f"{found[0]!r}: a judge sees it only with judge.llm.show_reference"
        return f"{found[0]!r}: say what is in it"
    found = _EARLIER_TURN.search(text)
    if found and record is not None and len(record.messages) == 1:
        return f"{found[0]!r}: the conversation has one message only"
    return None


# ----------------------------------------------------------------------------
# Polarity

_START = r"^(?:\w+ criteria: )?(?:the )?(?:(?:response|answer|model|assistant) )?"
_FAULT = re.compile(
    rf"{_START}(?:fails? to|failing to|(?:does not|doesn't|do not)(?= (?:{_VERBS})\b)|"
    r"omits?|neglects?|misses|lacks?|ignores?|incorrectly|inaccurately|wrongly|falsely|inappropriately|unnecessarily|"
    r"fabricates?|hallucinates?|overstates?|misleads?|contradicts?)\b",
    re.IGNORECASE,
)
_VIRTUE = re.compile(
    rf"{_START}(?:avoids?|refrains? from|correctly|accurately|appropriately|clearly|properly|"
    r"should(?! not)|must(?! not))\b",
    re.IGNORECASE,
)


def _polarity_doubt(criterion: Criterion) -> str | None:
    worded, pattern = ("fault", _FAULT) if criterion.polarity == 1 else ("virtue", _VIRTUE)
    found = pattern.search(criterion.text.strip())
    if found is None:
        return None
    return f"{found[0]!r} reads like a {worded}, but its polarity is {criterion.polarity}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
