"""The reply contract: what a judge model must write, and how strictly it is read.

    {"nonce": "9f86d081", "verdicts": [
      {"id": "c1", "reason": "...", "nonce": "9f86d081", "verdict": "met"}]}

or, for models that don't write JSON, under the contract `text`, a line for each criterion:

    9f86d081 | c1 | ... | met | 9f86d081

The nonce is new in each call and unknown to the policy, so a verdict that the
model merely copies out of the answer doesn't carry it and doesn't count. It stands
between reason and verdict: an answer that is copied into a reason unescaped, quotes
and all, can end the reason but can't go on to a verdict. A line carries it at both
ends: a quoted line break leaves two pieces without it, and neither counts. A schema
asks for some string in its place: a server that filled it in would prove nothing.

Words around the verdicts are ignored. A block of thinking that the reply begins
with doesn't count, whoever opened it; one that never ends is a failure. Marks are
those of `_THINKING_NAMES`, and `[THINK]`.

Whatever departs from the contract says something of the judge and nothing of
the answer: it is UNKNOWN with its cause, never MET or UNMET. Nothing raises.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rubric_rl.judging.chat import JsonSchema
from rubric_rl.types import FailureCause, JudgeContract, Verdict, VerdictValue

_THINKING_NAMES = r"(?:seed:)?(?:think|thinking|thought|reasoning)"
THINKING_START = re.compile(rf"\s*(?:<{_THINKING_NAMES}>|\[THINK\])", re.IGNORECASE)
THINKING_END = re.compile(rf"</{_THINKING_NAMES}>|\[/THINK\]", re.IGNORECASE)
_NOTHING_YET = re.compile(r"\s*(?:```\w*\s*)?")
_OBJECT_START = re.compile(r'\{[ \t\r\n]*"')
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"([ \t\r\n]*:)?', re.DOTALL)
_LINE_PARTS = 5
# A text of braces would take seconds. Behind so many tries, or a nesting too deep for the
# decoder, only objects are tried that open with the nonce, as they were asked to.
_MAX_TRIES = 1000
_MAX_GRADE = 10


class Choice(NamedTuple):
    """What the word of a verdict stands for."""

    value: VerdictValue
    grade: float | None = None


MET_OR_UNMET: Mapping[str, Choice] = {
    "met": Choice(VerdictValue.MET),
    "unmet": Choice(VerdictValue.UNMET),
}
LIKERT: Mapping[str, Choice] = {
    str(grade): Choice(VerdictValue.GRADED, (grade - 1) / (_MAX_GRADE - 1))
    for grade in range(1, _MAX_GRADE + 1)
}
"""Grades of the answer as a whole: 1 is 0.0 and 10 is 1.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """The verdicts of one reply: one for each criterion asked, in the order asked."""

    verdicts: dict[str, Verdict]
    num_unknown_ids: int
    """Entries that name no criterion asked for; they are ignored."""
    positions: dict[str, int] = field(default_factory=dict[str, int], compare=False)
    """By criterion: where in the text the word of its verdict begins, if it has one."""


def reply_schema(cids: Sequence[str], choices: Mapping[str, Choice] = MET_OR_UNMET) -> JsonSchema:
    """JSON schema of a reply on the criteria `cids`: reason, then nonce, then verdict.

    The nonce is a string like any other, which the model has to write by itself.
    """
    entry: JsonSchema = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "enum": list(cids)},
            "reason": {"type": "string"},
            "nonce": {"type": "string"},
            "verdict": {"type": "string", "enum": list(choices)},
        },
        "required": ["id", "reason", "nonce", "verdict"],
        "additionalProperties": False,
    }
    verdicts: JsonSchema = {
        "type": "array",
        "items": entry,
        "minItems": len(cids),
        "maxItems": len(cids),
    }
    return {
        "type": "object",
        "properties": {"nonce": {"type": "string"}, "verdicts": verdicts},
        "required": ["nonce", "verdicts"],
        "additionalProperties": False,
    }


