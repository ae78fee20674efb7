"""Who takes part in the judge budget: their limits, and whose turn it is.

The strictest limits of the clients that were active within the last minute count
for all. Room is shared round robin: whoever has had the fewest grants comes
first. Only the client that asks can be given something, so what others are
behind is left free for them, as long as they wait and could use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.endpoint_health import EndpointHealth
from rubric_rl.judging.leases import LeaseRequest
from rubric_rl.judging.limits import Limits, strictest

ACTIVE_S = 60.0
"""A client's limits count for so long after its last exchange."""
WAITING_S = 2.5
"""Room is kept for a client that waits for so long after its last exchange; one that is alive
asks again within about a second."""

_REMEMBERED_ANSWERS = 10_000


@dataclass(slots=True, kw_only=True)
class Member:
    """One client."""

    budget: JudgeBudgetConfig
    health: JudgeHealthConfig
    account: str
    endpoints: list[EndpointHealth]
    lease_timeout_s: float
    active_at: float
    turn: int = 0
    """Grants it has had, times without a wish made up for: the smallest comes first."""
    num_waiting: int = 0
    next_tokens: int = 0
    """Of the oldest request that waits."""
    avoiding: str | None = None
    """Endpoint that everything it waits with avoids."""
    lacks_money: bool = False
    """It waits for money that is reserved, and can use no room before that comes back."""
    answered: dict[int, None] = field(default_factory=dict[int, None])
    """Requests granted or refused lately. A client whose messages cross asks for them again."""

    def allowed(self, avoid: str | None, now: float) -> list[EndpointHealth]:
        """Where a request may go: to the avoided endpoint only if no other is up."""
        if avoid is None:
            return self.endpoints
        others = [endpoint for endpoint in self.endpoints if endpoint.name != avoid]
        return others if any(endpoint.is_up(now) for endpoint in others) else self.endpoints

    def room(self, now: float) -> int:
        """Requests that its endpoints could take of it now."""
        return sum(endpoint.room(now) for endpoint in self.allowed(self.avoiding, now))

    def waits(self, now: float) -> bool:
        return self.num_waiting > 0 and now - self.active_at <= WAITING_S

    def answer(self, request_id: int) -> None:
        """The request got a lease or a refusal."""
        self.num_waiting -= 1
        self.answered[request_id] = None
        if len(self.answered) > _REMEMBERED_ANSWERS:
            del self.answered[next(iter(self.answered))]


class Rival(NamedTuple):
    """Another client that could get something now."""

    turn: int
    most: int
    """Requests that it waits with and its endpoints could take."""
    next_tokens: int


class Members:
    """All clients."""

    def __init__(self) -> None:
        self._all: dict[str, Member] = {}
        self._active: dict[str, Member] = {}
        self._limits = strictest([JudgeBudgetConfig()], [JudgeHealthConfig()])
        self._limits_until = 0.0
        self._max_cost_usd: dict[str, float] = {}
        self._last_turn = 0

    # ------------------------------------------------------------------------
    # Taking part

    def join(self, client: str, member: Member) -> None:
        """Take part, or change one's limits; a turn and what was answered stay."""
        if known := self._all.get(client):
            member.turn, member.answered = known.turn, known.answered
            member.num_waiting, member.next_tokens = known.num_waiting, known.next_tokens
        else:
            member.turn = self._last_turn
        self._all[client] = member
        self._agree(member.active_at)

    def touch(self, client: str, now: float) -> Member:
        """The client, which is active now. Raises KeyError if it never joined."""
        member = self._all[client]
        member.active_at = now
        if client not in self._active:
            self._agree(now)
        return member

    def withdraw(self, client: str) -> None:
        self._all[client].num_waiting = 0

    @property
    def num_waiting(self) -> int:
        """Requests that wait, of all active clients."""
        return sum(member.num_waiting for member in self._active.values())

    # ------------------------------------------------------------------------
    # Limits

    def limits(self, now: float) -> Limits:
        """The strictest; those of the clients that were active last while none is."""
        return self._limits if now <= self._limits_until else self._agree(now)

    def max_cost_usd(self, member: Member, account: str) -> float | None:
        """The most of an account. One that no client joined with has its asker's limit."""
        return self._max_cost_usd.get(account, member.budget.max_cost_usd)

    def _agree(self, now: float) -> Limits:
        for client, member in self._all.items():
            if now - member.active_at <= ACTIVE_S:
                self._active[client] = member
            else:
                self._active.pop(client, None)
                member.num_waiting = 0
                member.answered.clear()  # messages don't cross for so long
        members = list(self._active.values())
        self._limits_until = min((m.active_at for m in members), default=now) + ACTIVE_S
        if members:
            self._limits = strictest([m.budget for m in members], [m.health for m in members])
            self._max_cost_usd = _max_costs(members)
            for endpoint in {e.name: e for m in self._all.values() for e in m.endpoints}.values():
                endpoint.limit.set_ceiling(self._limits.max_concurrency)
        return self._limits

    # ------------------------------------------------------------------------
    # Turns

    def begins_to_wait(self, member: Member, num_waiting: int, now: float) -> None:
        """It asks for so much. Times in which it couldn't have got a thing are not made up for."""
        member.avoiding, member.lacks_money = None, False
        if not member.num_waiting or not member.room(now):
            member.turn = max(member.turn, self._last_turn)
        member.num_waiting = num_waiting

    def granted(self, member: Member) -> None:
        self._last_turn = max(self._last_turn, member.turn)
        member.turn += 1

    def due(self, now: float) -> list[str]:
        """Clients that wait and whose endpoints have room."""
        return [n for n, member in self._active.items() if member.waits(now) and member.room(now)]

    def rivals(self, client: str, now: float) -> list[Rival]:
        """Other clients that wait and could get something now."""
        found: list[Rival] = []
        for name, member in self._active.items():
            if name == client or member.lacks_money or not member.waits(now):
                continue
            if room := member.room(now):
                found.append(Rival(member.turn, min(member.num_waiting, room), member.next_tokens))
        return found


def is_its_turn(
    member: Member, request: LeaseRequest, rivals: Sequence[Rival], *, room: float, tokens: float
) -> bool:
    """Whether all that had fewer grants could draw level in what this grant leaves over.

    `room`, `tokens`: requests and tokens that could be granted now, to all together.
    """
    tokens -= request.tokens
    for rival in rivals:
        behind = min(member.turn - rival.turn, rival.most)
        if behind > 0:
            room -= behind
            tokens -= behind * rival.next_tokens
    return room >= 1 and tokens >= 0


def _max_costs(members: Sequence[Member]) -> dict[str, float]:
    """The strictest limit of money by account, where there is one."""
    most: dict[str, float] = {}
    for member in members:
        limit = member.budget.max_cost_usd
        if limit is not None:
            most[member.account] = min(limit, most.get(member.account, limit))
    return most
