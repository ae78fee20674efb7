"""What a checkpoint keeps of the judge budget, and what comes of it elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.errors import RunFolderError
from rubric_rl.judging.dispatch import Dispatch, DispatchSnapshot
from rubric_rl.judging.leases import Lease, LeaseRequest, Outcome, OutcomeKind

A, B = "http://a/v1", "http://b/v1"


class Process:
    """A dispatch with one client and a clock of its own."""

    def __init__(self, endpoints: Sequence[str] = (A,), now: float = 0.0) -> None:
        self.now, self.last = now, 0
        self.dispatch = Dispatch(now=lambda: self.now)
        self.join(endpoints)

    def join(self, endpoints: Sequence[str]) -> None:
        self.dispatch.join(
            "w",
            budget=JudgeBudgetConfig(
                max_concurrency=10, requests_per_minute=4, tokens_per_minute=100, max_cost_usd=1.0
            ),
            health=JudgeHealthConfig(failures_to_open=1),
            account="run",
            endpoints=endpoints,
            lease_timeout_s=100.0,
        )

    def grant(self, count: int, tokens: int = 10, cost_usd: float = 0.0) -> Sequence[Lease]:
        self.last += count
        wanted = [
            LeaseRequest(request_id=self.last - index, tokens=tokens, cost_usd=cost_usd)
            for index in range(count)
        ]
        return self.dispatch.exchange("w", (), wanted).leases

    def end(self, lease: Lease, kind: OutcomeKind = "ok", **fields: float) -> None:
        outcome = Outcome(lease_id=lease.lease_id, kind=kind, **fields)
        self.dispatch.exchange("w", [outcome], ())

    def saved(self) -> str:
        return self.dispatch.to_json("run")

    def snapshot(self) -> DispatchSnapshot:
        return self.dispatch.snapshot("run")


def test_a_restored_budget_goes_on_with_its_money_limits_and_last_minute() -> None:
    before = Process()
    first, second = before.grant(2, cost_usd=0.2)
    before.end(first, cost_usd=0.2)
    before.end(second, "rate_limited")
    after = Process(now=5000.0)  # another process, another clock
    after.dispatch.restore("run", before.saved())
    snapshot = after.snapshot()
    assert (snapshot.spent_usd, snapshot.concurrency_limit, snapshot.rate_limited) == (0.2, 7, 1)
    assert len(after.grant(9)) == 2  # of 4 a minute
    after.now += 60.0
    assert len(after.grant(9)) == 2


def test_tokens_of_the_last_minute_are_restored_as_the_server_counted_them() -> None:
    before, after = Process(), Process()
    [lease] = before.grant(1, tokens=50)
    before.end(lease, tokens=80)
    after.dispatch.restore("run", before.saved())
    assert len(after.grant(1, tokens=21)) == 0
    assert len(after.grant(1, tokens=20)) == 1


def test_restoring_never_lowers_what_is_spent() -> None:
    process = Process()
    [lease] = process.grant(1, cost_usd=0.5)
    process.end(lease, cost_usd=0.5)
    older = json.loads(process.saved()) | {"spent_usd": 0.1}
    process.dispatch.restore("run", json.dumps(older))
    assert process.snapshot().spent_usd == 0.5


def test_restoring_neither_closes_nor_raises_what_is_open_and_low_here() -> None:
    well, ill = Process(), Process()
    for kind in ("rate_limited", "failed"):
        ill.end(*ill.grant(1), kind)
    ill.dispatch.restore("run", well.saved())
    assert ill.snapshot().endpoints == {A: "open"}
    assert ill.snapshot().concurrency_limit == 7


def test_a_state_is_taken_once_and_never_by_its_own_dispatch() -> None:
    own, other = Process(), Process()
    own.end(*own.grant(1))
    own.dispatch.restore("run", own.saved())
    for _ in range(3):
        other.dispatch.restore("run", own.saved())
    assert len(own.grant(9)) == len(other.grant(9)) == 3


def test_a_state_that_comes_after_the_first_leases_still_counts() -> None:
    before, late = Process(), Process()
    before.end(*before.grant(1))
    late.grant(2)  # the clients were quicker than the driver
    late.dispatch.restore("run", before.saved())
    assert len(late.grant(9)) == 1


def test_an_endpoint_that_joins_after_the_restore_goes_on_too() -> None:
    before, after = Process([A, B]), Process([A])
    for lease in before.grant(2):
        before.end(lease, "wrong_judge")
    after.dispatch.restore("run", before.saved())
    after.join([A, B])
    assert after.snapshot().endpoints == dict.fromkeys((A, B), "open (wrong model)")


@pytest.mark.parametrize("text", ["", "{}", '{"spent_usd": "much"}'])
def test_a_state_that_cannot_be_read_is_an_error_in_words(text: str) -> None:
    with pytest.raises(RunFolderError, match=r"resume from an older checkpoint"):
        Process().dispatch.restore("run", text)
