"""`rubric-rl theory estimate`: what training on a rubric will come to, from a pool of answers.

    rubric-rl theory estimate pool.jsonl --rubrics prompts.jsonl --out estimate \\
        judge=openai judge.llm.model=gpt-4.1-mini
    rubric-rl theory estimate graded.jsonl --gold gold.jsonl --out estimate

The answers to a prompt stand for the policy before training.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.commands.dry_run import tell, tell_outputs
from rubric_rl.commands.output_folder import OutputFolder
from rubric_rl.commands.theory_inputs import (
    Joined,
    PoolAnswers,
    Valued,
    graded_values,
    is_graded,
    join,
    pool_answers,
)
from rubric_rl.commands.theory_report import print_estimate
from rubric_rl.commands.theory_scoring import rubric_values
from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.data.bare_prompts import load_with_rubrics
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import ConfigError
from rubric_rl.judging.endpoint import check_price
from rubric_rl.judging.judge import check_rubrics
from rubric_rl.theory.estimator import Estimate, estimate

FORMAT = "rubric_rl.theory_estimate/1"
_ROOTS = ("judge", "rubrics", "experiment", "hydra")
_FILES = (
    "estimate.json",
    "curve.csv",
    "best_of_n.csv",
    "profile.csv",
    "estimate.png",
    "estimate.svg",
)

_EPILOG = """\
IN is a graded file (rubric-rl judge --out), or a pool of answers, which is then scored
with --rubrics: by rules, or by a judge that overrides name (those of rubric-rl train,
sections judge and rubrics). What answers are really worth is the `preference` in the
pool, or --gold: a file graded by a better judge or rubric, or a pool with preferences.

DIR gets estimate.json, curve.csv, best_of_n.csv, profile.csv, estimate.png and .svg.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    job = _job(args)
    proxy = job.proxy
    if args.dry_run:
        return _dry_run(args, job)
    out = OutputFolder(args.out)
    if isinstance(proxy, PoolAnswers):
        cache_dir = out.path / "verdicts"
        proxy = asyncio.run(
            rubric_values(proxy, job.config.judge, job.config.rubrics, cache_dir=cache_dir)
        )
    joined = join(proxy, job.gold, job.left_out)
    found = estimate(joined.prompts, seed=args.seed)
    _write(out, joined, found)
    print_estimate(found, joined.left_out)
    sys.stdout.write(out.account())
    return 0


def _dry_run(args: argparse.Namespace, job: _Job) -> int:
    if isinstance(job.proxy, PoolAnswers):
        count = sum(len(answers) for answers in job.proxy.by_prompt.values())
        by = "rules" if job.config.judge.llm is None else job.config.judge.llm.model
        tell(f"{count} answers of {len(job.proxy.by_prompt)} prompts would be scored by {by}")
    else:
        tell(f"{len(job.proxy)} graded answers would be read; nothing is asked")
    tell_outputs(*(args.out / name for name in _FILES))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl theory estimate",
        description="Predict what training on a rubric comes to, and where the rubric fails.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", type=Path, help="graded file or pool of answers")
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="GROUP=OPTION or SECTION.KEY=VALUE"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write to")
    parser.add_argument("--gold", type=Path, help="file with what the answers are really worth")
    parser.add_argument("--rubrics", help="file with the prompts and their rubrics, for pools")
    parser.add_argument("--format", default="auto", help="layout of --rubrics (default: auto)")
    parser.add_argument("--seed", type=_seed, default=0, help="of resamples and tie-breaks (0)")
    parser.add_argument("--dry-run", action="store_true", help="check the inputs; ask nothing")
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number from 0")
    return int(text)


# ----------------------------------------------------------------------------
# Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be estimated from, checked."""

    proxy: list[Valued] | PoolAnswers
    """Rewards, or answers that have to be scored first."""
    gold: list[Valued]
    left_out: Mapping[str, int]
    config: Config


