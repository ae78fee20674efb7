"""How judge workers ask for the right to send a request, and say what came of it.

    worker --(outcomes of finished leases, requests for new ones)--> dispatcher
           <--(leases, each naming its endpoint; refusals)----------

One message carries both directions for many requests at once, so that a
thousand requests a second cost the dispatcher little. A lease is the right to
send one request to one endpoint now; it counts against every limit from its
grant on. See `judging.dispatch` for the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rubric_rl.types import FailureCause

OutcomeKind = Literal[
    "ok", "rate_limited", "failed", "timeout", "refused", "wrong_judge", "cancelled", "unused"
]

LEASE_USE_S = 5.0
"""A lease not used within so many seconds of its receipt is given back as `unused`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """The wish to send one request."""

    request_id: int
    """Unique for its client."""
    tokens: int
    """Estimate of prompt and reply together, for the limit of tokens a minute."""
    cost_usd: float
    """The most that the request can cost, for the limit of money."""
    avoid: str | None = None
    """Endpoint that failed this request last: another one is chosen if any is up."""
    account: str = ""
    """Whose money it is: the id of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to send one request."""

    lease_id: int
    request_id: int
    endpoint: str
    hedge_after_s: float | None
    """Seconds without a reply after which a second request is worth it; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that will not get a lease."""

    request_id: int
    cause: FailureCause
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one lease. It ends the lease."""

    lease_id: int
    kind: OutcomeKind
    """`refused`: the request itself is at fault, the endpoint is well. `cancelled`: nobody
    waited for the reply any more. `unused`: the request was never sent."""
    latency_s: float = 0.0
    tokens: int = 0
    """Prompt and reply, as the server counted them; 0 if it gave no reply."""
    cost_usd: float = 0.0
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """The dispatcher's answer. Requests named in neither list are still waiting."""

    leases: tuple[Lease, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    next_in_s: float | None = None
    """When more could be granted even if nothing is reported; None: only after a report."""


class Dispatcher(Protocol):
    """Who grants leases; in a cluster, one actor for all workers."""

    async def exchange(
        self, client: str, outcomes: Sequence[Outcome], wanted: Sequence[LeaseRequest]
    ) -> Grants:
        """Report outcomes and ask for leases.

        `wanted` are all requests that the client is waiting with, oldest first, also
        those it asked for before. Returns as soon as there is a grant or a refusal, or
        after about a second without one; at once if `wanted` is empty.
        """
        ...
