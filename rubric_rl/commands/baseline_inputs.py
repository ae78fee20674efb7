"""What the commands of supervised baselines are told: overrides, answers, the model."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rubric_rl.baselines.answers import ValueOf
from rubric_rl.commands.theory_inputs import by_answer, graded_values
from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.data.reading import read_jsonl
from rubric_rl.data.records import RawRow
from rubric_rl.data.tokenizing import PolicyTokenizer, load_tokenizer, resolve_model_path
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.judging.grading import Answer
from rubric_rl.refinement.candidates import CandidatePool, read_pool
from rubric_rl.refinement.records import Candidate
from rubric_rl.rubrics.whole_answer import whole_answer_rubric
from rubric_rl.types import PromptRecord

Section = Literal["sft", "bradley_terry"]

_ROOTS = ("run", "model", "learner", "data", "cluster", "logging", "experiment", "hydra")


def parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Overrides, and --dry-run."""
    found = argparse.ArgumentParser(
        prog=f"rubric-rl {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="GROUP=OPTION or SECTION.KEY=VALUE"
    )
    found.add_argument(
        "--dry-run", action="store_true", help="show the placement, check the inputs; start nothing"
    )
    return found


def baseline_config(overrides: Sequence[str], section: Section) -> Config:
    """The configuration, of which `section` and what trains a model count. Raises ConfigError."""
    for override in overrides:
        key = override.lstrip("+~").split("=")[0].split(".")[0]
        if "=" in override and key not in (*_ROOTS, section):
            raise ConfigError(
                f"override {override!r} has no effect on this baseline, which takes those of "
                f"{', '.join((section, *_ROOTS[:-2]))}: leave it out"
            )
    config = compose(overrides)
    longest = config.sft.max_tokens if section == "sft" else config.bradley_terry.max_tokens
    if config.learner.micro_batch_tokens < longest:
        raise ConfigError(
            f"learner.micro_batch_tokens={config.learner.micro_batch_tokens} is smaller than "
            f"{section}.max_tokens={longest}: raise the one or lower the other"
        )
    return config


def pool_or_rows(path: Path, key: Literal["messages", "chosen"]) -> CandidatePool | list[RawRow]:
    """The rows of a file whose first row has `key`; any other file is a pool of answers.

    Raises DataError.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, want JSONL")
    rows = read_jsonl(path)
    return list(rows) if rows and key in rows[0].value else read_pool(path)


def reward_of(graded: Path) -> ValueOf:
    """Rewards of a graded file, by prompt and answer. Raises DataError."""
    known = by_answer(graded_values(graded))

    def value(record: PromptRecord, candidate: Candidate) -> float | None:
        rubric = whole_answer_rubric(record.prompt_id)  # of no consequence for the hash
        answer = Answer(row_id="", record=record, rubric=rubric, response=candidate.text)
        return known.get((record.prompt_id, answer.answer_hash))

    return value


def checked_model(config: Config) -> tuple[PolicyTokenizer, str]:
    """The tokenizer, and where the model is. Raises ModelError."""
    # Before a tokenizer is loaded: its threads would make later forks unsafe.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # torch says so whenever it is imported beside vLLM's dependencies.
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
    path = resolve_model_path(config.model)
    return load_tokenizer(path, config.model), path


def show_plan(config: Config, account: str) -> int:
    """The placement and the account, for --dry-run."""
    from rubric_rl.runtime.placement import describe, plan_learners

    sys.stdout.write(f"{describe(plan_learners(config))}\n{account}\n")
    return 0
