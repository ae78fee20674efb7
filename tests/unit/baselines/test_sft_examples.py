"""What SFT is trained on: which answers, which tokens are in the loss, what is left out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from rubric_rl.baselines.answers import by_preference, split_prompts, with_prompts
from rubric_rl.baselines.sft_examples import chosen, conversation, example, tokenized
from rubric_rl.config.baselines import SftConfig
from rubric_rl.data.reading import read_jsonl
from rubric_rl.errors import DataError
from rubric_rl.refinement.candidates import pool_of
from rubric_rl.refinement.records import Candidate
from rubric_rl.types import Message, PromptRecord


def record(prompt_id: str) -> PromptRecord:
    turn = Message(role="user", content=f"question {prompt_id}")
    return PromptRecord(
        prompt_id=prompt_id, messages=(turn,), domain="d", source="test", row_hash=prompt_id
    )


def candidate(prompt_id: str, index: int, worth: float | None = None, **more) -> Candidate:
    return Candidate(
        prompt_id=prompt_id,
        text=f"answer {index}",
        source="m",
        index=index,
        preference=worth,
        **more,
    )


def words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


def test_the_loss_is_on_the_answer_and_its_end_alone():
    sample = example([5, 6, 7], [8, 9, 2])
    assert (sample.prompt_token_ids, sample.completion_token_ids) == ((5, 6, 7), (8, 9, 2))
    assert (sample.loss_mask, sample.advantage) == ((1, 1, 1), 1.0)
    assert sample.num_loss_tokens == 3


def test_answers_are_ranked_within_their_prompt_and_the_first_of_equals_is_taken():
    pool = pool_of(
        [
            *(candidate("a", i, worth) for i, worth in enumerate((0.1, 0.9, 0.5, 0.9))),
            *(candidate("b", i, worth) for i, worth in enumerate((0.2, None))),
        ]
    )
    left_out: Counter[str] = Counter()
    answers = with_prompts(pool, [record("a"), record("b")], left_out)
    best = chosen(answers, SftConfig(top_k=2, rank_by="preference"), by_preference, left_out)
    assert [(a.record.prompt_id, a.candidate.index) for a in best] == [("a", 1), ("a", 3), ("b", 0)]
    assert +left_out == {"not among the best": 2, "without a value": 1}
    first = chosen(answers, SftConfig(top_k=1), by_preference, left_out)
    assert [a.candidate.index for a in first] == [0, 0]


def test_ranking_without_any_value_is_refused():
    answers = with_prompts(pool_of([candidate("a", 0)]), [record("a")], Counter())
    with pytest.raises(DataError, match="no answer has a value"):
        chosen(answers, SftConfig(rank_by="preference"), by_preference, Counter())


def test_cut_answers_and_strangers_are_left_out_and_counted():
    left_out: Counter[str] = Counter()
    pool = pool_of(
        [candidate("a", 0), candidate("a", 1, finish_reason="length"), candidate("x", 0)]
    )
    answers = with_prompts(pool, [record("a")], left_out)
    assert [one.candidate.index for one in answers["a"]] == [0]
    assert left_out == {"cut at its longest length": 1, "prompt not in data.path": 1}
    with pytest.raises(DataError, match="belong together"):
        with_prompts(pool, [record("z")], Counter())


def test_a_prompt_is_held_out_with_all_its_answers_and_in_any_order():
    ids = [f"p{i}" for i in range(20)]
    train, held_out = split_prompts(ids, 0.1)
    assert len(held_out) == 2
    assert split_prompts(reversed(ids), 0.1)[1] == held_out[::-1]
    assert set(train) | set(held_out) == set(ids)
    assert split_prompts(["a"], 0.5) == (["a"], [])
    pool = pool_of(candidate(one, i) for one in ids for i in range(2))
    answers = with_prompts(pool, [record(one) for one in ids], Counter())
    both = [one for own in answers.values() for one in own]
    config = SftConfig(eval_frac=0.1, max_tokens=100)
    found = tokenized(both, config, lambda r: words(r.prompt_id), words, Counter())
    assert (len(found.train), len(found.held_out)) == (36, 4)


def test_too_long_answers_are_left_out_and_nothing_left_is_refused():
    answers = with_prompts(pool_of([candidate("a", 0)]), [record("a")], Counter())["a"]
    left_out: Counter[str] = Counter()
    with pytest.raises(DataError, match="no answer is left"):
        tokenized(answers, SftConfig(max_tokens=2), lambda _: [1], words, left_out)
    assert left_out == {"more than sft.max_tokens=2": 1}


def test_a_conversation_teaches_its_last_answer(tmp_path: Path):
    path = tmp_path / "chats.jsonl"
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": content} for role, content in turns]
    rows = [{"messages": messages}, {"messages": messages[:3]}, {"messages": "no"}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = [conversation(row) for row in read_jsonl(path)]
    one, problems = found[0]
    assert one is not None and not problems
    assert [turn.content for turn in one.record.messages] == ["a", "b", "c"]
    assert one.candidate.text == "d"
    assert all(one is None and "ends with a turn of the assistant" in p[0] for one, p in found[1:])
