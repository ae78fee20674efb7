"""What evaluations are given: answers from a pool or a model, prompts, and files to write."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rubric_rl.commands.local_rollouts import CreateEngine
from rubric_rl.commands.rollouts import main as collect_answers
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.evaluation.outcomes import score_key
from rubric_rl.evaluation.thinking import answered
from rubric_rl.judging.grading import Answer
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.refinement.candidates import CandidatePool, pool_of, read_pool
from rubric_rl.refinement.records import Candidate

POLICY = "policy"
"""Source of the answers of a model directory."""


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the evaluated answers come from."""
    parser.add_argument(
        "input",
        metavar="IN",
        type=Path,
        help="JSONL pool of answers, as `rubric-rl rollouts` writes it; or a model directory, "
        "such as RUN/model, which then answers the prompts here by vLLM",
    )
    parser.add_argument("--source", help="whose answers of IN are meant, where it has several")
    parser.add_argument(
        "--max-tokens", default="2048", help="longest answer of a model directory (default 2048)"
    )
    parser.add_argument(
        "--temperature", default="0", help="of a model directory (default 0, as in the paper)"
    )


def add_judging_arguments(parser: argparse.ArgumentParser) -> None:
    """How a judge is given, and what is written."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="GROUP=OPTION or SECTION.KEY=VALUE, of the sections judge and rubrics",
    )
    parser.add_argument("--out", type=Path, required=True, help="the figures as JSON")
    parser.add_argument("--seed", type=int, default=0, help="of draws and intervals (default 0)")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what is evaluated, kept in OUT for `rubric-rl tables`: condition, domain, step or "
        "model; may be repeated",
    )
    parser.add_argument(
        "--retry-unknown", action="store_true", help="ask again where the judge failed before"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the inputs and estimate; ask nothing"
    )


def beside(out: Path, what: str) -> Path:
    """A file that belongs to the output, such as `win.json.annotations.jsonl`."""
    return out.with_name(f"{out.name}.{what}.jsonl")


def policy_answers(
    args: argparse.Namespace, prompts: str | None, create: CreateEngine
) -> CandidatePool:
    """The evaluated answers; a model directory answers the prompts first.

    Raises:
        DataError, ConfigError: they can't be read, or the model has no prompts to answer.
        RubricRLError: of `rubric-rl rollouts`.
    """
    path: Path = args.input
    if not path.is_dir():
        return of_source(read_pool(path), args.source, "--source")
    if prompts is None:
        raise ConfigError(f"{path} is a model directory: give the prompts to answer, --prompts")
    answers = beside(args.out, "answers")
    ended = collect_answers(
        [
            *(prompts, "--format", args.format, "--out", str(answers)),
            *("--max-tokens", args.max_tokens, "--temperature", args.temperature),
            *("--seed", str(args.seed), "--local", f"model={path},name={args.source or POLICY}"),
        ],
        create,
    )
    if ended:
        raise KeyboardInterrupt
    return of_source(read_pool(answers), args.source or POLICY, "--source")


def of_source(pool: CandidatePool, source: str | None, option: str) -> CandidatePool:
    """The answers of one model. Raises DataError that names those that the pool has."""
    found = sorted({c.source for own in pool.by_prompt.values() for c in own})
    if source is None and len(found) == 1:
        return pool
    if source in found:
        return pool_of(c for own in pool.by_prompt.values() for c in own if c.source == source)
    said = "is not given" if source is None else f"is {source!r}"
    raise DataError(f"{option} {said}, and there are answers of {', '.join(found) or 'nobody'}")


def rubric_answers(
    candidates: Iterable[Candidate], prompts: Mapping[str, LoadedPrompt], *, suffix: str = ""
) -> list[Answer]:
    """Candidates as a grading run takes them, each once, without their thinking.

    Raises:
        DataError: a prompt has no rubric.
    """
    answers: dict[str, Answer] = {}
    for candidate in map(answered, candidates):
        prompt_id = candidate.prompt_id
        if prompt_id not in prompts:
            raise DataError(
                f"the prompt {prompt_id!r} of the answers has no rubric: it is not among the "
                f"{len(prompts)} prompts of the rubrics file"
            )
        row_id = f"{score_key(prompt_id, candidate.candidate_id)}{suffix}"
        answers[row_id] = Answer(
            row_id=row_id,
            record=prompts[prompt_id].record,
            rubric=prompts[prompt_id].rubric,
            response=candidate.text,
        )
    return list(answers.values())


def check_writable(path: Path) -> None:
    """Before anything is asked, as what can't be written would be paid for. Raises DataError."""
    if path.is_dir():
        raise DataError(f"--out {str(path)!r} is a folder: name a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"--out {str(path)!r} can't be written: {err}") from err


def write_figures(path: Path, figures: object) -> None:
    """A dataclass as JSON. Raises DataError."""
    assert dataclasses.is_dataclass(figures) and not isinstance(figures, type)
    text = json.dumps(dataclasses.asdict(figures), indent=2, allow_nan=False)
    # A name out of a file may hold half a surrogate pair, which no file takes.
    text = text.encode("utf-8", "replace").decode("utf-8")
    try:
        write_text_atomic(path, f"{text}\n")
    except OSError as err:
        raise DataError(f"--out {str(path)!r} can't be written: {err}") from err


def tell_stopped(paths: Sequence[Path]) -> None:
    """After an interrupt: what is there, and how to go on."""
    there = " and ".join(str(path) for path in paths if path.exists()) or "nothing"
    sys.stderr.write(f"stopped: {there} is kept; the same command goes on\n")
