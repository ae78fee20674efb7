"""A prompt set is found, recognised, split without overlap, and accounted for."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rubric_rl.config.schema import DataConfig
from rubric_rl.data.prompt_set import (
    RawPromptSet,
    describe,
    load_prompt_set,
    tokenize_prompts,
)
from rubric_rl.data.records import Dropped
from rubric_rl.errors import DataError
from rubric_rl.types import Message, PromptRecord


def row(prompt_id: str, **changes: Any) -> dict[str, Any]:
    base = {
        "id": prompt_id,
        "domain": "health",
        "messages": [{"role": "user", "content": f"Question {prompt_id}?"}],
        "rubric": {"criteria": [{"id": "c1", "text": "Answers.", "weight": 1}]},
    }
    return base | changes


def healthbench_row(prompt_id: str, points: int = 5) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id,
        "prompt": [{"role": "user", "content": f"Question {prompt_id}?"}],
        "rubrics": [{"criterion": "Answers.", "points": points, "tags": []}],
    }


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(value) + "\n" for value in rows))
    return str(path)


def ids(records: Sequence[PromptRecord]) -> list[str]:
    return [record.prompt_id for record in records]


def load(path: str, **changes: Any) -> RawPromptSet:
    return load_prompt_set(DataConfig(path=path, **changes))


# ----------------------------------------------------------------------------
# Formats and paths


def test_canonical_is_recognised_and_everything_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("a"), row("b", split="eval")])
    prompts = load(path)
    assert (prompts.format, prompts.path) == ("canonical", path)
    assert (ids(prompts.train), ids(prompts.eval), prompts.dropped) == (["a"], ["b"], ())
    assert prompts.rubrics.version == 0
    assert [prompts.rubrics.of(p).prompt_id for p in ("a", "b")] == ["a", "b"]


def test_healthbench_jsonl_is_recognised_and_drops_are_kept(tmp_path: Path) -> None:
    rows = [healthbench_row("a"), healthbench_row("b", points=-5)]
    prompts = load(write(tmp_path / "a.jsonl", rows))
    assert prompts.format == "healthbench_jsonl"
    assert ids(prompts.train) == ["a"]
    assert [(d.prompt_id, d.reason) for d in prompts.dropped] == [
        ("b", "no criterion with positive points")
    ]


def test_healthbench_parquet_is_recognised(tmp_path: Path) -> None:
    value = healthbench_row("a")
    columns = {"prompt": value["prompt"], "reward_model": {"rubrics": value["rubrics"]}}
    pq.write_table(pa.Table.from_pylist([columns]), tmp_path / "a.parquet")
    prompts = load(str(tmp_path / "a.parquet"))
    assert prompts.format == "healthbench_parquet"
    assert len(prompts.train) == 1


def test_a_configured_format_reads_a_file_with_another_suffix(tmp_path: Path) -> None:
    path = write(tmp_path / "prompts.txt", [row("a")])
    assert ids(load(path, format="canonical").train) == ["a"]


def test_an_unknown_suffix_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "prompts.csv", [row("a")])
    with pytest.raises(DataError, match=r"suffix '.csv'.*set data.format \(allowed: .jsonl with"):
        load(path)


def test_unknown_keys_are_refused_naming_found_and_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "x", "answer": "y"}])
    with pytest.raises(DataError, match=r"layout with answer, question .*prompt_id, prompt"):
        load(path)


def test_unknown_columns_are_refused_naming_found_and_allowed(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"prompt": "x", "chosen": "y"}]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"layout with chosen, prompt .*prompt, reward_model"):
        load(str(tmp_path / "a.parquet"))


def test_a_misspelt_key_is_reported_as_such_by_auto(tmp_path: Path) -> None:
    value = row("a")
    value["mesages"] = value.pop("messages")
    with pytest.raises(DataError, match="unknown key 'mesages': did you mean 'messages'"):
        load(write(tmp_path / "a.jsonl", [value]))


def test_a_format_that_contradicts_the_suffix_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("a")])
    with pytest.raises(DataError, match=r"not a .parquet file, but data.format='healthbench_par"):
        load(path, format="healthbench_parquet")


def test_a_missing_file_is_refused_with_key_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data.path='no.jsonl' does not exist \(looked for /.*no"):
        load("no.jsonl")
    path = write(tmp_path / "a.jsonl", [row("a")])
    with pytest.raises(DataError, match=r"data.eval_path='no.jsonl' does not exist"):
        load(path, eval_path="no.jsonl")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        load(str(tmp_path))


def test_an_unknown_packaged_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'builtin:tutorial' is not .* builtin:quickstart"):
        load("builtin:tutorial")


def test_the_packaged_quickstart_set_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = load("builtin:quickstart")
    assert (prompts.format, prompts.path) == ("canonical", "builtin:quickstart")
    assert prompts.train
    assert prompts.eval


# ----------------------------------------------------------------------------
# Splits


def test_eval_size_holds_out_the_smallest_id_hashes_in_any_order(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(10)]
    by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    forward = load(write(tmp_path / "a.jsonl", [row(n) for n in names]), eval_size=3)
    backward = load(write(tmp_path / "b.jsonl", [row(n) for n in reversed(names)]), eval_size=3)
    assert set(ids(forward.eval)) == set(ids(backward.eval)) == set(by_hash[:3])
    assert ids(forward.train) == [name for name in names if name not in by_hash[:3]]


def test_eval_size_0_holds_out_nothing(tmp_path: Path) -> None:
    prompts = load(write(tmp_path / "a.jsonl", [row("a"), row("b")]))
    assert (ids(prompts.train), prompts.eval) == (["a", "b"], ())


def test_split_marks_go_before_eval_size(tmp_path: Path) -> None:
    rows = [row("a", split="train"), row("b", split="eval"), row("c")]
    prompts = load(write(tmp_path / "a.jsonl", rows), eval_size=2)
    assert (ids(prompts.train), ids(prompts.eval)) == (["a", "c"], ["b"])


def test_eval_size_never_takes_a_prompt_marked_train(tmp_path: Path) -> None:
    rows = [row("a", split="train"), row("b", split="train"), row("c")]
    path = write(tmp_path / "a.jsonl", rows)
    assert ids(load(path, eval_size=1).eval) == ["c"]
    with pytest.raises(DataError, match="eval_size=2 but only 1 of 3 prompts are not marked"):
        load(path, eval_size=2)


@pytest.mark.parametrize("eval_size", [2, 3])
def test_eval_size_that_leaves_nothing_to_train_on_is_refused(
    tmp_path: Path, eval_size: int
) -> None:
    path = write(tmp_path / "a.jsonl", [row("a"), row("b")])
    with pytest.raises(DataError, match=f"data.eval_size={eval_size} leaves nothing"):
        load(path, eval_size=eval_size)


def test_eval_path_goes_before_eval_size_and_may_have_another_format(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("a"), row("b")])
    eval_path = write(tmp_path / "b.jsonl", [healthbench_row("e"), healthbench_row("f", points=0)])
    prompts = load(path, eval_path=eval_path, eval_size=1)
    assert (ids(prompts.train), ids(prompts.eval)) == (["a", "b"], ["e"])
    assert prompts.format == "canonical"
    assert prompts.rubrics.of("e").criteria[0].weight == 5.0
    assert [d.prompt_id for d in prompts.dropped] == ["f"]


def test_split_marks_hold_beside_eval_path(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("a"), row("b", split="eval")])
    eval_path = write(tmp_path / "b.jsonl", [row("e", split="eval"), row("f", split="train")])
    prompts = load(path, eval_path=eval_path)
    assert (ids(prompts.train), ids(prompts.eval)) == (["a"], ["e"])
    assert [(d.prompt_id, d.reason) for d in prompts.dropped] == [
        ("b", "marked 'eval' in data.path, while data.eval_path is set"),
        ("f", "marked 'train' in data.eval_path, while data.eval_path is set"),
    ]


def test_one_id_in_train_and_eval_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("a"), row("b")])
    other = row("b", messages=[{"role": "user", "content": "Something else?"}])
    eval_path = write(tmp_path / "b.jsonl", [row("e"), other])
    with pytest.raises(
        DataError, match=r"trained on \(1\).*\n  'b' \(b.jsonl, line 2\) is in both"
    ):
        load(path, eval_path=eval_path)


def test_the_same_messages_under_another_id_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("a"), row("b")])
    eval_path = write(tmp_path / "b.jsonl", [row("e", messages=row("a")["messages"])])
    with pytest.raises(DataError, match=r"'e' \(b.jsonl, line 1\) has the messages of 'a'"):
        load(path, eval_path=eval_path)


def test_overlap_inside_one_file_is_refused_too(tmp_path: Path) -> None:
    rows = [row("a"), row("e", split="eval", messages=row("a")["messages"])]
    with pytest.raises(DataError, match=r"'e' .* has the messages of 'a'"):
        load(write(tmp_path / "a.jsonl", rows))


def test_no_prompt_to_train_on_is_refused_with_the_account(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [healthbench_row("a", points=0)])
    with pytest.raises(DataError, match=r"has no train prompts left; 1 prompt dropped:\n  1 x poi"):
        load(path)
    with pytest.raises(DataError, match=r"has no train prompts left; no prompts dropped"):
        load(write(tmp_path / "b.jsonl", [row("a", split="eval")]))


def test_no_prompt_left_in_the_eval_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("a")])
    eval_path = write(tmp_path / "b.jsonl", [row("e", split="train")])
    with pytest.raises(DataError, match=r"data.eval_path=.* has no eval prompts left"):
        load(path, eval_path=eval_path)


# ----------------------------------------------------------------------------
# Tokenization and the account


def record(prompt_id: str, content: str) -> PromptRecord:
    return PromptRecord(
        prompt_id=prompt_id,
        messages=(Message(role="user", content=content),),
        domain="d",
        source=f"a.jsonl, {prompt_id}",
        row_hash="",
    )


def test_prompts_over_the_limit_are_dropped_with_their_length() -> None:
    records = [record("a", "x" * 4), record("b", "x" * 5), record("c", "x")]
    prompts, dropped = tokenize_prompts(
        records, lambda r: [ord(char) for char in r.messages[0].content], max_prompt_tokens=4
    )
    assert [(p.prompt_id, p.token_ids) for p in prompts] == [("a", (120,) * 4), ("c", (120,))]
    assert dropped == (
        Dropped(
            source="a.jsonl, b",
            prompt_id="b",
            reason="longer than data.max_prompt_tokens=4",
            detail="5 tokens",
        ),
    )


def test_describe_counts_by_reason_and_lists_the_first_ids() -> None:
    long = [
        Dropped(source="s", prompt_id=f"p{i}", reason="too long", detail=f"{i} tokens")
        for i in range(3)
    ]
    empty = Dropped(source="s", prompt_id="q", reason="no criteria")
    assert describe([empty, *long], limit=2) == (
        "4 prompts dropped:\n"
        "  3 x too long: p0 (0 tokens), p1 (1 tokens), ... and 1 more\n"
        "  1 x no criteria: q"
    )
    assert describe([]) == "no prompts dropped"
