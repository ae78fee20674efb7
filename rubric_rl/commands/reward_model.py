"""`rubric-rl reward-model`: train a Bradley-Terry reward model on pairs of answers.

    rubric-rl reward-model bradley_terry.path=pool.jsonl data.path=prompts.jsonl run.dir=runs/rm
    rubric-rl reward-model experiment=paper_health_rm_both bradley_terry.path=pool.jsonl
    rubric-rl train ... judge=reward_model judge.reward_model.path=runs/rm/model

The export, RUN/model, is a Hugging Face sequence classifier with one output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rubric_rl.baselines.answers import by_preference, in_words, with_prompts
from rubric_rl.baselines.preference_pairs import (
    PreferencePair,
    check_kinds,
    draw_pairs,
    pair_of,
    tokenized_pairs,
)
from rubric_rl.commands.baseline_inputs import (
    baseline_config,
    checked_model,
    parser,
    pool_or_rows,
    reward_of,
    show_plan,
)
from rubric_rl.config.schema import Config
from rubric_rl.data.bare_prompts import load_records
from rubric_rl.data.reading import list_problems
from rubric_rl.data.records import RawRow
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.refinement.candidates import CandidatePool
from rubric_rl.types import PromptRecord

_EPILOG = """\
Pairs are drawn from a pool whose answers have a `preference` (or a reward in
bradley_terry.graded), or are given as JSONL with `chosen` and `rejected` and a `prompt`,
`messages` or `prompt_id`. A prompt's pairs are all trained on or all held out.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    about = "Train a reward model on pairs of answers."
    args = parser("reward-model", about, _EPILOG).parse_intermixed_args(argv)
    config = baseline_config(args.overrides, "bradley_terry")
    if config.learner.lora.enabled or config.learner.packing:
        raise ConfigError(
            "a reward model is trained whole and on padded sequences: set learner.lora.rank=0 and "
            "learner.packing=false"
        )
    left_out: Counter[str] = Counter()
    pairs = _pairs(config, left_out)
    tokenizer, model_path = checked_model(config)
    settings = config.bradley_terry
    data = tokenized_pairs(pairs, settings, tokenizer.tokenize, tokenizer.tokenize_answer, left_out)
    account = (
        f"{len(data.train)} training and {len(data.held_out)} held-out pairs "
        f"({settings.use}); left out: {in_words(+left_out)}"
    )
    if args.dry_run:
        return show_plan(config, account)
    from rubric_rl.runtime.supervised import SupervisedJob, run_supervised

    return run_supervised(
        SupervisedJob(config=config, model_path=model_path, data=data, account=account)
    )


def _pairs(config: Config, left_out: Counter[str]) -> list[PreferencePair]:
    settings = config.bradley_terry
    if settings.path is None:
        raise ConfigError("bradley_terry.path is required: set it to a pool of answers, or pairs")
    check_kinds(settings)
    found = pool_or_rows(Path(settings.path), "chosen")
    records = load_records(config.data.path, config.data.format)
    if not isinstance(found, CandidatePool):
        return _given(found, records, config)
    left_out.update(found.left_out)
    value = by_preference if settings.graded is None else reward_of(Path(settings.graded))
    answers = with_prompts(found, records, left_out)
    return draw_pairs(answers, settings, value, seed=config.run.seed, left_out=left_out)


def _given(
    rows: Sequence[RawRow], records: Sequence[PromptRecord], config: Config
) -> list[PreferencePair]:
    settings = config.bradley_terry
    if settings.use != "all" or settings.graded is not None:
        raise ConfigError(
            f"bradley_terry.path={settings.path!r} holds pairs, which bradley_terry.use and "
            "bradley_terry.graded say nothing about: leave them out"
        )
    known = {record.prompt_id: record for record in records}
    pairs: list[PreferencePair] = []
    problems: list[str] = []
    for row in rows:
        pair, wrong = pair_of(row, known)
        problems += [f"{row.source}: {problem}" for problem in wrong]
        if pair is not None:
            pairs.append(pair)
    if problems:
        listed = list_problems(problems)
        raise DataError(f"bradley_terry.path={settings.path!r} is not valid:{listed}")
    return pairs
