"""The configuration of the baselines: what SFT and a reward model are trained on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rubric_rl.config.section import Fraction, NonEmptyStr, PositiveInt, Section


class SftConfig(Section):
    """Supervised fine-tuning on answers (`rubric-rl sft`)."""

    path: str | None = None
    """JSONL: a pool of answers to the prompts of `data.path`, or conversations (`messages`) that
    end with an answer of the assistant."""
    sources: tuple[NonEmptyStr, ...] = ()
    """Models whose answers of a pool are taken; none named: all."""
    top_k: PositiveInt | None = None
    """At most so many answers to each prompt; None: all. The paper has two."""
    rank_by: Literal["order", "preference", "reward"] = "order"
    """Which ones: the first in the file, the pool's highest `preference`, or the highest reward."""
    graded: str | None = None
    """File of `rubric-rl judge --out` with these rewards."""
    samples_per_step: PositiveInt = 32
    """Answers in one optimizer step."""
    max_tokens: PositiveInt = 2048
    """Longest prompt and answer together; longer ones are left out and counted."""
    eval_frac: Fraction = 0.05
    """Share of the prompts that is held out, chosen by the hash of their id."""


class BradleyTerryConfig(Section):
    """A Bradley-Terry reward model (`rubric-rl reward-model`)."""

    path: str | None = None
    """JSONL: a pool of answers to the prompts of `data.path` with a `preference` each, or pairs
    with `chosen` and `rejected`."""
    use: Literal["all", "on_policy", "off_policy", "both"] = "all"
    """Pairs of any two answers to a prompt; of two on-policy answers; of two off-policy ones; or
    of each kind, as in the paper."""
    on_policy: tuple[NonEmptyStr, ...] = ()
    """Sources of the pool that are the policy."""
    off_policy: tuple[NonEmptyStr, ...] = ()
    """Sources of the pool that are other models."""
    graded: str | None = None
    """File of `rubric-rl judge --out` whose rewards order the answers, not `preference`."""
    pairs_per_prompt: PositiveInt = 1
    """Pairs drawn for each prompt, and of each kind with `both`."""
    margin: float = Field(default=0.0, ge=0)
    """Values no further apart than this make no pair."""
    pairs_per_step: PositiveInt = 32
    """Pairs in one optimizer step."""
    max_tokens: PositiveInt = 2048
    """Longest prompt and answer together; pairs with a longer one are left out and counted."""
    eval_frac: Fraction = 0.05
    """Share of the prompts that is held out, chosen by the hash of their id."""
