"""The probability of a verdict, from the log-probs of the reply's tokens.

At the token with the first letter of a verdict's value the model chose between
`met` and `unmet`. Of the alternatives that the server tells there, those that
go on with `m` speak for the one, those with `u` for the other:

    P(met) = p(m...) / (p(m...) + p(u...))

A side that is not among the alternatives counts as 0, so the value is rounded
towards the verdict that was given.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Iterator, Sequence

from rubric_rl.judging.chat import TokenLogProbs

_JSON_VERDICT = re.compile(
    r'"id"\s*:\s*"((?:[^"\\]|\\.)*)".{0,20000}?"verdict"\s*:\s*"(?=met|unmet)', re.DOTALL
)
_LINE_VERDICT = re.compile(
    r"^[^|\n]+\|[ \t]*([^|\n]+?)[ \t]*\|[^\n]*\|[ \t]*(?=(?:met|unmet)[ \t]*$)", re.MULTILINE
)


def met_probabilities(text: str, tokens: Sequence[TokenLogProbs]) -> dict[str, float]:
    """P(met) by criterion id, where it can be determined; empty without log-probs."""
    if not tokens or "".join(token.text for token in tokens) != text:
        return {}
    starts = list(itertools.accumulate((len(t.text) for t in tokens), initial=0))[:-1]
    found: dict[str, float] = {}
    for cid, position in _verdict_positions(text):
        index = bisect.bisect_right(starts, position) - 1
        probability = _met_share(tokens[index], position - starts[index])
        if probability is not None:
            found[cid] = probability
    return found


def _verdict_positions(text: str) -> Iterator[tuple[str, int]]:
    """Id and position of the first letter of each verdict, in either form of a reply."""
    matches = list(_JSON_VERDICT.finditer(text)) or list(_LINE_VERDICT.finditer(text))
    for match in matches:
        yield match[1], match.end()


def _met_share(token: TokenLogProbs, offset: int) -> float | None:
    """P(met) at a token whose verdict begins after `offset` characters, such as a quote."""
    prefix = token.text[:offset]
    alternatives = {token.text: token.log_prob, **token.top}
    met = unmet = 0.0
    for text, log_prob in alternatives.items():
        if text.startswith(prefix):
            rest = text[offset:]
            met += math.exp(log_prob) if rest[:1] == "m" else 0.0
            unmet += math.exp(log_prob) if rest[:1] == "u" else 0.0
    return met / (met + unmet) if met + unmet > 0 else None
