"""The proxies: what `rubric-rl rubrics build` makes of a pool under the paper's conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rubric_rl.lab.plan import CONDITION_SOURCES, INITIAL, LabPlan, RunPlan
from rubric_rl.lab.prompts import questions, write_prompts
from rubric_rl.lab.proxies import bank_lines, first_rubrics
from rubric_rl.lab.writers import pool
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.refinement.candidates import candidate_line
from rubric_rl.rubrics.rubric_set import RubricSet

Build = Callable[[Sequence[str]], int]
"""`rubric-rl rubrics build` with these arguments."""


def prepare_seed(plan: LabPlan, seed: int) -> Path:
    """The folder of a seed with its pool, its bank and the first rubrics."""
    folder = plan.out / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pool.jsonl").is_file():
        write_prompts(first_rubrics(), folder / "first.jsonl")
        write_text_atomic(folder / "bank.jsonl", _lines(bank_lines(seed)))
        answers = (candidate_line(candidate) for candidate in pool(seed, questions()))
        write_text_atomic(folder / "pool.jsonl", _lines(list(answers)))
    return folder


def build_proxy(plan: LabPlan, run: RunPlan, build: Build) -> Path:
    """The prompt file with the rubrics of this condition, built unless it is there."""
    target = plan.prompts(run)
    if target.is_file():
        return target
    folder = prepare_seed(plan, run.seed)
    store = target.parent / "store"
    target.parent.mkdir(parents=True, exist_ok=True)
    build(build_arguments(folder, store, run))
    built = RubricSet.read(store / "rubrics.jsonl")
    write_prompts({rubric.prompt_id: rubric for rubric in built.rubrics}, target)
    return target


def build_arguments(folder: Path, store: Path, run: RunPlan) -> list[str]:
    """The real command: preset, pool and bank; an offline proposer that sees no gold."""
    arguments = [
        str(folder / "first.jsonl"),
        "--store",
        str(store),
        f"+condition={run.condition}",
        "judge=rules",
        f"run.seed={run.seed}",
        "refinement=offline",
        f"refinement.proposer.bank={folder / 'bank.jsonl'}",
        # A pair that no criterion of the bank tells apart fails; the rubric then stays.
        "refinement.max_failed_frac=1.0",
    ]
    if run.condition == INITIAL:
        return arguments
    sources = ",".join(CONDITION_SOURCES[run.condition])
    return [
        *arguments,
        "--pool",
        str(folder / "pool.jsonl"),
        f"refinement.pool_sources=[{sources}]",
    ]


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
