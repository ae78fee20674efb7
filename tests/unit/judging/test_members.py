"""Several clients at one budget: their limits, their shares, their turns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.leases import Grants, LeaseRequest, Outcome, OutcomeKind

A, B = "http://a/v1", "http://b/v1"


class Team:
    """Clients `w` and `v` and others at one dispatch, driven by hand."""

    def __init__(self, endpoints: Sequence[str] = (A,), **budget: object) -> None:
        self.now, self.last = 0.0, 0
        self.dispatch = Dispatch(now=lambda: self.now)
        self.out: dict[str, list[int]] = {}
        for client in ("w", "v"):
            self.join(client, endpoints, **budget)

    def join(self, client: str, endpoints: Sequence[str] = (A,), **budget: object) -> None:
        self.out.setdefault(client, [])
        self.dispatch.join(
            client,
            budget=JudgeBudgetConfig.model_validate(budget),
            health=JudgeHealthConfig(),
            account="run",
            endpoints=endpoints,
            lease_timeout_s=1000.0,
        )

    def wishes(
        self, count: int, tokens: int = 10, avoid: str | None = None, cost_usd: float = 0.0
    ) -> list[LeaseRequest]:
        self.last += count
        return [
            LeaseRequest(request_id=index, tokens=tokens, cost_usd=cost_usd, avoid=avoid)
            for index in range(self.last - count + 1, self.last + 1)
        ]

    def ask(
        self, client: str, wanted: Sequence[LeaseRequest], ends: int = 0, kind: OutcomeKind = "ok"
    ) -> int:
        """Report the client's `ends` oldest leases and ask; how many more it got."""
        return len(self.exchange(client, wanted, ends, kind).leases)

    def exchange(
        self, client: str, wanted: Sequence[LeaseRequest], ends: int = 0, kind: OutcomeKind = "ok"
    ) -> Grants:
        ended, self.out[client] = self.out[client][:ends], self.out[client][ends:]
        reports = [Outcome(lease_id=lease_id, kind=kind) for lease_id in ended]
        grants = self.dispatch.exchange(client, reports, wanted)
        self.out[client] += [lease.lease_id for lease in grants.leases]
        return grants


# ----------------------------------------------------------------------------
# Limits


def test_the_strictest_limit_of_the_active_clients_counts_for_all() -> None:
    team = Team(max_concurrency=20, requests_per_minute=50)
    team.join("strict", max_concurrency=3, requests_per_minute=40)
    assert team.ask("w", team.wishes(8)) == 3
    team.now += 61.0  # `strict` has not been heard of for a minute
    team.ask("w", ())
    assert team.ask("w", team.wishes(50)) == 17  # 20 at once, of which 3 are out
    team.ask("strict", ())
    assert team.dispatch.snapshot("run").concurrency_limit == 3


def test_the_last_limits_are_told_while_no_client_is_active() -> None:
    team = Team(max_concurrency=20)
    team.now += 3600.0
    assert team.dispatch.snapshot("run").concurrency_limit == 20


def test_joining_again_changes_the_limits_and_keeps_what_was_answered() -> None:
    team = Team(max_concurrency=5)
    wishes = team.wishes(3)
    assert team.ask("w", wishes) == 3
    team.join("w", max_concurrency=4)
    assert team.ask("w", [*wishes, *team.wishes(5)]) == 1


def test_a_client_that_is_not_known_is_an_error() -> None:
    with pytest.raises(KeyError):
        Team().dispatch.exchange("stranger", (), ())


# ----------------------------------------------------------------------------
# Turns


def test_waiting_clients_share_what_comes_free() -> None:
    team = Team(max_concurrency=4)
    assert team.ask("w", team.wishes(4)) == 4
    theirs, mine = team.wishes(4), team.wishes(4)
    assert team.ask("v", theirs) == 0
    grants = team.exchange("w", mine, ends=4)
    assert len(grants.leases) == 2  # the other half is for `v`, which has waited
    assert grants.next_in_s == pytest.approx(0.05)
    assert team.dispatch.due() == ["w", "v"]
    assert team.ask("v", theirs) == 2
    assert team.dispatch.due() == []


def test_what_one_client_does_not_want_is_for_the_others() -> None:
    team = Team(max_concurrency=10)
    team.ask("w", team.wishes(10))
    team.ask("v", team.wishes(3))
    assert team.ask("w", team.wishes(20), ends=10) == 7


def test_a_client_that_reports_all_the_time_does_not_starve_one_that_waits() -> None:
    team = Team(max_concurrency=4)
    wishes = {client: team.wishes(200) for client in ("w", "v")}
    assert team.ask("w", wishes["w"]) == 4
    got = {"w": 0, "v": team.ask("v", wishes["v"])}
    for _ in range(100):  # `w` asks first each time, and reports one lease a time
        team.now += 0.1
        got["w"] += team.ask("w", wishes["w"], ends=1)
        got["v"] += team.ask("v", wishes["v"], ends=1)
    assert got["w"] > 50
    assert abs(got["w"] - got["v"]) <= 4


