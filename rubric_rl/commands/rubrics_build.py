"""`rubric-rl rubrics build`: build and refine rubrics for a file of prompts, without training.

    rubric-rl rubrics build prompts.jsonl --pool answers.jsonl --store rubrics/ \\
        +condition=great_diverse_pairs refinement=llm judge=openai

Prompts advance side by side, each through its own rounds, within one budget. The same
command goes on where it stopped: what is in the store is not done again. When too much
fails it says so and exits with 2; what failed is then tried again by the same command.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.commands.build_report import (
    BuildProgress,
    BuildResult,
    print_closing,
    refuse_failures,
)
from rubric_rl.config.compose import compose
from rubric_rl.config.judge import JudgeConfig
from rubric_rl.config.schema import Config
from rubric_rl.controller.money import refuse_unpaid
from rubric_rl.controller.refinement_phase import NEEDS_JUDGE, refinement_rules
from rubric_rl.data.bare_prompts import load_records, load_with_rubrics
from rubric_rl.errors import BudgetExhaustedError, ConfigError, DataError, OverBudget
from rubric_rl.judging.assembly import OwnBudget, OwnJudge, own_caller, own_judge
from rubric_rl.judging.cache import VerdictCache
from rubric_rl.judging.endpoint import check_judge, check_price
from rubric_rl.judging.json_ask import JsonModel
from rubric_rl.judging.judge import check_rubrics
from rubric_rl.judging.proposer import LlmProposer, ProposerTemplates
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.refinement.algorithm import PromptRefiner, RefinementOutcome
from rubric_rl.refinement.candidates import (
    CandidatePool,
    only_sources,
    pool_of,
    read_pool,
    top_candidates,
)
from rubric_rl.refinement.interfaces import ProposalError, Proposer
from rubric_rl.refinement.offline_proposer import OfflineProposer, read_bank
from rubric_rl.refinement.passes import PassStates, pass_name, side_by_side
from rubric_rl.refinement.store import RubricStore, initial_revision
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import Judgement, JudgeRequest, PromptRecord

ACCOUNT = "build"
"""Whose money proposals and verdicts are; known in this process alone."""
_ROOTS = ("judge", "rubrics", "refinement", "condition", "experiment", "run", "hydra")


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    job = _job(args)
    if args.dry_run:
        sys.stdout.write(f"{job.in_words()}\n")
        return 0
    try:
        return asyncio.run(_run(job))
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped: the store {args.store} has what is done; run it again\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl rubrics build", description="Build and refine rubrics from answers."
    )
    parser.add_argument("input", metavar="IN", help="file with the prompts (and their rubrics)")
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="GROUP=OPTION or SECTION.KEY=VALUE"
    )
    parser.add_argument("--store", type=Path, required=True, help="folder of the rubric store")
    parser.add_argument("--pool", type=Path, help="JSONL with answers to the prompts")
    parser.add_argument("--format", default="auto", help="layout of IN (default: auto)")
    parser.add_argument(
        "--fresh", action="store_true", help="write first rubrics from the prompts alone"
    )
    parser.add_argument(
        "--pass",
        dest="pass_name",
        default="build",
        help="name of this pass over the rubrics (build); a new one refines further",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="write each prompt's best version so far to rubrics.jsonl, not its newest",
    )
    parser.add_argument("--limit", type=int, help="only the first so many prompts")
    parser.add_argument("--dry-run", action="store_true", help="check the inputs; ask nothing")
    return parser


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be built, checked."""

    config: Config
    records: tuple[PromptRecord, ...]
    rubrics: RubricSet
    """First rubrics; of no use if they are written afresh."""
    pool: CandidatePool
    store: Path
    fresh: bool
    pass_name: str
    """What was decided under this name is not decided again."""
    best: bool
    """Write the best versions, not the newest."""

    def in_words(self) -> str:
        with_answers = sum(bool(self.pool.of(r.prompt_id)) for r in self.records)
        rounds = self.config.refinement.rounds
        return (
            f"{len(self.records)} prompts, {with_answers} with answers in the pool "
            f"({self.pool.num_candidates} answers; left out: {self.pool.left_out or 'none'}), "
            f"{rounds} rounds, gate {'on' if self.config.refinement.gate.enabled else 'off'}"
        )