def parse_reply(
    text: str,
    finish_reason: str,
    cids: Sequence[str],
    nonce: str,
    contract: JudgeContract = "structured_outputs",
    choices: Mapping[str, Choice] = MET_OR_UNMET,
) -> ParsedReply:
    """Read a judge's reply on the criteria `cids`, in the words of `choices`. Never raises."""
    if finish_reason == "length":
        return all_unknown(cids, FailureCause.TRUNCATED, "the reply was cut at its longest length")
    in_lines = contract == "text"
    found = _find_lines(text, nonce) if in_lines else _find_objects(text, nonce)
    start = _end_of_thinking(text, found.right)
    if start is None:
        return all_unknown(cids, FailureCause.UNPARSEABLE, "the reply never stops thinking")
    right = [piece for piece in found.right if piece.start >= start]
    if not right:
        if found.last_wrong >= start:
            return all_unknown(cids, FailureCause.WRONG_NONCE, "the verdicts lack the call's nonce")
        form = "line" if in_lines else "object"
        return all_unknown(cids, FailureCause.UNPARSEABLE, f"the reply holds no verdict {form}")
    read = _read_lines if in_lines else _read_objects
    return read(text, right, _Wanted(cids, nonce, choices))


def all_unknown(cids: Sequence[str], cause: FailureCause, reason: str) -> ParsedReply:
    """No verdict on any of `cids`, for one cause."""
    return ParsedReply(
        verdicts={cid: _unknown(cid, cause, reason) for cid in cids}, num_unknown_ids=0
    )


def _unknown(cid: str, cause: FailureCause, reason: str) -> Verdict:
    return Verdict(cid=cid, value=VerdictValue.UNKNOWN, reason=reason, cause=cause)


# ----------------------------------------------------------------------------
# Finding what carries the nonce


@dataclass(frozen=True, slots=True)
class _Piece:
    """An object or a line that carries the nonce: text[start:end]."""

    start: int
    end: int
    value: dict[str, object]
    """The object itself; of a line, its entry."""
    word: int = -1
    """Of a line: where its verdict begins."""


@dataclass(slots=True)
class _Found:
    right: list[_Piece] = field(default_factory=list[_Piece])
    """In the order of the text; they don't overlap."""
    last_wrong: int = -1
    """Start of the last piece that has the form of verdicts and lacks the nonce."""


def _find_objects(text: str, nonce: str) -> _Found:
    """Every JSON object in `text`, be it in prose, in a code fence or in another object."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    with_nonce = re.compile(rf'\{{\s*"nonce"\s*:\s*"{re.escape(nonce)}"')
    found, position, tries, starts = _Found(), 0, 0, _OBJECT_START
    while match := starts.search(text, position):
        start, tries = match.start(), tries + 1
        position = start + 1  # the right object can be inside this one
        if tries == _MAX_TRIES:
            starts = with_nonce
        try:
            value, end = decoder.raw_decode(text, start)
        except RecursionError:
            starts = with_nonce
            continue
        # ValueError is more than bad JSON: numbers of too many digits raise it as well.
        except ValueError:
            continue
        if "verdicts" not in value:
            continue  # an entry carries the nonce as well
        if value.get("nonce") == nonce:
            found.right.append(_Piece(start, end, value))
            position = end
        else:
            found.last_wrong = start
    return found


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object that answers twice answers nothing, so it isn't read at all."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _find_lines(text: str, nonce: str) -> _Found:
    """Every line with bars. The ends are fixed, so a reason may hold bars of its own."""
    found, start = _Found(), 0
    for line in text.split("\n"):
        parts = line.split("|")
        if len(parts) >= _LINE_PARTS and parts[0].strip() == parts[-1].strip() == nonce:
            word = start + len(line) - len(parts[-1]) - 1 - len(parts[-2].lstrip())
            entry: dict[str, object] = {
                "id": parts[1].strip(),
                "reason": "|".join(parts[2:-2]).strip(),
                "nonce": nonce,
                "verdict": parts[-2].strip(),
            }
            found.right.append(_Piece(start, start + len(line), entry, word))
        elif len(parts) >= _LINE_PARTS - 1:
            found.last_wrong = start
        start += len(line) + 1
    return found


def _end_of_thinking(text: str, right: Sequence[_Piece]) -> int | None:
    """Where the reply itself begins; None if it never stops thinking.

    Some chat templates open the block themselves, so that only its end is in the
    reply. But a mark can also be quoted out of a hostile answer. One inside a piece
    with the nonce is part of a reason; of the others, the last with such a piece
    behind it ends the thinking.
    """
    ends = [
        match.end()
        for match in THINKING_END.finditer(text)
        if not any(piece.start <= match.start() < piece.end for piece in right)
    ]
    followed = [end for end in ends if right and end <= right[-1].start]
    if followed:
        return followed[-1]
    if THINKING_START.match(text):
        return ends[0] if ends else None
    # Verdicts before a mark are drafts, unless the reply begins with them.
    begins = right and _NOTHING_YET.fullmatch(text, 0, right[0].start)
    return ends[0] if ends and not begins else 0


# ----------------------------------------------------------------------------
# Reading it


class _Wanted(NamedTuple):
    """What the reply was asked for."""

    cids: Sequence[str]
    nonce: str
    choices: Mapping[str, Choice]


def _read_objects(text: str, right: Sequence[_Piece], wanted: _Wanted) -> ParsedReply:
    first, *others = [_read_object(text, piece, wanted) for piece in right]
    if any(other != first for other in others):
        return all_unknown(wanted.cids, FailureCause.UNPARSEABLE, "the reply contradicts itself")
    return first


def _read_object(text: str, piece: _Piece, wanted: _Wanted) -> ParsedReply:
    entries = piece.value.get("verdicts")
    if not isinstance(entries, list):
        reason = "the reply holds no list of verdicts"
        return all_unknown(wanted.cids, FailureCause.UNPARSEABLE, reason)
    return _read_entries(text, entries, wanted, _words(text, piece))


def _words(text: str, piece: _Piece) -> dict[str, int]:
    """By id: where in an object the word of its entry's verdict begins."""
    words: dict[str, int] = {}
    key = cid = None
    for match in _STRING.finditer(text, piece.start, piece.end):
        if match[2]:
            key = match[1]
            continue
        if key == "id":
            cid = json.loads(f'"{match[1]}"')
        elif key == "verdict" and cid is not None:
            words[cid], cid = match.start(1), None
        key = None
    return words