def test_a_whole_minute_that_comes_free_at_once_is_shared() -> None:
    team = Team(max_concurrency=100, requests_per_minute=60)
    wishes = {client: team.wishes(200) for client in ("w", "v")}
    for minute in range(4):
        start, got = 61.0 * minute, {"v": 0, "w": 0}
        for team.now in (start, start + 1.0, start + 60.0):
            # What is granted at the start is reported a second later, and leaves after 61 s.
            for client in ("v", "w", "v"):
                got[client] += team.ask(client, wishes[client], ends=100 * (team.now > start))
        if minute:
            assert got == {"w": 30, "v": 30}


def test_small_requests_of_one_client_do_not_starve_a_large_one_of_another() -> None:
    team = Team(max_concurrency=50, tokens_per_minute=100)
    for second in range(10):
        team.now = float(second)
        assert team.ask("w", team.wishes(1, tokens=10)) == 1
        team.ask("w", (), ends=1)
    large, small = team.wishes(1, tokens=40), team.wishes(100, tokens=10)
    got = {"w": 0, "v": 0}
    for tick in range(40):  # from 60 s on ten tokens leave each second
        team.now = 60.0 + tick / 4
        got["w"] += team.ask("w", small)
        got["v"] += team.ask("v", large)
    assert got == {"w": 6, "v": 1}  # 100 tokens


def test_time_in_which_a_client_could_not_have_got_anything_is_not_made_up_for() -> None:
    team = Team([A], max_concurrency=4)
    team.join("v", [B], max_concurrency=4)
    theirs, mine = team.wishes(500), team.wishes(500)
    team.ask("v", theirs)
    team.ask("v", theirs, ends=1, kind="wrong_judge")
    team.ask("v", (), ends=9)
    team.ask("v", theirs)
    for _ in range(20):  # B is open, `w` is served a hundred times
        team.now += 0.1
        team.ask("v", theirs)
        team.ask("w", mine, ends=5)
    team.now += 10.0
    team.ask("w", (), ends=9)
    got = {"w": 0, "v": 0}
    for _ in range(40):  # now B takes its probe, and then all four
        team.now += 0.1
        got["v"] += team.ask("v", theirs, ends=1)
        got["w"] += team.ask("w", mine, ends=1)
    assert got["w"] >= 18


def test_a_client_that_waits_for_an_endpoint_does_not_keep_room_at_another() -> None:
    team = Team([A, B], max_concurrency=8)
    for _ in range(8):  # B's limit falls to 1
        team.now += 0.1
        team.ask("w", team.wishes(1, avoid=A))
        team.ask("w", (), ends=1, kind="rate_limited")
    # `v` takes it, and then waits for it.
    assert team.ask("v", team.wishes(1, avoid=A)) == 1
    assert team.ask("v", team.wishes(9, avoid=A)) == 0
    assert team.ask("w", team.wishes(9)) == 7


def test_a_client_that_waits_for_money_does_not_keep_room_from_others() -> None:
    team = Team(max_concurrency=4, max_cost_usd=1.0)
    assert team.ask("w", team.wishes(4)) == 4
    dear = team.wishes(1, cost_usd=0.8)
    assert team.ask("v", team.wishes(1, cost_usd=0.8)) == 0
    team.ask("w", (), ends=1)
    assert team.ask("v", team.wishes(1, cost_usd=0.8)) == 1
    assert team.ask("w", team.wishes(2), ends=2) == 2
    assert team.ask("v", dear) == 0  # now `v` has had fewer than `w`
    team.ask("w", (), ends=1)
    assert team.ask("v", dear) == 0  # there is a place, and 0.8 of 1.0 are reserved
    assert team.ask("w", team.wishes(2)) == 1
    assert team.dispatch.due() == []
    team.ask("v", (), ends=1)
    assert team.ask("v", dear) == 1


def test_nothing_is_kept_for_a_client_that_is_gone_or_gave_up() -> None:
    team = Team(max_concurrency=4)
    team.join("gone", max_concurrency=4)
    team.ask("w", team.wishes(4))
    team.ask("gone", team.wishes(4))
    team.now += 2.6  # it would have asked again after a second
    team.ask("v", team.wishes(4))
    team.dispatch.withdraw("v")
    assert team.ask("w", team.wishes(4), ends=4) == 4


def test_within_one_client_the_oldest_request_comes_first() -> None:
    team = Team(max_concurrency=2)
    wishes = team.wishes(4)
    grants = team.exchange("w", wishes)
    assert [lease.request_id for lease in grants.leases] == [1, 2]
