"""Pairs for a reward model: kinds, margins, draws, files of pairs, and who is held out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from rubric_rl.baselines.answers import by_preference, with_prompts
from rubric_rl.baselines.preference_pairs import (
    PreferencePair,
    check_kinds,
    draw_pairs,
    pair_of,
    tokenized_pairs,
)
from rubric_rl.config.baselines import BradleyTerryConfig
from rubric_rl.data.reading import read_jsonl
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.refinement.candidates import pool_of
from rubric_rl.refinement.records import Candidate
from rubric_rl.types import Message, PromptRecord

KINDS = {"on_policy": ("weak",), "off_policy": ("great",)}
WORTH = {"weak 0": 0.1, "weak 1": 0.3, "great 0": 0.8, "great 1": 0.9}


def record(prompt_id: str = "p") -> PromptRecord:
    turn = Message(role="user", content=f"question {prompt_id}")
    return PromptRecord(
        prompt_id=prompt_id, messages=(turn,), domain="d", source="test", row_hash=prompt_id
    )


def pairs(*, seed: int = 0, prompts: int = 1, **settings) -> list[tuple[str, str]]:
    ids = [f"p{i}" for i in range(prompts)]
    pool = pool_of(
        Candidate(prompt_id=one, text=text, source=text.split()[0], index=i, preference=WORTH[text])
        for one in ids
        for i, text in enumerate(WORTH)
    )
    answers = with_prompts(pool, [record(one) for one in ids], Counter())
    config = BradleyTerryConfig(**settings)
    check_kinds(config)
    drawn = draw_pairs(answers, config, by_preference, seed=seed, left_out=Counter())
    return [(pair.chosen, pair.rejected) for pair in drawn]


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("on_policy", [("weak 1", "weak 0")]),
        ("off_policy", [("great 1", "great 0")]),
        ("both", [("weak 1", "weak 0"), ("great 1", "great 0")]),
    ],
)
def test_pairs_stay_within_their_kind_and_the_better_answer_is_chosen(use: str, expected):
    assert pairs(use=use, **KINDS) == expected


def test_any_two_answers_make_a_pair_and_the_draw_is_the_seeds():
    drawn = pairs(prompts=30)
    assert drawn == pairs(prompts=30)
    assert len(set(drawn)) == 6
    assert all(WORTH[better] > WORTH[worse] for better, worse in drawn)
    assert drawn != pairs(prompts=30, seed=1)
    assert len(pairs(pairs_per_prompt=100)) == 6


def test_what_is_closer_than_the_margin_makes_no_pair():
    assert len(pairs(margin=0.15, pairs_per_prompt=100)) == 5
    with pytest.raises(DataError, match=r"differ by more than bradley_terry\.margin=0\.5"):
        pairs(margin=0.5, use="on_policy", **KINDS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use": "both", "on_policy": ("weak",)}, "needs bradley_terry.off_policy"),
        ({"use": "on_policy"}, "needs bradley_terry.on_policy"),
        ({"on_policy": ("a",), "off_policy": ("a",)}, "a is in bradley_terry.on_policy and"),
    ],
)
def test_kinds_that_name_nobody_or_somebody_twice_are_refused(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        pairs(**settings)


def test_pairs_of_a_file_bring_their_prompt_or_name_it(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    rows: list[dict] = [
        {"prompt": "why?", "chosen": "a", "rejected": "b"},
        {"prompt_id": "p", "chosen": "a", "rejected": "b"},
        {"prompt_id": "x", "chosen": "a", "rejected": "b"},
        {"prompt": "why?", "chosen": "a", "rejected": "a"},
        {"prompt": "why?", "chosen": "", "rejected": "a"},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = [pair_of(row, {"p": record()}) for row in read_jsonl(path)]
    assert [pair is not None for pair, _ in found] == [True, True, False, False, False]
    assert found[0][0] is not None and found[0][0].record.messages[0].content == "why?"
    assert [problems[0].split(":")[0] for _, problems in found[2:]] == [
        "want prompt, messages, or the prompt_id of a prompt of data.path",
        "chosen and rejected are the same",
        "chosen",
    ]


def test_both_answers_follow_the_prompt_and_prompts_are_held_out_whole():
    drawn = [
        PreferencePair(record=record(f"p{i % 4}"), chosen="aaa", rejected="b" * (1 + i))
        for i in range(8)
    ]
    left_out: Counter[str] = Counter()
    config = BradleyTerryConfig(max_tokens=9, eval_frac=0.25)
    found = tokenized_pairs(
        drawn, config, lambda r: [ord(r.prompt_id[1])], lambda text: [*map(ord, text), 2], left_out
    )
    assert left_out == {"more than bradley_terry.max_tokens=9": 1}
    assert (len(found.train) + len(found.held_out), len({p.chosen[0] for p in found.held_out})) == (
        7,
        1,
    )
    assert not {p.chosen[0] for p in found.train} & {p.chosen[0] for p in found.held_out}
    assert found.train[0].chosen[1:] == (97, 97, 97, 2)
