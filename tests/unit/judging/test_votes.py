"""k of n votes: who decides, when asking stops, and what is no vote."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_rl.judging.votes import vote
from rubric_rl.types import Criterion, FailureCause, Verdict, VerdictValue

MET, UNMET, UNKNOWN = VerdictValue.MET, VerdictValue.UNMET, VerdictValue.UNKNOWN
C1 = Criterion(cid="c1", text="a", weight=1.0)
C2 = Criterion(cid="c2", text="b", weight=1.0)


class Script:
    """Polls that answer by a script for each criterion, and count what they were asked."""

    def __init__(self, **values: Sequence[VerdictValue]) -> None:
        self.values = {cid: list(script) for cid, script in values.items()}
        self.asked: list[list[str]] = []
        self.cause = FailureCause.MISSING

    async def poll(self, criteria: Sequence[Criterion]) -> dict[str, Verdict]:
        self.asked.append([criterion.cid for criterion in criteria])
        return {c.cid: self._verdict(c.cid, self.values[c.cid].pop(0)) for c in criteria}

    def _verdict(self, cid: str, value: VerdictValue) -> Verdict:
        number = len(self.asked)
        if value is UNKNOWN:
            return Verdict(cid=cid, value=value, reason="-", cause=self.cause)
        probability = 0.1 * number
        return Verdict(cid=cid, value=value, reason=f"vote {number}", probability=probability)


def run(
    script: Script, votes: int, majority: int, criteria: Sequence[Criterion] = (C1,)
) -> dict[str, Verdict]:
    return asyncio.run(vote(criteria, script.poll, votes=votes, majority=majority))


def test_one_vote_is_the_poll_itself() -> None:
    verdict = run(Script(c1=[MET]), 1, 1)["c1"]
    assert (verdict.value, verdict.votes) == (MET, ())


def test_asking_stops_as_soon_as_enough_agree() -> None:
    script = Script(c1=[UNMET, UNMET])
    verdict = run(script, 5, 2)["c1"]
    assert (verdict.value, verdict.votes) == (UNMET, (UNMET, UNMET))
    assert len(script.asked) == 2


def test_only_criteria_that_are_open_are_asked_again() -> None:
    script = Script(c1=[MET, MET], c2=[MET, UNMET, UNMET])
    verdicts = run(script, 3, 2, (C1, C2))
    assert (verdicts["c1"].value, verdicts["c2"].value) == (MET, UNMET)
    assert script.asked == [["c1", "c2"], ["c1", "c2"], ["c2"]]


def test_the_reason_is_of_the_winning_side_and_the_probability_of_all_votes() -> None:
    verdict = run(Script(c1=[MET, UNMET, UNMET]), 3, 2)["c1"]
    assert verdict.reason == "vote 2"
    assert verdict.probability == pytest.approx((0.1 + 0.2 + 0.3) / 3)


def test_what_can_not_be_decided_any_more_is_not_asked() -> None:
    script = Script(c1=[MET, UNMET, UNKNOWN])
    verdict = run(script, 3, 3)["c1"]
    assert (verdict.value, verdict.cause) == (UNKNOWN, FailureCause.NO_MAJORITY)
    assert verdict.votes == (MET, UNMET)
    assert verdict.reason == "1 of 2 votes say met, 3 equal votes decide"


def test_an_unknown_is_not_a_vote() -> None:
    script = Script(c1=[UNKNOWN, MET, MET])
    assert run(script, 3, 2)["c1"].value is MET
    assert len(script.asked) == 3


def test_nothing_but_unknowns_keeps_its_own_cause() -> None:
    verdict = run(Script(c1=[UNKNOWN] * 3), 3, 2)["c1"]
    assert (verdict.cause, verdict.votes) == (FailureCause.MISSING, ())


@pytest.mark.parametrize("cause", [FailureCause.BUDGET, FailureCause.REFUSED_REQUEST])
def test_what_was_refused_is_not_asked_again_and_keeps_its_cause(cause: FailureCause) -> None:
    script = Script(c1=[MET, UNKNOWN], c2=[MET, MET])
    script.cause = cause
    verdicts = run(script, 5, 2, (C1, C2))
    assert (verdicts["c1"].cause, verdicts["c1"].votes) == (cause, (MET,))
    assert verdicts["c2"].value is MET
    assert len(script.asked) == 2


def test_votes_that_are_there_count_whatever_was_refused_after_them() -> None:
    script = Script(c1=[MET, MET, UNKNOWN])
    script.cause = FailureCause.BUDGET
    verdict = run(script, 4, 3)["c1"]
    assert (verdict.cause, verdict.votes) == (FailureCause.BUDGET, (MET, MET))
    script = Script(c1=[UNKNOWN, MET, MET])
    script.cause = FailureCause.TIMEOUT
    assert run(script, 4, 2)["c1"].value is MET


def test_the_polls_that_decide_are_taken_at_once() -> None:
    out = 0

    async def poll(criteria: Sequence[Criterion]) -> dict[str, Verdict]:
        nonlocal out
        out += 1
        for _ in range(5):
            await asyncio.sleep(0)
        assert out == 3  # none is answered before all are asked
        return {c.cid: Verdict(cid=c.cid, value=MET, reason="") for c in criteria}

    verdicts = asyncio.run(vote([C1], poll, votes=5, majority=3))
    assert verdicts["c1"].votes == (MET, MET, MET)


@given(
    values=st.lists(st.sampled_from([MET, UNMET, UNKNOWN]), min_size=7, max_size=7),
    votes=st.integers(2, 7),
    data=st.data(),
)
def test_a_verdict_has_its_majority_and_never_more_polls_than_votes(
    values: list[VerdictValue], votes: int, data: st.DataObject
) -> None:
    majority = data.draw(st.integers(votes // 2 + 1, votes))
    script = Script(c1=values)
    verdict = run(script, votes, majority)["c1"]
    asked = values[: len(script.asked)]
    assert majority <= len(asked) <= votes
    if verdict.value is UNKNOWN:
        assert max(values[:votes].count(MET), values[:votes].count(UNMET)) < majority
    else:
        assert asked.count(verdict.value) >= majority
