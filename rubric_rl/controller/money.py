"""What judging may cost: when a run stops before it would spend more than it may.

    judge --verdict UNKNOWN for want of money--> OverBudget --+
    step boundary: spent + next step > limit --> OverBudget --+--> checkpoint, BudgetExhaustedError

A step of which any verdict was refused for want of money is not trained on: its
prompts stay unused, and a resumed run with a higher limit does it as it would
have been done. Without a limit nothing here has an effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from rubric_rl.config.schema import Config
from rubric_rl.controller.interfaces import JudgePool, JudgePoolStatus
from rubric_rl.controller.schedule import evaluation_due, finished
from rubric_rl.controller.state import TrainState
from rubric_rl.errors import BudgetExhaustedError, OverBudget
from rubric_rl.refinement.interfaces import Judges, Proposer
from rubric_rl.refinement.records import Proposal, RefinementRequest
from rubric_rl.refinement.store import RubricStore
from rubric_rl.types import (
    FailureCause,
    JudgedSample,
    Judgement,
    JudgeRequest,
    PromptRecord,
    Rubric,
)

# Costs are sums of many small floats.
_ROUNDING = 1e-9


class PaidJudges:
    """Judges that raise OverBudget as soon as a verdict was refused for want of money.

    So everything in flight is cancelled at once: what is generated now is not
    going to be judged.
    """

    def __init__(self, judges: Judges, config: Config) -> None:
        self._asked = judges
        self._limit = config.judge.budget.max_cost_usd

    async def judge(self, request: JudgeRequest) -> Judgement:
        """See `JudgePool.judge`. Raises OverBudget."""
        judgement = await self._asked.judge(request)
        if self._limit is not None:
            refuse_unpaid(judgement)
        return judgement


class BudgetedJudges(PaidJudges):
    """The same of a judge pool."""

    def __init__(self, judges: JudgePool, config: Config) -> None:
        super().__init__(judges, config)
        self._judges = judges

    async def status(self) -> JudgePoolStatus:
        return await self._judges.status()

    async def restore(self, limiter_state: str) -> None:
        await self._judges.restore(limiter_state)


class BudgetSource(Protocol):
    """A proposer and what is known of its cost; `RefinementParts` is one."""

    @property
    def proposer(self) -> Proposer: ...

    @property
    def store(self) -> RubricStore: ...

    @property
    def usd_apart(self) -> float:
        """What proposals have cost beside what the judges' account says."""
        ...


class BudgetedProposer:
    """A proposer that raises OverBudget where a further proposal could cost more than is left.

    Each in flight is taken for as dear as the dearest so far; the first goes alone. What
    verdicts between two proposals cost is seen with the second.
    """

    def __init__(
        self,
        source: BudgetSource,
        judges: BudgetedJudges,
        config: Config,
        *,
        gold_usd: float = 0.0,
    ) -> None:
        """`gold_usd`: what gold has cost beside what the judges say was spent."""
        self._gold_usd = gold_usd
        self._source = source
        self._judges = judges
        self._limit = config.judge.budget.max_cost_usd
        self._in_flight = 0
        self._first = asyncio.Lock()
        self._is_known = False
        """Whether a proposal has come, so that there is a cost to go by."""
        self._dearest = max(
            (r.cost_usd for p in source.store.prompt_ids for r in source.store.history(p)),
            default=0.0,
        )

    @property
    def author(self) -> str:
        return self._source.proposer.author

    async def initial(self, record: PromptRecord) -> tuple[Rubric, Proposal]:
        """See `Proposer.initial`."""
        async with self._place():
            rubric, proposal = await self._source.proposer.initial(record)
            self._learn(proposal)
        return rubric, proposal

    async def refine(self, request: RefinementRequest) -> Proposal:
        """See `Proposer.refine`."""
        async with self._place():
            proposal = await self._source.proposer.refine(request)
            self._learn(proposal)
        return proposal

    @asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        if self._limit is None:
            yield
            return
        async with AsyncExitStack() as stack:
            if not (self._dearest or self._is_known):
                await stack.enter_async_context(self._first)
            self._in_flight += 1
            stack.callback(self._leave)
            apart = self._source.usd_apart + self._gold_usd
            spent = (await self._judges.status()).spent_usd + apart
            if spent + self._in_flight * self._dearest > self._limit * (1 + _ROUNDING):
                raise OverBudget("a further proposal could cost more than is left")
            yield

    def _learn(self, proposal: Proposal) -> None:
        self._dearest, self._is_known = max(self._dearest, proposal.cost_usd), True

    def _leave(self) -> None:
        self._in_flight -= 1


def refuse_unpaid(judgement: Judgement) -> None:
    """Raise OverBudget if a verdict was refused for want of money."""
    if any(verdict.cause is FailureCause.BUDGET for verdict in judgement.verdicts):
        raise OverBudget("a verdict was refused because the call would have cost too much")


def cost_usd(samples: Iterable[JudgedSample]) -> float:
    """What judging these samples cost."""
    return sum((sample.judgement.usage.cost_usd for sample in samples), 0.0)


def next_step_usd(config: Config, state: TrainState) -> float:
    """What is due now and the next step with its evaluation may cost, by the dearest so far."""
    num_evals = evaluation_due(config, state) + _next_evaluates(config, state)
    return state.dearest_step_usd + num_evals * state.dearest_eval_usd


def refuse_next_step(
    config: Config, state: TrainState, status: JudgePoolStatus, apart_usd: float
) -> None:
    """Raise OverBudget if the next step could make the run cost more than it may.

    `apart_usd` was spent beside what the judges say: on proposals, and by a gold judge.
    """
    limit, more = config.judge.budget.max_cost_usd, next_step_usd(config, state)
    if limit is None or finished(config, state):
        return
    if status.spent_usd + apart_usd + more > limit * (1 + _ROUNDING):
        raise OverBudget("the next step could cost more than is left")


def exhausted(
    config: Config,
    state: TrainState,
    status: JudgePoolStatus,
    apart_usd: float,
    why: OverBudget,
) -> BudgetExhaustedError:
    """The error of a run whose money is used up, at the checkpoint of `state`."""
    gold = f" and {state.gold_usd:.4f} USD on gold" if state.gold_usd else ""
    proposals_usd = apart_usd - state.gold_usd
    proposals = f" and {proposals_usd:.4f} USD on proposals" if proposals_usd else ""
    return BudgetExhaustedError(
        f"judging stops after step {state.step}: {why}. Spent: {status.spent_usd:.4f} USD"
        f"{gold}{proposals} of judge.budget.max_cost_usd={config.judge.budget.max_cost_usd:g}; the "
        f"dearest step so far: {state.dearest_step_usd:.4f} USD, the dearest evaluation: "
        f"{state.dearest_eval_usd:.4f} USD. A checkpoint was left: raise "
        "judge.budget.max_cost_usd and set run.resume=auto to go on"
    )


def _next_evaluates(config: Config, state: TrainState) -> bool:
    step = state.step + 1
    return step % config.run.eval_every_steps == 0 or step == config.run.max_steps
