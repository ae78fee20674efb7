"""The gold rubrics and the gold judge of a run: checked before it starts, opened in the driver."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.config.judge import JudgeConfig, LlmJudgeConfig
from rubric_rl.config.schema import Config
from rubric_rl.controller.measuring import GoldParts
from rubric_rl.data.gold_rubrics import load_gold_rubrics
from rubric_rl.errors import ConfigError
from rubric_rl.judging.assembly import open_judge
from rubric_rl.judging.cache import VerdictCache
from rubric_rl.judging.endpoint import JudgeIdentity, check_judge, check_price
from rubric_rl.judging.judge import check_rubrics
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.runtime.judge_budget import RayDispatcher, budget_name, judge_membership
from rubric_rl.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldInputs:
    """What was read and checked before anything started."""

    rubrics: RubricSet
    """Of the held-out prompts."""
    identity: JudgeIdentity | None = None
    """Who answers as the gold judge; None: the run's judges give these verdicts too."""
    templates: JudgeTemplates | None = None
    """Of a gold judge of its own."""


async def check_gold(
    config: Config, held_out: Sequence[Prompt], rubrics: RubricSet
) -> GoldInputs | None:
    """Read the gold rubrics and try the gold judge's endpoint; None if there is no gold.

    `rubrics` are those that the run begins with.

    Raises:
        ConfigError, DataError, EndpointError: what is missing or wrong, in words.
    """
    gold = config.gold
    if not gold.enabled:
        return None
    if not held_out:
        raise ConfigError(
            "gold values are those of held-out prompts, and none are held out: set data.eval_size "
            "or data.eval_path, or leave the section gold out"
        )
    if gold.rubrics is None and config.judge.grades_whole_answers:
        raise ConfigError(
            "gold.llm judges the rubrics that the run begins with, and this run's reward is a "
            "grade of the whole answer without any: set gold.rubrics to a prompt file with rubrics"
        )
    records = [prompt.record for prompt in held_out]
    if gold.rubrics is None:
        own = tuple(rubrics.of(record.prompt_id) for record in records)
        golden = RubricSet(version=rubrics.version, rubrics=own)
    else:
        golden = load_gold_rubrics(gold.rubrics, records, key="gold.rubrics")
    if gold.llm is None:
        _require_judge(config, golden)
        return GoldInputs(rubrics=golden)
    _require_price(gold.llm, config)
    templates = JudgeTemplates.load(gold.llm.template_dir)
    return GoldInputs(rubrics=golden, identity=await check_judge(gold.llm), templates=templates)


def _require_judge(config: Config, golden: RubricSet) -> None:
    try:
        # A judge that grades answers as a whole executes rules, and judges no criterion.
        judges_criteria = config.judge.llm is not None and not config.judge.grades_whole_answers
        check_rubrics(golden.rubrics, has_llm=judges_criteria)
    except ConfigError as err:
        raise ConfigError(f"gold.rubrics={config.gold.rubrics!r}: {err}, or set gold.llm") from err


def _require_price(llm: LlmJudgeConfig, config: Config) -> None:
    try:
        check_price(llm, config.judge.budget)
    except ConfigError as err:
        raise ConfigError(str(err).replace("judge.llm.", "gold.llm.")) from err


def open_gold(
    config: Config, inputs: GoldInputs | None, account: str, folder: Path
) -> GoldParts | None:
    """The parts for the controller. Call it on the event loop that will use them.

    Args:
        account: whose money it is: the id of the run.
        folder: the run folder, where verdicts are kept if no other folder is configured.
    """
    if inputs is None:
        return None
    llm, cache = config.gold.llm, config.judge.cache
    if llm is None or inputs.identity is None or inputs.templates is None:
        return GoldParts(rubrics=inputs.rubrics)
    # Its endpoint has the limits of judge.budget for itself; the money is the run's.
    judge = JudgeConfig(llm=llm, budget=config.judge.budget, health=config.judge.health)
    client = f"{account}:gold:{os.getpid()}"
    membership = judge_membership(judge, client=client, account=account)
    name = budget_name(llm.model, llm.endpoint_names)
    judges = open_judge(
        judge,
        inputs.identity,
        client=client,
        account=account,
        dispatcher=RayDispatcher(name, membership),
        cache=VerdictCache(Path(cache.dir or folder / "verdicts")) if cache.enabled else None,
        templates=inputs.templates,
    )
    own = config.judge.llm
    shares = own is not None and name == budget_name(own.model, own.endpoint_names)
    return GoldParts(rubrics=inputs.rubrics, judges=judges, shares_account=shares)
