"""What gold needs of the driver, checked before anything starts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.config.compose import compose
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.runtime.gold import GoldInputs, check_gold
from rubric_rl.types import Criterion, Message, Prompt, PromptRecord, Rubric


def prompt(prompt_id: str) -> Prompt:
    record = PromptRecord(
        prompt_id=prompt_id,
        messages=(Message(role="user", content=f"Question {prompt_id}?"),),
        domain="health",
        source="test",
        row_hash="0",
    )
    return Prompt(record=record, token_ids=(1,))


HELD_OUT = (prompt("a"), prompt("b"))
FIRST = RubricSet(
    version=0,
    rubrics=tuple(
        Rubric(
            prompt_id=name,
            version=0,
            criteria=(Criterion(cid="c", text="Is good", weight=1.0),),
        )
        for name in ("a", "b", "t")
    ),
)


def gold_file(tmp_path: Path, *names: str, rule: dict[str, Any] | None) -> Path:
    criterion = {"id": "g", "text": "names a doctor", "weight": 2}
    rows = [
        {
            "id": name,
            "domain": "health",
            "messages": [{"role": "user", "content": f"Question {name}?"}],
            "rubric": {"criteria": [criterion | ({"rule": rule} if rule else {})]},
        }
        for name in names
    ]
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


DOCTOR = {"rule": "contains_any", "terms": ["doctor"]}


def checked(*overrides: str, held_out: tuple[Prompt, ...] = HELD_OUT) -> GoldInputs | None:
    return asyncio.run(check_gold(compose(["run.dir=unused", *overrides]), held_out, FIRST))


def test_the_gold_rubrics_are_those_of_the_held_out_prompts(tmp_path: Path) -> None:
    path = gold_file(tmp_path, "x", "b", "a", rule=DOCTOR)
    found = checked(f"gold.rubrics={path}")
    assert found is not None and found.identity is None
    assert [(r.prompt_id, r.criteria[0].text) for r in found.rubrics.rubrics] == [
        ("a", "names a doctor"),
        ("b", "names a doctor"),
    ]
    assert checked() is None


def test_what_is_missing_is_told_before_anything_starts(tmp_path: Path) -> None:
    path = gold_file(tmp_path, "a", rule=DOCTOR)
    with pytest.raises(DataError, match=r"each of the 2 held-out prompts.*\n  'b' is not in it"):
        checked(f"gold.rubrics={path}")
    with pytest.raises(ConfigError, match=r"none are held out: set data\.eval_size"):
        checked(f"gold.rubrics={path}", held_out=())
    path = gold_file(tmp_path, "a", "b", rule=None)
    with pytest.raises(ConfigError, match=r"no LLM judge is configured.*or set gold\.llm"):
        checked(f"gold.rubrics={path}")
    with pytest.raises(DataError, match=r"gold\.rubrics='gone\.jsonl' does not exist"):
        checked("gold.rubrics=gone.jsonl")


def test_a_gold_judge_without_a_price_is_refused_where_money_is_limited() -> None:
    with pytest.raises(ConfigError, match=r"price of gold\.llm\.model='unheard-of'"):
        checked(
            "gold.llm.model=unheard-of",
            "gold.llm.base_url=http://localhost:1/v1",
            "judge.budget.max_cost_usd=1",
        )


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["gold.stop_after_decline=true"], "gold.stop_after_decline=true needs gold values"),
        (["run.best_metric=gold"], "run.best_metric='gold' needs gold values"),
        (["gold.llm.model=x"], "gold.llm needs gold.llm.base_url"),
        (["gold.llm.model=x", "gold.llm.backend=vllm"], "gold.llm.backend='vllm' starts servers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        compose(overrides)