def _job(args: argparse.Namespace) -> _Job:
    for override in args.overrides:
        key = override.lstrip("+~").split("=")[0].split(".")[0]
        if "=" in override and key not in _ROOTS:
            raise ConfigError(
                f"override {override!r} has no effect on building rubrics, which takes those of "
                "judge, rubrics, refinement and condition: leave it out"
            )
    config = compose([*args.overrides, "run.dir=unused"])
    if config.judge.grades_whole_answers:
        raise ConfigError(
            "this judge grades answers as a whole and uses no rubric: choose judge.llm.mode=all, "
            "chunk or each, and no judge.reward_model"
        )
    if config.refinement.proposer.kind == "llm" and config.judge.llm is None:
        raise ConfigError(NEEDS_JUDGE)
    proposer = config.refinement.proposer
    is_packaged = proposer.kind == "offline" and str(proposer.bank).startswith("builtin:")
    if is_packaged and proposer.bank != args.input:
        raise ConfigError(
            f"refinement.proposer.bank={proposer.bank!r} is for other prompts than {args.input}: "
            "set refinement.proposer.bank to criteria for these, or refinement=llm"
        )
    records, rubrics = _records(args)
    check_rubrics(rubrics.rubrics, has_llm=config.judge.llm is not None)
    pool = pool_of(())
    if args.pool:
        pool = only_sources(read_pool(args.pool), config.refinement.pool_sources)
    if config.refinement.rounds and not any(pool.of(record.prompt_id) for record in records):
        raise DataError(
            f"refinement.rounds={config.refinement.rounds} contrasts answers, and --pool "
            f"{args.pool or '(not given)'} has none to the prompts of {args.input}: collect some "
            "with `rubric-rl rollouts`, or set refinement.rounds=0 for first rubrics alone"
        )
    if config.judge.llm is not None:
        check_price(config.judge.llm, config.judge.budget)
    return _Job(
        config=config,
        records=records,
        rubrics=rubrics,
        pool=pool,
        store=args.store,
        fresh=args.fresh,
        pass_name=args.pass_name,
        best=args.best,
    )


def _records(args: argparse.Namespace) -> tuple[tuple[PromptRecord, ...], RubricSet]:
    """The prompts, and their first rubrics; none if they are to be written afresh."""
    if args.fresh:
        records = load_records(args.input, args.format)[: args.limit]
        return records, RubricSet(version=0, rubrics=())
    loaded = load_with_rubrics(args.input, args.format)
    records = (*loaded.train, *loaded.eval)[: args.limit]
    rubrics = tuple(loaded.rubrics.of(record.prompt_id) for record in records)
    return records, RubricSet(version=0, rubrics=rubrics)


# ----------------------------------------------------------------------------
# The run


async def _run(job: _Job) -> int:
    """Build, write what there is, and only then say what is missing.

    Raises:
        RefinementFailedError, JudgeFailureError: too much failed; what was decided is kept.
        BudgetExhaustedError: the money is spent.
    """
    store, budget = RubricStore(job.store), OwnBudget()
    states = PassStates((r.prompt_id for r in job.records), lambda: progress.update())
    progress = BuildProgress(states, lambda: budget.spent_usd(ACCOUNT))
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        stack.callback(progress.close)
        store.lock()  # before anything is paid for
        proposer = await stack.enter_async_context(_proposer(job.config, budget))
        judge = await stack.enter_async_context(_judge(job, budget))
        builder = _Builder(job, store, judge, proposer, states)
        try:
            result = await builder.run()
        except OverBudget as why:
            raise _exhausted(job, why) from None
        finally:
            _write_rubrics(job, store)
        progress.close()
        print_closing(job.store, store, result)
        refuse_failures(job.config, store, builder.phase, result)
    return 0


def _write_rubrics(job: _Job, store: RubricStore) -> None:
    choice = store.best if job.best else store.head
    rubrics = [rubric for r in job.records if (rubric := choice(r.prompt_id)) is not None]
    version = max((rubric.version for rubric in rubrics), default=0)
    RubricSet(version=version, rubrics=tuple(rubrics)).write(job.store / "rubrics.jsonl")


def _exhausted(job: _Job, why: OverBudget) -> BudgetExhaustedError:
    return BudgetExhaustedError(
        f"building stops: {why}. judge.budget.max_cost_usd={job.config.judge.budget.max_cost_usd} "
        f"is for proposals and verdicts together. The store {job.store} has what is done: the same "
        "command goes on, with the same amount to spend"
    )


