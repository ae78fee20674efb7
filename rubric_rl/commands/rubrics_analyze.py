"""`rubric-rl rubrics analyze`: what refinement changed, on whose answers, and what it came to.

    rubric-rl rubrics analyze RUN/rubrics --run RUN
    rubric-rl rubrics analyze good=rubrics_good great=rubrics_great --pool pool.jsonl \\
        --out report.json judge=openai judge.llm.model=gpt-4.1

A judge given as in training sorts changes and criteria into the paper's categories.
Without one the operations in the stores are counted, and the criteria's axes or rules.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import re
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.commands.analysis_examples import Example, examples_of
from rubric_rl.commands.analysis_text import (
    Analysis,
    ClassifierRecord,
    as_markdown,
    first_failure,
    print_analysis,
)
from rubric_rl.commands.dry_run import tell, tell_outputs
from rubric_rl.commands.progress import bar_with_counts
from rubric_rl.config.compose import compose, groups
from rubric_rl.config.judge import JudgeConfig, LlmJudgeConfig
from rubric_rl.config.schema import Config
from rubric_rl.errors import (
    BudgetExhaustedError,
    ConfigError,
    DataError,
    JudgeFailureError,
    OverBudget,
)
from rubric_rl.judging.assembly import own_caller
from rubric_rl.judging.classifier import (
    Classifier,
    ClassifierTemplates,
    LabelledStores,
    label_stores,
    subjects_of,
)
from rubric_rl.judging.endpoint import check_judge, check_price
from rubric_rl.judging.json_ask import JsonModel
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.refinement.analysis import (
    FORMAT,
    MARKED_PERCENT,
    Breakdown,
    Labelled,
    Stores,
    final_sources,
    known_capabilities,
    labelled_breakdown,
    operations_breakdown,
    summary_of,
)
from rubric_rl.refinement.broken_ties import num_without_scores, tie_breaks
from rubric_rl.refinement.store import FILE_NAME, RubricStore

# Parts of the configuration that analysing looks at; an experiment may set them too.
_ROOTS = ("judge", "experiment", "hydra")
_NAMED = re.compile(r"([\w.-]+)=(.+)")
# Of revisions or rubrics: beyond it the shares are of too few to mean anything.
_MAX_FAILED_FRAC = 0.5

_EPILOG = f"""\
Of several stores, such as good=DIR great=DIR, it is shown which share of each row
comes from which; {MARKED_PERCENT:g} % or more is marked.

A judge is given by overrides of rubric-rl train, of the section judge, e.g.

  judge=openai judge.llm.base_url=http://localhost:8000/v1 judge.llm.model=NAME
  judge.budget.max_cost_usd=5
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    job = _job(args)
    if args.dry_run:
        return _dry_run(job)
    llm = job.judge.llm
    analysis = _offline(job) if llm is None else asyncio.run(_by_model(job, llm))
    if job.out is not None:
        fields = dataclasses.asdict(analysis)
        _write(job.out, f"{json.dumps(fields, indent=2, allow_nan=False)}\n")
    if job.markdown is not None:
        _write(job.markdown, as_markdown(analysis))
    print_analysis(analysis)
    _refuse_failures(analysis)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl rubrics analyze",
        description="What refinement changed in rubrics, and on whose answers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "stores",
        nargs="+",
        metavar="[NAME=]STORE|OVERRIDE",
        help="folder of a rubric store, such as RUN/rubrics; or SECTION.KEY=VALUE",
    )
    for name, what in (
        ("--pool", "JSONL with answers, for the texts of examples; may be repeated"),
        ("--run", "run folder, for the texts of its policy's answers; may be repeated"),
    ):
        parser.add_argument(name, type=Path, action="append", default=[], help=what)
    parser.add_argument("--prompts", help="file with the prompts, to show them in examples")
    parser.add_argument("--out", type=Path, help="all figures as JSON")
    parser.add_argument("--markdown", type=Path, help="the tables and examples as Markdown")
    parser.add_argument("--limit", type=_count, default=5, help="examples of broken ties (5)")
    parser.add_argument("--dry-run", action="store_true", help="check the inputs; ask nothing")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number")
    return int(text)


