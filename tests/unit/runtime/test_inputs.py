"""What identifies the prompts of a run: their words, not the place in the file."""

from __future__ import annotations

from dataclasses import replace

from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.runtime.preflight import Inputs
from rubric_rl.types import Message, Prompt, PromptRecord


def prompt(prompt_id: str, text: str) -> Prompt:
    record = PromptRecord(
        prompt_id=prompt_id,
        messages=(Message(role="user", content=text),),
        domain="health",
        source="test",
        row_hash="0",
    )
    return Prompt(record=record, token_ids=(1,))


def inputs(*train: Prompt) -> Inputs:
    return Inputs(
        model_path="m",
        stop_token_ids=(),
        train_prompts=train,
        eval_prompts=(prompt("e", "Held out?"),),
        rubrics=RubricSet(version=0, rubrics=()),
        dropped=(),
        judge_identity=None,
        judge_templates=JudgeTemplates.load(),
    )


def test_other_words_under_the_same_id_are_other_data_and_the_order_is_not() -> None:
    first, second = prompt("a", "What helps?"), prompt("b", "And then?")
    data = inputs(first, second).data_hash
    assert inputs(second, first).data_hash == data
    reworded = replace(first, record=prompt("a", "What helps now?").record)
    assert inputs(reworded, second).data_hash != data
    assert inputs(first).data_hash != data
