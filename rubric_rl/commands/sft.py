"""`rubric-rl sft`: supervised fine-tuning of the policy on answers, the first baseline.

    rubric-rl sft sft.path=great.jsonl data.path=prompts.jsonl sft.top_k=2 run.dir=runs/sft
    rubric-rl sft experiment=paper_health_sft sft.path=great.jsonl run.resume=auto

The export, RUN/model, is what a training begins with (`model.name_or_path=RUN/model`) and what
`rubric-rl eval winrate` evaluates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rubric_rl.baselines.answers import Answered, by_preference, in_words, with_prompts
from rubric_rl.baselines.sft_examples import Examples, chosen, conversation, tokenized
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
from rubric_rl.refinement.candidates import CandidatePool, only_sources

_EPILOG = """\
Answers are a pool, as `rubric-rl rollouts` writes it, to the prompts of data.path, or JSONL
with `messages` that end with the assistant's. Loss is on the answer's tokens only.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = parser("sft", "Fine-tune a model on answers.", _EPILOG).parse_intermixed_args(argv)
    config = baseline_config(args.overrides, "sft")
    left_out: Counter[str] = Counter()
    answers = _answers(config, left_out)
    tokenizer, model_path = checked_model(config)
    examples = tokenized(
        answers, config.sft, tokenizer.tokenize, tokenizer.tokenize_answer, left_out
    )
    account = _account(config, examples, left_out)
    if args.dry_run:
        return show_plan(config, account)
    from rubric_rl.runtime.supervised import SupervisedJob, run_supervised

    return run_supervised(
        SupervisedJob(config=config, model_path=model_path, data=examples, account=account)
    )


def _answers(config: Config, left_out: Counter[str]) -> list[Answered]:
    settings = config.sft
    if settings.path is None:
        raise ConfigError("sft.path is required: set sft.path=..., a pool of answers or messages")
    if (settings.rank_by == "reward") != (settings.graded is not None):
        raise ConfigError(
            f"sft.rank_by={settings.rank_by!r} and sft.graded={settings.graded!r}: a graded file "
            "goes with sft.rank_by=reward, and with nothing else"
        )
    found = pool_or_rows(Path(settings.path), "messages")
    if not isinstance(found, CandidatePool):
        return _conversations(found, settings.path)
    left_out.update(found.left_out)
    pool = only_sources(found, settings.sources, option="sft.sources")
    records = load_records(config.data.path, config.data.format)
    value = by_preference if settings.graded is None else reward_of(Path(settings.graded))
    return chosen(with_prompts(pool, records, left_out), settings, value, left_out)


def _conversations(rows: Sequence[RawRow], path: str) -> list[Answered]:
    answers: list[Answered] = []
    problems: list[str] = []
    for row in rows:
        one, wrong = conversation(row)
        problems += [f"{row.source}: {problem}" for problem in wrong]
        if one is not None:
            answers.append(one)
    if problems:
        raise DataError(f"sft.path={path!r} is not valid:{list_problems(problems)}")
    return answers


def _account(config: Config, examples: Examples, left_out: Counter[str]) -> str:
    tokens = sum(sample.num_loss_tokens for sample in examples.train)
    return (
        f"{len(examples.train)} training and {len(examples.held_out)} held-out answers, "
        f"{tokens} answer tokens to learn an epoch; left out: {in_words(+left_out)}"
    )