class _PaidJudge:
    """A judge that stops the build where a verdict was refused for want of money."""

    def __init__(self, judge: OwnJudge) -> None:
        self._judge = judge

    async def judge(self, request: JudgeRequest) -> Judgement:
        judgement = await self._judge.judge(request)
        refuse_unpaid(judgement)
        return judgement


class _Builder:
    """All prompts side by side; a straggler holds nobody up."""

    def __init__(
        self,
        job: _Job,
        store: RubricStore,
        judge: OwnJudge,
        proposer: Proposer,
        states: PassStates,
    ) -> None:
        self._job = job
        self._store = store
        self._judge = _PaidJudge(judge)
        self._proposer = proposer
        self._states = states
        self._rules = refinement_rules(job.config)
        self.phase = pass_name(store, job.pass_name)
        self._without_rubric: list[str] = []

    async def run(self) -> BuildResult:
        in_flight = self._job.config.refinement.prompts_in_flight
        outcomes = await side_by_side(self._job.records, self._build, at_once=in_flight)
        return BuildResult(
            outcomes=tuple(outcome for outcome in outcomes if outcome is not None),
            without_rubric=tuple(self._without_rubric),
        )

    async def _build(self, record: PromptRecord) -> RefinementOutcome | None:
        """None if there is no first rubric."""
        prompt_id, outcome = record.prompt_id, None
        if await self._begin(record):
            candidates = self._job.pool.of(prompt_id)
            refiner = PromptRefiner(
                record,
                top_candidates(candidates, self._job.config.refinement.pool_size),
                store=self._store,
                judges=self._judge,
                proposer=self._proposer,
                rules=self._rules,
                phase=self.phase,
                watch=lambda state: self._states.move(prompt_id, state),
            )
            outcome = await refiner.run()
        self._states.move(prompt_id, "done")
        return outcome

    async def _begin(self, record: PromptRecord) -> bool:
        """Enter the first rubric into the store; False if there is none."""
        if self._store.head(record.prompt_id) is not None:
            return True
        if not self._job.fresh:
            first = self._job.rubrics.of(record.prompt_id)
            self._store.begin([first], author="file", phase=self.phase)
            return True
        self._states.move(record.prompt_id, "writing")
        try:
            rubric, proposal = await self._proposer.initial(record)
        except ProposalError as err:
            self._without_rubric.append(f"{record.prompt_id}: {err}")
            return False
        self._store.append(
            initial_revision(
                rubric,
                author=proposal.author,
                phase=self.phase,
                template_hash=proposal.template_hash,
                cost_usd=proposal.cost_usd,
            )
        )
        return True


@asynccontextmanager
async def _judge(job: _Job, budget: OwnBudget) -> AsyncIterator[OwnJudge]:
    judge = job.config.judge
    llm = judge.llm
    identity = None if llm is None else await check_judge(llm)
    async with AsyncExitStack() as stack:
        cache = None
        if llm is not None and judge.cache.enabled:
            cache = VerdictCache(Path(judge.cache.dir) if judge.cache.dir else job.store)
            stack.callback(cache.close)
        yield await stack.enter_async_context(
            own_judge(
                judge,
                identity,
                account=ACCOUNT,
                cache=cache,
                templates=JudgeTemplates.of(llm),
                budget=budget,
            )
        )


@asynccontextmanager
async def _proposer(config: Config, budget: OwnBudget) -> AsyncIterator[Proposer]:
    settings, limits = config.refinement.proposer, refinement_rules(config).limits
    if settings.kind == "offline":
        if settings.bank is None:
            raise ConfigError(
                "refinement.proposer.kind='offline' needs refinement.proposer.bank; a chat model "
                "proposes with refinement=llm"
            )
        yield OfflineProposer(read_bank(settings.bank), limits)
        return
    if settings.llm is None:
        raise ConfigError("refinement.proposer.kind='llm' needs refinement.proposer.llm")
    identity = await check_judge(settings.llm)
    judge = JudgeConfig(llm=settings.llm, budget=config.judge.budget, health=config.judge.health)
    async with own_caller(judge, identity, account=ACCOUNT, budget=budget) as caller:
        yield LlmProposer(
            JsonModel(
                caller=caller,
                contract=identity.contract,
                max_reply_tokens=settings.llm.max_reply_tokens,
            ),
            limits,
            ProposerTemplates.load(settings.template_dir),
            author=settings.llm.model,
            show_verdicts=settings.show_verdicts,
        )