def _job(args: argparse.Namespace) -> _Job:
    config = _composed(args.overrides)
    prompts = None if args.rubrics is None else _prompts(args.rubrics, args.format)
    gold = None if args.gold is None else _gold_values(args.gold, prompts)
    if is_graded(args.input):
        if args.overrides:
            raise ConfigError(
                f"{args.input} is graded already, and overrides such as {args.overrides[0]!r} have "
                "no effect: leave them out, or give a pool of answers"
            )
        if gold is None:
            raise ConfigError(
                f"{args.input} says what the rubric gives, and nothing what answers are worth: "
                "give a file graded by a better judge, or a pool with preferences, with --gold"
            )
        proxy, left_out = graded_values(args.input), {}
    else:
        proxy = pool_answers(args.input, prompts)
        gold, left_out = proxy.preferences() if gold is None else gold, proxy.left_out
        config = _with_a_judge(config, proxy)
    return _Job(proxy=proxy, gold=gold, left_out=left_out, config=config)


def _composed(overrides: Sequence[str]) -> Config:
    for override in overrides:
        key = override.lstrip("+~").split("=")[0]
        if "=" in override and key.split(".")[0] not in _ROOTS:
            raise ConfigError(
                f"override {override!r} has no effect on an estimate, which takes those of judge "
                "and rubrics: leave it out"
            )
    config = compose(overrides)
    llm = config.judge.llm
    if llm is not None and llm.backend == "vllm":
        raise ConfigError(
            "judge.llm.backend='vllm' starts servers on a cluster, which an estimate doesn't: "
            "start one with `vllm serve`, and set judge.llm.backend=openai and judge.llm.base_url"
        )
    return config


def _prompts(path: str, layout: str) -> dict[str, LoadedPrompt]:
    loaded = load_with_rubrics(path, layout)
    return {
        record.prompt_id: LoadedPrompt(
            record=record, rubric=loaded.rubrics.of(record.prompt_id), split=None
        )
        for record in (*loaded.train, *loaded.eval)
    }


def _gold_values(path: Path, prompts: Mapping[str, LoadedPrompt] | None) -> list[Valued]:
    return graded_values(path) if is_graded(path) else pool_answers(path, prompts).preferences()


def _with_a_judge(config: Config, pool: PoolAnswers) -> Config:
    """The configuration, without an LLM where rules decide all. Raises ConfigError."""
    judge = config.judge
    if judge.grades_whole_answers:
        raise ConfigError(
            "an estimate is about rubrics, and this judge grades answers as a whole: grade them "
            "with `rubric-rl judge`, and give that file"
        )
    rubrics = [pool.prompts[prompt_id].rubric for prompt_id in pool.by_prompt]
    check_rubrics(rubrics, has_llm=judge.llm is not None)
    if all(c.rule is not None for rubric in rubrics for c in rubric.criteria):
        judge = judge.model_copy(update={"llm": None})
    if judge.llm is not None:
        check_price(judge.llm, judge.budget)
    return config.model_copy(update={"judge": judge})


# ----------------------------------------------------------------------------
# Files


def _write(folder: OutputFolder, joined: Joined, found: Estimate) -> None:
    # Here because it takes long to import.
    from rubric_rl.plots.estimate import draw_estimate
    from rubric_rl.plots.style import as_png, as_svg

    fields = {
        "format": FORMAT,
        "left_out": dict(joined.left_out),
        "estimate": dataclasses.asdict(found),
    }
    folder.write("estimate.json", f"{json.dumps(fields, indent=2, allow_nan=False)}\n")
    folder.write("curve.csv", _as_csv([dataclasses.asdict(point) for point in found.curve]))
    folder.write("best_of_n.csv", _as_csv([dataclasses.asdict(one) for one in found.best_of_n]))
    folder.write("profile.csv", _as_csv([dataclasses.asdict(one) for one in found.profile]))
    drawing = draw_estimate(found)
    folder.write("estimate.png", as_png(drawing))
    folder.write("estimate.svg", as_svg(drawing))


def _as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """A column for each figure, three for one with an interval: itself, `_low` and `_high`."""
    text = io.StringIO()
    flat = [dict(_columns(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _columns(row: Mapping[str, object]) -> list[tuple[str, object]]:
    columns: list[tuple[str, object]] = []
    for name, value in row.items():
        if isinstance(value, dict):
            columns += [
                (name if part == "value" else f"{name}_{part}", number)
                for part, number in value.items()
            ]
        else:
            columns.append((name, value))
    return columns
