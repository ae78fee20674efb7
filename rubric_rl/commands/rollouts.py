"""`rubric-rl rollouts`: collect answers to prompts from one or many models, or from a run.

    rubric-rl rollouts prompts.jsonl --out pool.jsonl --samples 2 \\
        --model model=gpt-4.1,base_url=https://api.openai.com/v1,api_key_env=OPENAI_API_KEY \\
        --model model=local,base_url=http://localhost:8000/v1
    rubric-rl rollouts prompts.jsonl --out pool.jsonl --from-run runs/first

Each line of the pool is one answer with its model. The file is only added to: the same
command goes on where it stopped. What failed or is empty is counted and never kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeConfig, LlmJudgeConfig
from rubric_rl.config.schema import DataConfig
from rubric_rl.data.prompt_set import load_prompt_set
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.judging.assembly import own_caller
from rubric_rl.judging.chat import Caller, ChatRequest
from rubric_rl.judging.endpoint import JudgeIdentity
from rubric_rl.observability.records import read_rows
from rubric_rl.refinement.candidates import candidate_line, read_pool
from rubric_rl.refinement.records import Candidate
from rubric_rl.types import PromptRecord

_MODEL_KEYS = ("model", "base_url", "api_key_env")


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_args(argv)
    records = _records(args)
    if args.from_run is not None:
        return _from_run(args, records)
    models = [_model(text, args) for text in args.model]
    if not models:
        raise ConfigError("give at least one --model, or --from-run with a run's folder")
    if args.dry_run:
        total = len(records) * len(models) * args.samples
        sys.stdout.write(f"{len(records)} prompts x {len(models)} models: {total} answers\n")
        return 0
    try:
        return asyncio.run(_collect(args, records, models))
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped: {args.out} has what is there; the same command goes on\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl rollouts", description="Collect answers to prompts into a pool."
    )
    parser.add_argument("input", metavar="IN", help="file with the prompts")
    parser.add_argument("--format", default="auto", help="layout of IN (default: auto)")
    parser.add_argument("--out", type=Path, required=True, help="JSONL to add answers to")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help=f"a model at an OpenAI-compatible endpoint: {', '.join(_MODEL_KEYS)}",
    )
    parser.add_argument("--from-run", type=Path, help="folder of a run whose samples to take")
    parser.add_argument("--samples", type=int, default=1, help="answers of each model (default 1)")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=2048, help="longest answer")
    parser.add_argument("--concurrency", type=int, default=32, help="requests out, each model")
    parser.add_argument("--limit", type=int, help="only the first so many prompts")
    parser.add_argument("--dry-run", action="store_true", help="check and count; ask nothing")
    return parser


def _records(args: argparse.Namespace) -> list[PromptRecord]:
    loaded = load_prompt_set(DataConfig.model_validate({"path": args.input, "format": args.format}))
    return [*loaded.train, *loaded.eval][: args.limit]


def _model(text: str, args: argparse.Namespace) -> LlmJudgeConfig:
    split = [part.partition("=") for part in text.split(",")]
    pairs: dict[str, object] = {key: value for key, _, value in split}
    unknown = sorted(set(pairs) - set(_MODEL_KEYS))
    if unknown or "model" not in pairs or "base_url" not in pairs:
        raise ConfigError(
            f"--model {text!r}: want model=NAME,base_url=URL and, if a key is needed, "
            "api_key_env=VARIABLE"
        )
    settings = {"temperature": args.temperature, "max_reply_tokens": args.max_tokens}
    try:
        return LlmJudgeConfig.model_validate(pairs | settings)
    except ValidationError as err:
        raise ConfigError(f"--model {text!r}: {err.errors()[0]['msg']}") from None


# ----------------------------------------------------------------------------
# The pool's file


@dataclass(slots=True)
class _PoolFile:
    """Answers that are there, and a place to add more."""

    path: Path
    known: set[tuple[str, str, int]]
    """Prompt, model and number of each answer."""
    file: IO[str]
    left_out: Counter[str] = field(default_factory=Counter[str])
    added: int = 0

    def add(self, candidate: Candidate) -> None:
        self.file.write(candidate_line(candidate) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.known.add((candidate.prompt_id, candidate.source, candidate.index))
        self.added += 1

    def print_account(self) -> None:
        left_out = ", ".join(f"{why} {n}" for why, n in self.left_out.most_common()) or "none"
        sys.stdout.write(f"{self.path}: {self.added} answers added; left out: {left_out}\n")


def _open_pool(path: Path) -> _PoolFile:
    """Open for adding; a last line that was cut off is taken away."""
    known: set[tuple[str, str, int]] = set()
    if path.exists() and path.stat().st_size:
        content = path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            with path.open("r+b") as file:
                file.truncate(complete)
        if complete:
            pool = read_pool(path)
            known = {
                (c.prompt_id, c.source, c.index) for own in pool.by_prompt.values() for c in own
            }
    return _PoolFile(path=path, known=known, file=path.open("a", encoding="utf-8"))


# ----------------------------------------------------------------------------
# From endpoints


async def _collect(
    args: argparse.Namespace, records: Sequence[PromptRecord], models: Sequence[LlmJudgeConfig]
) -> int:
    pool = _open_pool(args.out)
    todo = [
        (record, model, index)
        for record in records
        for model in models
        for index in range(args.samples)
        if (record.prompt_id, model.model, index) not in pool.known
    ]
    console = Console(file=sys.stderr, highlight=False)
    bar = Progress(
        TextColumn("answers"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("answers", total=len(todo))
    with bar:
        async with asyncio.TaskGroup() as group:
            for model in models:
                own = [(record, index) for record, m, index in todo if m is model]
                group.create_task(
                    _ask_all(model, own, pool, args.concurrency, lambda: bar.advance(task))
                )
    pool.file.close()
    pool.print_account()
    return 0


async def _ask_all(
    model: LlmJudgeConfig,
    todo: Sequence[tuple[PromptRecord, int]],
    pool: _PoolFile,
    concurrency: int,
    advance: Callable[[], None],
) -> None:
    """All answers of one model; a slow model holds no other up."""
    config = JudgeConfig(llm=model, budget=JudgeBudgetConfig(max_concurrency=concurrency))
    # Endpoints differ in the name they answer with, and an answer is labelled by ours.
    identity = JudgeIdentity(contract="text", served_model="", logprobs=False)
    places = asyncio.Semaphore(2 * concurrency)
    async with own_caller(config, identity, account=f"rollouts-{model.model}") as caller:

        async def ask(record: PromptRecord, index: int) -> None:
            async with places:
                await _ask(caller, model, record, index, pool)
            advance()

        async with asyncio.TaskGroup() as group:
            for record, index in todo:
                group.create_task(ask(record, index))


async def _ask(
    caller: Caller, model: LlmJudgeConfig, record: PromptRecord, index: int, pool: _PoolFile
) -> None:
    request = ChatRequest(
        messages=record.messages, contract="text", schema=None, max_tokens=model.max_reply_tokens
    )
    result = await caller.call(request)
    if result.reply is None:
        assert result.error is not None
        pool.left_out[str(result.error.cause)] += 1
    elif not result.reply.text.strip():
        pool.left_out["empty"] += 1
    else:
        pool.add(
            Candidate(
                prompt_id=record.prompt_id,
                text=result.reply.text,
                source=model.model,
                index=index,
                finish_reason=result.reply.finish_reason or "stop",
            )
        )


# ----------------------------------------------------------------------------
# From a run


def _from_run(args: argparse.Namespace, records: Sequence[PromptRecord]) -> int:
    """The policy's own answers, of every version that a run has written."""
    folder = args.from_run / "samples"
    if not folder.is_dir():
        raise DataError(f"--from-run {args.from_run}: it has no samples/ folder")
    wanted = {record.prompt_id for record in records}
    pool = _open_pool(args.out)
    for candidate in _run_candidates(folder):
        key = (candidate.prompt_id, candidate.source, candidate.index)
        if candidate.prompt_id not in wanted or key in pool.known:
            continue
        if candidate.text.strip():
            pool.add(candidate)
        else:
            pool.left_out["empty"] += 1
    pool.file.close()
    pool.print_account()
    return 0


def _run_candidates(folder: Path) -> Iterator[Candidate]:
    for path in sorted(folder.glob("*.jsonl")):
        for row in read_rows(path):
            yield Candidate(
                prompt_id=row.prompt_id,
                text=row.completion,
                source=f"policy@{row.policy_version}",
                index=row.sample_index,
                finish_reason=row.finish_reason,
            )
