"""The probability of a verdict, from the log-probs of the reply's tokens.

At the token with the first letter of a verdict's word the model chose between
`met` and `unmet`. Of the alternatives that the server tells there, those that
begin the one word speak for it, those that begin the other for that:

    P(met) = p(m, me, met...) / (p(m, me, met...) + p(u, un, unmet...))

Tokens don't end where words do: alternatives are compared after what precedes
the word in its token, such as a quote, and where the token before ends right at
the word, that token's alternatives that run on into the word count as well.

A server tells a few alternatives only. What they leave open (a side that isn't
among them, a token that could go on either way) must be too little to matter;
otherwise there is no probability rather than a wrong one.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rubric_rl.judging.chat import ChatReply, TokenLogProbs
from rubric_rl.judging.reply import ParsedReply

_MET = re.compile(r"m$|me$|met(?![a-z])")
_UNMET = re.compile(r"u$|un$|unm$|unme$|unmet(?![a-z])")
# Most that may be left open, relative to what is known: P(met) is wrong by no more.
_MAX_OPEN = 0.05


def met_probabilities(
    reply: ChatReply, parsed: ParsedReply, read: Callable[[str], ParsedReply]
) -> dict[str, float]:
    """P(met) by criterion id, where it can be determined; empty without log-probs.

    Args:
        reply: A reply with or without tokens. They may spell more than its text, such as
            thinking and the end of the turn, or characters that are split over two tokens.
        parsed: What was read from `reply.text`.
        read: Reads another text in the same way.
    """
    tokens = _without_end(reply)
    spelled = "".join(token.text for token in tokens)
    shift, located = spelled.rfind(reply.text), parsed
    if shift < 0:
        shift, located = 0, read(spelled)
    starts = list(itertools.accumulate((len(token.text) for token in tokens), initial=0))
    found = {
        cid: _met_share(tokens, starts, position + shift)
        for cid, position in located.positions.items()
        if located.verdicts[cid].value is parsed.verdicts[cid].value
    }
    return {cid: share for cid, share in found.items() if share is not None}


def _without_end(reply: ChatReply) -> Sequence[TokenLogProbs]:
    """The tokens up to the last that is in the text: a server may list the turn's end too."""
    text, count = _compact(reply.text), len(reply.tokens)
    while count and not text.endswith(_compact(reply.tokens[count - 1].text)):
        count -= 1
    return reply.tokens[:count]


@dataclass(frozen=True, slots=True)
class _Mass:
    """Probability of either word, and of what could still become either."""

    met: float = 0.0
    unmet: float = 0.0
    undecided: float = 0.0
    unlisted: float = 0.0
    """The most that the likeliest token not listed can have."""

    def share(self) -> float | None:
        known = self.met + self.unmet
        one_sided = 0.0 in (self.met, self.unmet)
        left_open = self.undecided + (self.unlisted if one_sided else 0.0)
        return self.met / known if known > 0 and left_open <= _MAX_OPEN * known else None


def _met_share(
    tokens: Sequence[TokenLogProbs], starts: Sequence[int], position: int
) -> float | None:
    """P(met) of a verdict whose word begins at `position` of the tokens' text."""
    index = bisect.bisect_right(starts, position, hi=len(tokens)) - 1
    offset = position - starts[index]
    here = _mass(tokens[index], tokens[index].text[:offset])
    if offset == 0 and index > 0:
        here = _with_longer(here, tokens[index - 1])
    return here.share()


def _mass(token: TokenLogProbs, prefix: str) -> _Mass:
    """What a token and its alternatives say, `prefix` being what precedes the word in it."""
    met = unmet = undecided = 0.0
    listed = list(_alternatives(token))
    before = _compact(prefix)
    for text, p in listed:
        rest = text[len(before) :] if text.startswith(before) else None
        if rest:
            met += p if _MET.match(rest) else 0.0
            unmet += p if _UNMET.match(rest) else 0.0
        elif before.startswith(text):
            undecided += p
    unlisted = min(max(0.0, 1.0 - sum(p for _, p in listed)), min(p for _, p in listed))
    return _Mass(met, unmet, undecided, unlisted)


def _with_longer(here: _Mass, before: TokenLogProbs) -> _Mass:
    """Add the alternatives of the token before that hold the beginning of the word themselves."""
    chosen = _compact(before.text)
    longer = [(t[len(chosen) :], p) for t, p in _alternatives(before) if t.startswith(chosen)]
    met = sum(p for rest, p in longer if _MET.match(rest))
    unmet = sum(p for rest, p in longer if _UNMET.match(rest))
    if met + unmet == 0:
        return here
    p = _probability(before.log_prob)
    return _Mass(met + p * here.met, unmet + p * here.unmet, p * here.undecided, p * here.unlisted)


def _alternatives(token: TokenLogProbs) -> Iterator[tuple[str, float]]:
    """Text without white space and probability of a token and all listed beside it."""
    for text, log_prob in {token.text: token.log_prob, **token.top}.items():
        yield _compact(text), _probability(log_prob)


def _compact(text: str) -> str:
    # White space before a word changes nothing in either form of a reply.
    return "".join(text.split())


def _probability(log_prob: float) -> float:
    return math.exp(min(log_prob, 0.0))
