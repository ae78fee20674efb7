"""How much there is to do: steps, tokens, judge calls, money.

Where groups are dropped and refilled, prompts of that step come on top; retries
and the verdict cache are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rubric_rl.config.schema import Config
from rubric_rl.controller.schedule import num_steps
from rubric_rl.judging.model_table import prices_of
from rubric_rl.planning.assumptions import Assumptions


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCalls:
    """What judging takes; of one sample as a mean, or of many."""

    calls: float
    prompt_tokens: float
    reply_tokens: float
    usd: float | None
    """None: the price is not known."""

    def times(self, factor: float) -> JudgeCalls:
        return JudgeCalls(
            calls=self.calls * factor,
            prompt_tokens=self.prompt_tokens * factor,
            reply_tokens=self.reply_tokens * factor,
            usd=None if self.usd is None else self.usd * factor,
        )

    def __add__(self, other: JudgeCalls) -> JudgeCalls:
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return JudgeCalls(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            reply_tokens=self.reply_tokens + other.reply_tokens,
            usd=usd,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFigures:
    """What is known of the prompts, or taken for granted."""

    num_train: int
    num_eval: int
    prompt_tokens: float
    """Mean."""
    completion_tokens: float
    """Mean; rollout.max_new_tokens is an upper bound."""
    per_sample: JudgeCalls
    source: str
    """Where the figures are from, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Of a step, and of the whole run."""

    figures: PromptFigures
    steps: int
    samples_per_step: int
    samples_per_prompt: int
    tokens_per_step: float
    """Prompt and completion, through the learner; a packed prompt that samples share once."""
    generated_per_step: float
    evaluations: int
    samples_per_evaluation: int
    generated: float
    """Of the run, evaluations too."""
    judging_per_step: JudgeCalls
    judging: JudgeCalls
    """Of the run: steps, evaluations, refinement."""
    proposals: int
    """At most; for an LLM or out of a bank."""
    proposals_usd: float | None


def workload(config: Config, figures: PromptFigures, assumptions: Assumptions) -> Workload:
    """Count what `config` asks for."""
    rollout, steps = config.rollout, num_steps(config, figures.num_train)
    samples = min(rollout.prompts_per_step, figures.num_train) * rollout.samples_per_prompt
    num_evals = evaluations(config, steps) if figures.num_eval else 0
    per_eval = figures.num_eval * config.run.eval_samples_per_prompt
    proposals, judged = _refinement(config, figures, steps)
    drawn = prompts_drawn(config, figures.num_train, steps)
    num_samples = drawn * rollout.samples_per_prompt + num_evals * per_eval
    return Workload(
        figures=figures,
        steps=steps,
        samples_per_step=samples,
        samples_per_prompt=rollout.samples_per_prompt,
        tokens_per_step=_model_tokens(config, figures, samples),
        generated_per_step=samples * figures.completion_tokens,
        evaluations=num_evals,
        samples_per_evaluation=per_eval,
        generated=num_samples * figures.completion_tokens,
        judging_per_step=figures.per_sample.times(samples),
        judging=figures.per_sample.times(num_samples + judged),
        proposals=proposals,
        proposals_usd=_proposals_usd(config, proposals, assumptions),
    )


def prompts_drawn(config: Config, num_train: int, steps: int) -> int:
    """In so many steps; the last of an epoch takes what is left of it."""
    per_step = config.rollout.prompts_per_step
    epochs, rest = divmod(steps, math.ceil(num_train / per_step))
    return epochs * num_train + min(rest * per_step, num_train)


def evaluations(config: Config, steps: int) -> int:
    """Before the first step, every so many steps and after the last."""
    every = config.run.eval_every_steps
    return 1 + steps // every + (1 if steps % every else 0)


def _model_tokens(config: Config, figures: PromptFigures, samples: int) -> float:
    prompts = samples
    if config.learner.packing:
        prompts = samples // config.rollout.samples_per_prompt
    return prompts * figures.prompt_tokens + samples * figures.completion_tokens


def _refinement(config: Config, figures: PromptFigures, steps: int) -> tuple[int, int]:
    """Proposals, and samples judged for them, at most; passes that ties cause are left out."""
    refinement = config.refinement
    if not refinement.enabled:
        return 0, 0
    per_epoch = math.ceil(figures.num_train / config.rollout.prompts_per_step)
    due = {
        step
        for step in range(1, steps)
        if (refinement.every_steps is not None and step % refinement.every_steps == 0)
        or (
            refinement.every_epochs is not None
            and step % per_epoch == 0
            and (step // per_epoch) % refinement.every_epochs == 0
        )
    }
    prompts = figures.num_train + (figures.num_eval if refinement.refine_eval else 0)
    refined = len(due) * min(prompts, refinement.max_prompts or prompts)
    # Candidates are scored once, and again under each proposal.
    judged = refined * (refinement.rounds + 1) * refinement.pool_size
    return refined * refinement.rounds, judged


def _proposals_usd(config: Config, proposals: int, assumptions: Assumptions) -> float | None:
    proposer = config.refinement.proposer
    if not proposals or proposer.kind == "offline" or proposer.llm is None:
        return 0.0
    prices = prices_of(proposer.llm)
    if prices is None:
        return None
    prompt, reply = assumptions.proposal_prompt_tokens, assumptions.proposal_reply_tokens
    return prices.cost(round(proposals * prompt), round(proposals * reply))
