"""The reply contract: what a judge model must write, and how strictly it is read.

    {"nonce": "9f86d081", "verdicts": [{"id": "c1", "reason": "...", "verdict": "met"}]}

or, for models that don't write JSON, under the contract `text`, a line for each criterion:

    9f86d081 | c1 | ... | met

The nonce is new in each call and unknown to the policy, so a verdict that the
model merely copies out of the answer doesn't carry it and doesn't count.
Whatever departs from the contract says something of the judge and nothing of
the answer: it is UNKNOWN with its cause, never MET or UNMET. Nothing raises.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rubric_rl.judging.chat import JsonSchema
from rubric_rl.types import FailureCause, JudgeContract, Verdict, VerdictValue

_THINK_OPEN = "<think>"
_THINK_END = re.compile(r"</think>")
_OBJECT_START = re.compile(r'\{[ \t\r\n]*"')
_CHOICES = {"met": VerdictValue.MET, "unmet": VerdictValue.UNMET}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """The verdicts of one reply: one for each criterion asked, in the order asked."""

    verdicts: dict[str, Verdict]
    num_unknown_ids: int
    """Entries that name no criterion asked for; they are ignored."""


def reply_schema(cids: Sequence[str], nonce: str) -> JsonSchema:
    """JSON schema of a reply on the criteria `cids`; the reason comes before the verdict."""
    entry: JsonSchema = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "enum": list(cids)},
            "reason": {"type": "string"},
            "verdict": {"type": "string", "enum": list(_CHOICES)},
        },
        "required": ["id", "reason", "verdict"],
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
        "properties": {"nonce": {"type": "string", "const": nonce}, "verdicts": verdicts},
        "required": ["nonce", "verdicts"],
        "additionalProperties": False,
    }


def parse_reply(
    text: str,
    finish_reason: str,
    cids: Sequence[str],
    nonce: str,
    contract: JudgeContract = "structured_outputs",
) -> ParsedReply:
    """Read a judge's reply on the criteria `cids`. Never raises."""
    if finish_reason == "length":
        return all_unknown(cids, FailureCause.TRUNCATED, "the reply was cut at its longest length")
    body = _without_thinking(text, nonce)
    if body is None:
        return all_unknown(cids, FailureCause.UNPARSEABLE, "the reply never stops thinking")
    if contract == "text":
        return _read_lines(body, cids, nonce)
    found = _find_objects(body, nonce)
    if not found.right:
        if found.has_other_verdicts:
            return all_unknown(cids, FailureCause.WRONG_NONCE, "the verdicts lack the call's nonce")
        return all_unknown(cids, FailureCause.UNPARSEABLE, "the reply holds no verdict object")
    first, *others = [_read_object(value, cids) for value in found.right]
    if any(other != first for other in others):
        return all_unknown(cids, FailureCause.UNPARSEABLE, "the reply contradicts itself")
    return first


def all_unknown(cids: Sequence[str], cause: FailureCause, reason: str) -> ParsedReply:
    """No verdict on any of `cids`, for one cause."""
    return ParsedReply(
        verdicts={cid: _unknown(cid, cause, reason) for cid in cids}, num_unknown_ids=0
    )


def _unknown(cid: str, cause: FailureCause, reason: str) -> Verdict:
    return Verdict(cid=cid, value=VerdictValue.UNKNOWN, reason=reason, cause=cause)


# ----------------------------------------------------------------------------
# Finding the object


@dataclass(slots=True)
class _Found:
    right: list[dict[str, object]]
    """Objects that carry the nonce, in the order of the text."""
    has_other_verdicts: bool = False


def _without_thinking(text: str, nonce: str) -> str | None:
    """The text after thinking; None if thinking never ends.

    Some chat templates open the block themselves, so that only its end is in the
    reply. A reason can quote the marks out of a hostile answer: the text is cut only
    where the nonce still follows.
    """
    text = text.lstrip()
    ends = [match.end() for match in _THINK_END.finditer(text)]
    for end in reversed(ends):
        if nonce in text[end:]:
            return text[end:]
    if text.startswith(_THINK_OPEN):
        return text[ends[0] :] if ends else None
    return text