def _read_lines(text: str, right: Sequence[_Piece], wanted: _Wanted) -> ParsedReply:
    words = {str(piece.value["id"]): piece.word for piece in right}
    return _read_entries(text, [piece.value for piece in right], wanted, words)


def _read_entries(
    text: str,
    entries: Sequence[object],
    wanted: _Wanted,
    words: Mapping[str, int],
) -> ParsedReply:
    cids = wanted.cids
    named = [(entry.get("id"), entry) for entry in entries if isinstance(entry, dict)]
    asked = [(cid, entry) for cid, entry in named if isinstance(cid, str) and cid in cids]
    verdicts = {cid: _read_criterion(cid, asked, wanted) for cid in cids}
    counts = Counter(cid for cid, _ in asked)
    positions = {
        cid: words[cid]
        for cid, verdict in verdicts.items()
        if counts[cid] == 1 and cid in words and text.startswith(verdict.value.value, words[cid])
    }
    return ParsedReply(
        verdicts=verdicts, num_unknown_ids=len(named) - len(asked), positions=positions
    )


def _read_criterion(
    cid: str, asked: Sequence[tuple[str, dict[str, object]]], wanted: _Wanted
) -> Verdict:
    """The verdict of the one entry on a criterion that carries the nonce."""
    own = [entry for named, entry in asked if named == cid]
    right = [entry for entry in own if entry.get("nonce") == wanted.nonce]
    if not own:
        return _unknown(cid, FailureCause.MISSING, "the reply has no verdict on it")
    if not right:
        return _unknown(cid, FailureCause.WRONG_NONCE, "its entry lacks the call's nonce")
    if len(right) > 1:
        return _unknown(cid, FailureCause.DUPLICATE, f"the reply has {len(right)} verdicts on it")
    return _read_verdict(cid, right[0], wanted.choices)


def _read_verdict(cid: str, entry: dict[str, object], choices: Mapping[str, Choice]) -> Verdict:
    word = entry.get("verdict")
    if type(word) is int and choices is LIKERT:
        word = str(word)  # a grade without its quotes is no other grade
    if not isinstance(word, str) or word not in choices:
        shown = repr(word[:40]) if isinstance(word, str) else f"a {type(word).__name__}"
        first, *_, last = choices
        wanted = f"neither {first!r} nor {last!r}"
        if choices is LIKERT:
            wanted = f"not a grade from {first} to {last}"
        return _unknown(cid, FailureCause.OUT_OF_CHOICE, f"the verdict is {shown}, {wanted}")
    value, grade = choices[word]
    return Verdict(cid=cid, value=value, reason=_read_reason(entry.get("reason")), grade=grade)


def _read_reason(reason: object) -> str:
    # A JSON escape can make a lone surrogate, which no UTF-8 file could hold.
    return reason.encode("utf-8", "replace").decode() if isinstance(reason, str) else ""
