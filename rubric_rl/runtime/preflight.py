"""Everything that can be found wrong before a worker starts.

In order of cost: data, rubrics against judges, model directory, prompt lengths,
judge endpoint. Placement comes last and elsewhere, since it needs the cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.config.schema import Config, ModelConfig
from rubric_rl.data.prompt_set import RawPromptSet, describe, load_prompt_set, tokenize_prompts
from rubric_rl.data.records import Dropped
from rubric_rl.data.tokenizing import load_tokenizer, resolve_model_path
from rubric_rl.errors import DataError
from rubric_rl.judging.assembly import judge_templates
from rubric_rl.judging.judge import check_rubrics
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.rubrics.whole_answer import whole_answer_rubrics
from rubric_rl.runtime.gold import GoldInputs, check_gold
from rubric_rl.runtime.refiner import RefinementInputs, check_refinement
from rubric_rl.types import Prompt

if TYPE_CHECKING:
    from rubric_rl.judging.endpoint import JudgeIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run works on, checked."""

    model_path: str
    stop_token_ids: tuple[int, ...]
    train_prompts: tuple[Prompt, ...]
    eval_prompts: tuple[Prompt, ...]
    rubrics: RubricSet
    """Of these prompts, version 0."""
    dropped: tuple[Dropped, ...]
    judge_identity: JudgeIdentity | None
    """Who answers at the judge's endpoints, and how; None if that is not known yet."""
    judge_templates: JudgeTemplates
    refinement: RefinementInputs | None = None
    gold: GoldInputs | None = None

    @property
    def gold_hash(self) -> str | None:
        """Content hash of the gold rubrics; None if there is no gold."""
        return None if self.gold is None else self.gold.rubrics.content_hash

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) over the prompts' ids and words, in no particular order."""
        prompts = (*self.train_prompts, *self.eval_prompts)
        words = sorted(
            [p.prompt_id, *(f"{m.role}: {m.content}" for m in p.record.messages)] for p in prompts
        )
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()

    @property
    def account(self) -> str:
        """What was read and what was dropped, in words."""
        counts = f"{len(self.train_prompts)} training and {len(self.eval_prompts)} held-out prompts"
        return f"{counts}; {describe(self.dropped)}"


def check_inputs(config: Config) -> Inputs:
    """Read and check all inputs.

    Raises:
        ConfigError, DataError, ModelError, EndpointError: see each check.
    """
    raw = load_prompt_set(config.data)
    rubrics = raw.rubrics
    if config.judge.grades_whole_answers:
        rubrics = whole_answer_rubrics(rubrics)
    check_rubrics(rubrics.rubrics, has_llm=not config.judge.needs_rules)
    # Before a tokenizer is loaded: its threads would make later forks unsafe.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    templates, identity = _check_judge(config)
    model_path = resolve_model_path(config.model)
    tokenizer = load_tokenizer(model_path, config.model)
    limit = config.data.max_prompt_tokens
    train, train_dropped = tokenize_prompts(raw.train, tokenizer.tokenize, limit)
    evals, eval_dropped = tokenize_prompts(raw.eval, tokenizer.tokenize, limit)
    dropped = (*raw.dropped, *train_dropped, *eval_dropped)
    _require_some(train, raw, dropped)
    rubrics = _of_prompts(rubrics, (*train, *evals))
    return Inputs(
        model_path=model_path,
        stop_token_ids=tokenizer.stop_token_ids,
        train_prompts=train,
        eval_prompts=evals,
        rubrics=rubrics,
        dropped=dropped,
        judge_identity=identity,
        judge_templates=templates,
        refinement=asyncio.run(
            check_refinement(config, [prompt.prompt_id for prompt in (*train, *evals)])
        ),
        gold=asyncio.run(check_gold(config, evals, rubrics)),
    )


def _check_judge(config: Config) -> tuple[JudgeTemplates, JudgeIdentity | None]:
    llm = config.judge.llm
    templates = judge_templates(config.judge)
    if llm is None:
        return templates, None
    from rubric_rl.judging.endpoint import check_judge, check_price

    check_price(llm, config.judge.budget)
    if llm.backend == "vllm":
        # Its servers are started with the other workers and checked then.
        hosted_model_path(config, llm)
        return templates, None
    return templates, asyncio.run(check_judge(llm))


def _require_some(train: Sequence[Prompt], raw: RawPromptSet, dropped: Sequence[Dropped]) -> None:
    if not train:
        raise DataError(
            f"no prompt of data.path={raw.path!r} is left to train on: {describe(dropped)}"
        )


def _of_prompts(rubrics: RubricSet, prompts: Sequence[Prompt]) -> RubricSet:
    kept = {prompt.prompt_id for prompt in prompts}
    return RubricSet(
        version=rubrics.version,
        rubrics=tuple(rubric for rubric in rubrics.rubrics if rubric.prompt_id in kept),
    )


def hosted_model_path(config: Config, llm: LlmJudgeConfig) -> str:
    """Where a hosted judge's model is. Raises ModelError."""
    return resolve_model_path(ModelConfig(name_or_path=llm.model, cache_dir=config.model.cache_dir))
