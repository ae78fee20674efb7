"""k of n votes on each criterion, with an early stop.

As many polls as decide are taken at once; after that one at a time, and only for
criteria that are open and can still be decided. A poll that gives UNKNOWN is not
a vote; one that was refused, or that the budget doesn't allow, is the last.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from rubric_rl.types import Criterion, FailureCause, Verdict, VerdictValue

# Further polls would end the same way.
_LAST = (FailureCause.REFUSED_REQUEST, FailureCause.BUDGET)

Poll = Callable[[Sequence[Criterion]], Awaitable[dict[str, Verdict]]]


async def vote(
    criteria: Sequence[Criterion], poll: Poll, *, votes: int, majority: int
) -> dict[str, Verdict]:
    """A verdict on each criterion that `majority` of at most `votes` polls agree on."""
    if votes == 1:
        return await poll(criteria)
    ballots: dict[str, list[Verdict]] = {criterion.cid: [] for criterion in criteria}
    polls = await asyncio.gather(*(poll(criteria) for _ in range(majority)))
    _count(ballots, polls)
    for taken in range(majority, votes):
        open_criteria = [c for c in criteria if _is_open(ballots[c.cid], majority, votes - taken)]
        if not open_criteria:
            break
        _count(ballots, [await poll(open_criteria)])
    return {cid: decide(cid, ballot, majority) for cid, ballot in ballots.items()}


def decide(cid: str, ballot: Sequence[Verdict], majority: int) -> Verdict:
    """The verdict of a ballot; UNKNOWN when no side has `majority` votes."""
    known = [verdict for verdict in ballot if verdict.value is not VerdictValue.UNKNOWN]
    values = tuple(verdict.value for verdict in known)
    for value in (VerdictValue.MET, VerdictValue.UNMET):
        if values.count(value) >= majority:
            winners = [verdict for verdict in known if verdict.value is value]
            return Verdict(
                cid=cid,
                value=value,
                reason=winners[0].reason,
                probability=_mean_probability(known),
                votes=values,
            )
    ended = [verdict for verdict in ballot if verdict.cause in _LAST]
    if ended or not known:
        return replace((ended or ballot)[-1], votes=values)
    met = values.count(VerdictValue.MET)
    return Verdict(
        cid=cid,
        value=VerdictValue.UNKNOWN,
        reason=f"{met} of {len(known)} votes say met, {majority} equal votes decide",
        cause=FailureCause.NO_MAJORITY,
        votes=values,
    )


def _count(ballots: dict[str, list[Verdict]], polls: Sequence[dict[str, Verdict]]) -> None:
    for verdicts in polls:
        for cid, verdict in verdicts.items():
            ballots[cid].append(verdict)


def _is_open(ballot: Sequence[Verdict], majority: int, left: int) -> bool:
    """Not decided, and decidable by the votes that are left."""
    if any(verdict.cause in _LAST for verdict in ballot):
        return False
    counts = [
        sum(verdict.value is value for verdict in ballot)
        for value in (VerdictValue.MET, VerdictValue.UNMET)
    ]
    return max(counts) < majority <= max(counts) + left


def _mean_probability(known: Sequence[Verdict]) -> float | None:
    given = [verdict.probability for verdict in known if verdict.probability is not None]
    return statistics.fmean(given) if given else None
