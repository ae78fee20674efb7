"""`rubric-rl rubrics build`: build and refine rubrics for a file of prompts, without training.

    rubric-rl rubrics build prompts.jsonl --pool answers.jsonl --store rubrics/ \\
        +condition=great_diverse_pairs refinement=llm judge=openai

Prompts advance side by side, each through its own rounds. The same command goes on
where it stopped: what is in the store is not done again.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rubric_rl.config.compose import compose
from rubric_rl.config.judge import JudgeConfig
from rubric_rl.config.schema import Config, DataConfig
from rubric_rl.controller.refinement_phase import refinement_rules
from rubric_rl.data.prompt_set import load_prompt_set
from rubric_rl.errors import ConfigError
from rubric_rl.judging.assembly import own_caller, own_judge
from rubric_rl.judging.cache import VerdictCache
from rubric_rl.judging.endpoint import check_judge, check_price
from rubric_rl.judging.judge import RubricJudge
from rubric_rl.judging.proposer import LlmProposer, ProposerModel, ProposerTemplates
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
from rubric_rl.refinement.store import RubricStore, initial_revision
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import PromptRecord

PHASE = "build"
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
    loaded = load_prompt_set(DataConfig.model_validate({"path": args.input, "format": args.format}))
    pool = only_sources(read_pool(args.pool), config.refinement.pool_sources) if args.pool else None
    if config.judge.llm is not None:
        check_price(config.judge.llm, config.judge.budget)
    return _Job(
        config=config,
        records=(*loaded.train, *loaded.eval)[: args.limit],
        rubrics=loaded.rubrics,
        pool=pool or pool_of(()),
        store=args.store,
        fresh=args.fresh,
    )


# ----------------------------------------------------------------------------
# The run


async def _run(job: _Job) -> int:
    store = RubricStore(job.store)
    progress = _Progress(len(job.records))
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        stack.callback(progress.close)
        proposer = await stack.enter_async_context(_proposer(job.config))
        judge = await stack.enter_async_context(_judge(job))
        builder = _Builder(job, store, judge, proposer, progress)
        outcomes = await builder.run()
    progress.close()
    heads = store.rubric_set(max((o.version_after for o in outcomes), default=0))
    heads.write(job.store / "rubrics.jsonl")
    _print_closing(job, outcomes, builder.num_without_rubric)
    return 0


class _Builder:
    """All prompts side by side; a straggler holds nobody up."""

    def __init__(
        self,
        job: _Job,
        store: RubricStore,
        judge: RubricJudge,
        proposer: Proposer,
        progress: _Progress,
    ) -> None:
        self._job = job
        self._store = store
        self._judge = judge
        self._proposer = proposer
        self._progress = progress
        self._rules = refinement_rules(job.config)
        self._places = asyncio.Semaphore(job.config.refinement.prompts_in_flight)
        self.num_without_rubric = 0

    async def run(self) -> list[RefinementOutcome]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._build(record)) for record in self._job.records]
        return [outcome for task in tasks if (outcome := task.result()) is not None]

    async def _build(self, record: PromptRecord) -> RefinementOutcome | None:
        async with self._places:
            if not await self._begin(record):
                self.num_without_rubric += 1
                self._progress.done(None)
                return None
            candidates = self._job.pool.of(record.prompt_id)
            refiner = PromptRefiner(
                record,
                top_candidates(candidates, self._job.config.refinement.pool_size),
                store=self._store,
                judges=self._judge,
                proposer=self._proposer,
                rules=self._rules,
                phase=PHASE,
            )
            outcome = await refiner.run()
        self._progress.done(outcome)
        return outcome

    async def _begin(self, record: PromptRecord) -> bool:
        """Enter the first rubric into the store; False if there is none."""
        if self._store.head(record.prompt_id) is not None:
            return True
        if not self._job.fresh:
            self._store.begin([self._job.rubrics.of(record.prompt_id)], author="file", phase=PHASE)
            return True
        try:
            rubric, proposal = await self._proposer.initial(record)
        except ProposalError as err:
            self._progress.note(f"{record.prompt_id}: no first rubric: {err}")
            return False
        self._store.append(initial_revision(rubric, author=proposal.author, phase=PHASE))
        return True


@asynccontextmanager
async def _judge(job: _Job) -> AsyncIterator[RubricJudge]:
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
                account=f"build-{secrets.token_hex(8)}",
                cache=cache,
                templates=JudgeTemplates.load(None if llm is None else llm.template_dir),
            )
        )


@asynccontextmanager
async def _proposer(config: Config) -> AsyncIterator[Proposer]:
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
    account = f"proposer-{secrets.token_hex(8)}"
    async with own_caller(judge, identity, account=account) as caller:
        model = ProposerModel(
            caller=caller,
            model=settings.llm.model,
            contract=identity.contract,
            max_reply_tokens=settings.llm.max_reply_tokens,
        )
        templates = ProposerTemplates.load(settings.template_dir)
        yield LlmProposer(model, limits, templates, show_verdicts=settings.show_verdicts)


# ----------------------------------------------------------------------------
# What a person sees


class _Progress:
    """A bar with counts on stderr."""

    def __init__(self, total: int) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._bar = Progress(
            TextColumn("rubrics"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("rubrics", total=total, counts="")
        self._accepted = self._rejected = self._failed = 0
        self._usd = 0.0
        self._bar.start()

    def done(self, outcome: RefinementOutcome | None) -> None:
        if outcome is not None:
            self._accepted += outcome.accepted
            self._rejected += outcome.rejected
            self._failed += outcome.failed
            self._usd += outcome.cost_usd
        counts = (
            f"accepted {self._accepted}, rejected {self._rejected}, failed {self._failed}, "
            f"proposals ${self._usd:.2f}"
        )
        self._bar.update(self._task, advance=1, counts=counts)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False)

    def close(self) -> None:
        self._bar.stop()


def _print_closing(job: _Job, outcomes: Sequence[RefinementOutcome], without: int) -> None:
    table = Table(box=None)
    table.add_column("")
    table.add_column("", justify="right")
    tied_before = sum(outcome.top_ties_before > 1 for outcome in outcomes)
    tied_after = sum(outcome.top_ties_after > 1 for outcome in outcomes)
    for name, value in (
        ("prompts", len(outcomes)),
        ("without a first rubric", without),
        ("proposals accepted", sum(o.accepted for o in outcomes)),
        ("proposals rejected by the gate", sum(o.rejected for o in outcomes)),
        ("proposals failed", sum(o.failed for o in outcomes)),
        ("prompts tied at the top before", tied_before),
        ("prompts tied at the top after", tied_after),
        ("cost of proposals", f"${sum(o.cost_usd for o in outcomes):.2f}"),
    ):
        table.add_row(name, str(value))
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    console.print(f"store: {job.store}; rubrics: {job.store / 'rubrics.jsonl'}", markup=False)