def _find_objects(text: str, nonce: str) -> _Found:
    """Every JSON object in `text`, be it in prose, in a code fence or in another object."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    found, position = _Found(right=[]), 0
    while match := _OBJECT_START.search(text, position):
        try:
            value, end = decoder.raw_decode(text, match.start())
        except RecursionError:
            break  # trying again at each of a thousand nested braces would take seconds
        # ValueError is more than bad JSON: numbers of too many digits raise it as well.
        except ValueError:
            value, end = {}, position
        if value.get("nonce") == nonce:
            found.right.append(value)
            position = end
        else:
            found.has_other_verdicts |= "verdicts" in value
            position = match.start() + 1  # the right object can be inside this one
    return found


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object that answers twice answers nothing, so it isn't read at all."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


# ----------------------------------------------------------------------------
# Lines


_LINE_PARTS = 4


def _read_lines(body: str, cids: Sequence[str], nonce: str) -> ParsedReply:
    """Verdicts of the lines that carry the nonce; other lines are words around them."""
    lines = [line.split("|") for line in body.splitlines() if line.count("|") >= _LINE_PARTS - 1]
    parts = [[part.strip() for part in line] for line in lines]
    right = [line for line in parts if line[0] == nonce]
    if not right:
        if parts:
            return all_unknown(cids, FailureCause.WRONG_NONCE, "the lines lack the call's nonce")
        return all_unknown(cids, FailureCause.UNPARSEABLE, "the reply holds no verdict line")
    entries: list[object] = [
        {"id": line[1], "reason": " | ".join(line[2:-1]), "verdict": line[-1]} for line in right
    ]
    return _read_entries(entries, cids)


# ----------------------------------------------------------------------------
# Reading it


def _read_object(value: dict[str, object], cids: Sequence[str]) -> ParsedReply:
    entries = value.get("verdicts")
    if not isinstance(entries, list):
        return all_unknown(cids, FailureCause.UNPARSEABLE, "the reply holds no list of verdicts")
    return _read_entries(entries, cids)


def _read_entries(entries: Sequence[object], cids: Sequence[str]) -> ParsedReply:
    named = [(entry.get("id"), entry) for entry in entries if isinstance(entry, dict)]
    asked = [(cid, entry) for cid, entry in named if isinstance(cid, str) and cid in cids]
    counts = Counter(cid for cid, _ in asked)
    by_cid = dict(asked)
    verdicts = {cid: _read_verdict(cid, by_cid.get(cid), counts[cid]) for cid in cids}
    return ParsedReply(verdicts=verdicts, num_unknown_ids=len(named) - len(asked))


def _read_verdict(cid: str, entry: dict[str, object] | None, count: int) -> Verdict:
    if entry is None:
        return _unknown(cid, FailureCause.MISSING, "the reply has no verdict on it")
    if count > 1:
        return _unknown(cid, FailureCause.DUPLICATE, f"the reply has {count} verdicts on it")
    choice = entry.get("verdict")
    if not isinstance(choice, str) or choice not in _CHOICES:
        shown = repr(choice[:40]) if isinstance(choice, str) else f"a {type(choice).__name__}"
        reason = f"the verdict is {shown}, neither 'met' nor 'unmet'"
        return _unknown(cid, FailureCause.OUT_OF_CHOICE, reason)
    return Verdict(cid=cid, value=_CHOICES[choice], reason=_read_reason(entry.get("reason")))


def _read_reason(reason: object) -> str:
    # A JSON escape can make a lone surrogate, which no UTF-8 file could hold.
    return reason.encode("utf-8", "replace").decode() if isinstance(reason, str) else ""