# ----------------------------------------------------------------------------
# Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be analysed, checked."""

    stores: Stores
    judge: JudgeConfig
    num_tie_breaks: int
    examples: tuple[Example, ...]
    out: Path | None
    markdown: Path | None


def _job(args: argparse.Namespace) -> _Job:
    stores, overrides = _sorted_out(args.stores)
    judge = _composed(overrides).judge
    opened = {name: _opened(path) for name, path in stores.items()}
    outputs = [path for path in (args.out, args.markdown) if path is not None]
    _check_outputs(outputs, makes_folders=not args.dry_run)
    found = tie_breaks(opened)
    return _Job(
        stores=opened,
        judge=judge,
        num_tie_breaks=len(found),
        examples=tuple(
            examples_of(found[: args.limit], pools=args.pool, runs=args.run, prompts=args.prompts)
        ),
        out=args.out,
        markdown=args.markdown,
    )


def _dry_run(job: _Job) -> int:
    count = sum(len(subjects_of(store)) for store in job.stores.values())
    by = "their operations" if job.judge.llm is None else f"{job.judge.llm.model}, one call each"
    tell(f"{count} revisions and rubrics of {len(job.stores)} stores would be sorted by {by}")
    tell_outputs(job.out, job.markdown)
    return 0


def _sorted_out(arguments: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Stores by name, and overrides. Raises ConfigError."""
    overrides = [a for a in arguments if "=" in a and _section(a) in _ROOTS]
    stores: dict[str, Path] = {}
    for argument in arguments:
        if argument in overrides:
            continue
        name, path = _named_store(argument)
        if name in stores:
            raise ConfigError(f"two stores are called {name!r}: give them other NAME=STORE")
        stores[name] = path
    if not stores:
        raise ConfigError("no store is given: name the folder of one, such as RUN/rubrics")
    return stores, overrides


def _named_store(argument: str) -> tuple[str, Path]:
    named = _NAMED.fullmatch(argument)
    if "=" not in argument or Path(argument).is_dir():
        return argument, Path(argument)
    if _section(argument) in {*groups(), *Config.model_fields}:
        raise ConfigError(
            f"override {argument!r} has no effect on an analysis, which takes those of judge: "
            "leave it out; a store needs another name"
        )
    if named is None or not Path(named[2]).is_dir():
        raise ConfigError(
            f"{argument!r} is neither NAME=STORE with the folder of a store, nor an override of "
            "judge"
        )
    return named[1], Path(named[2])


def _section(argument: str) -> str:
    """The first part of an override's key."""
    return argument.lstrip("+~").split("=")[0].split(".")[0]


def _composed(overrides: Sequence[str]) -> Config:
    config = compose(overrides)
    llm = config.judge.llm
    if llm is not None and llm.backend == "vllm":
        raise ConfigError(
            "judge.llm.backend='vllm' starts servers on a cluster, which an analysis doesn't: "
            "start one with `vllm serve`, and set judge.llm.backend=openai and judge.llm.base_url"
        )
    if llm is not None:
        check_price(llm, config.judge.budget)
    return config


def _opened(path: Path) -> RubricStore:
    if not (path / FILE_NAME).is_file():
        raise DataError(
            f"{path} holds no rubric store ({FILE_NAME}): give the folder `rubrics` of a run "
            "or what `rubric-rl rubrics build --store` was given"
        )
    store = RubricStore(path)
    if not store.prompt_ids:
        raise DataError(f"{store.path} is empty: nothing was refined there")
    return store


def _check_outputs(paths: Sequence[Path], *, makes_folders: bool) -> None:
    """Before anything is asked, as what can't be written would be paid for."""
    for path in paths:
        if path.is_dir():
            raise DataError(f"{str(path)!r} is a folder: name a file to write")
        try:
            if makes_folders:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise DataError(f"{str(path)!r} can't be written: {err}") from err
    if len(set(paths)) < len(paths):
        raise ConfigError(f"--out and --markdown are both {paths[0]}: give two files")


# ----------------------------------------------------------------------------
# The analysis


def _analysis(
    job: _Job, classifier: ClassifierRecord | None, kinds: Breakdown, capabilities: Breakdown
) -> Analysis:
    return Analysis(
        format=FORMAT,
        classifier=classifier,
        stores=tuple(summary_of(name, store) for name, store in job.stores.items()),
        kinds=kinds,
        capabilities=capabilities,
        sources=final_sources(job.stores),
        num_tie_breaks=job.num_tie_breaks,
        num_without_scores=num_without_scores(job.stores),
        examples=job.examples,
    )


def _offline(job: _Job) -> Analysis:
    return _analysis(job, None, operations_breakdown(job.stores), known_capabilities(job.stores))


async def _by_model(job: _Job, llm: LlmJudgeConfig) -> Analysis:
    """Raises ConfigError, EndpointError, BudgetExhaustedError."""
    templates = ClassifierTemplates.load()
    identity = await check_judge(llm)
    account = f"analyze-{secrets.token_hex(8)}"
    progress = _Progress(sum(len(subjects_of(store)) for store in job.stores.values()))
    with closing(progress):
        async with own_caller(job.judge, identity, account=account) as caller:
            model = JsonModel(
                caller=caller,
                contract=identity.contract,
                max_reply_tokens=llm.max_reply_tokens,
            )
            said = await _said(job, Classifier(model, templates), progress)
    record = ClassifierRecord(
        model=llm.model,
        template_hash=templates.template_hash,
        tokens=progress.tokens,
        cost_usd=progress.cost_usd,
    )
    kinds, capabilities = labelled_breakdown(said.kinds), labelled_breakdown(said.capabilities)
    return _analysis(job, record, kinds, capabilities)


async def _said(job: _Job, classifier: Classifier, progress: _Progress) -> LabelledStores:
    try:
        return await label_stores(
            job.stores,
            classifier,
            at_once=job.judge.num_workers * job.judge.max_in_flight_per_worker,
            done=progress.done,
        )
    except OverBudget as err:
        raise BudgetExhaustedError(
            f"the analysis was stopped, nothing is written: {err}. Raise "
            "judge.budget.max_cost_usd, or leave the judge out"
        ) from err


class _Progress:
    """A bar with counts on stderr, and what was spent."""

    def __init__(self, total: int) -> None:
        self._bar = bar_with_counts()
        self._task = self._bar.add_task("sorting", total=total, counts="")
        self._failed = 0
        self.tokens, self.cost_usd = 0, 0.0
        self._bar.start()

    def done(self, labelled: Labelled) -> None:
        self._failed += labelled.failure is not None
        self.tokens += labelled.tokens
        self.cost_usd += labelled.cost_usd
        counts = f"failed {self._failed}, ${self.cost_usd:.2f}"
        self._bar.update(self._task, advance=1, counts=counts)

    def close(self) -> None:
        self._bar.stop()


def _refuse_failures(analysis: Analysis) -> None:
    """Shares of what little is left must not pass for a result."""
    for what, found in (("revisions", analysis.kinds), ("rubrics", analysis.capabilities)):
        if found.num_failed > _MAX_FAILED_FRAC * found.num_read:
            raise JudgeFailureError(
                f"{found.num_failed} of {found.num_read} {what} could not be sorted, at most "
                f"{_MAX_FAILED_FRAC:.0%} may; {first_failure(found)}"
            )


def _write(path: Path, text: str) -> None:
    # A model's words may hold half a surrogate pair, which no file takes.
    text = text.encode("utf-8", "replace").decode("utf-8")
    try:
        write_text_atomic(path, text)
    except OSError as err:
        raise DataError(f"{str(path)!r} can't be written: {err}") from err
