"""The rubric set finds rubrics and survives the disk, or says why it didn't."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from rubric_rl.errors import DataError
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.rubrics.rules import ContainsAny
from rubric_rl.types import Criterion, Rubric


def make_rubric(prompt_id: str, weight: float = 2.0) -> Rubric:
    rule = ContainsAny(terms=("d\u00e9j\u00e0", "a\u2028b"))
    return Rubric(
        prompt_id=prompt_id,
        version=1,
        criteria=(
            Criterion(cid="c1", text="Says so.", weight=weight, rule=rule, tags=("axis:tone",)),
            Criterion(cid="c2", text="Rambles.", weight=0.1, polarity=-1),
        ),
    )


def make_set(*prompt_ids: str) -> RubricSet:
    return RubricSet(version=1, rubrics=tuple(make_rubric(prompt_id) for prompt_id in prompt_ids))


def test_of_finds_the_rubric_of_a_prompt() -> None:
    assert make_set("b", "a").of("a") == make_rubric("a")


def test_of_names_a_prompt_without_a_rubric() -> None:
    with pytest.raises(DataError, match="no rubric for prompt 'x' among the 2 rubrics"):
        make_set("a", "b").of("x")


def test_two_rubrics_of_one_prompt_are_refused() -> None:
    with pytest.raises(DataError, match="prompt 'a' has more than one rubric"):
        make_set("a", "b", "a")


def test_content_hash_is_over_the_rubric_ids_by_prompt_id() -> None:
    ids = make_rubric("a").rubric_id + "\n" + make_rubric("b").rubric_id
    expected = hashlib.sha256(ids.encode()).hexdigest()
    assert make_set("b", "a").content_hash == make_set("a", "b").content_hash == expected


def test_content_hash_changes_with_a_weight() -> None:
    changed = RubricSet(version=1, rubrics=(make_rubric("a", weight=3.0),))
    assert changed.content_hash != make_set("a").content_hash


def test_a_rubric_set_can_be_pickled() -> None:
    original = make_set("a", "b")
    copy = pickle.loads(pickle.dumps(original))
    assert copy == original
    assert copy.of("b") == original.of("b")


def test_written_and_read_again_is_equal(tmp_path: Path) -> None:
    original = make_set("b", "a")
    original.write(tmp_path / "rubrics.jsonl")
    assert RubricSet.read(tmp_path / "rubrics.jsonl") == original


def test_the_first_line_says_what_the_file_holds(tmp_path: Path) -> None:
    original = make_set("a", "b")
    original.write(tmp_path / "rubrics.jsonl")
    header = json.loads((tmp_path / "rubrics.jsonl").read_text().splitlines()[0])
    assert header == {
        "format": "rubric_rl.rubric_set/1",
        "version": 1,
        "content_hash": original.content_hash,
        "num_rubrics": 2,
    }


def test_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    make_set("a").write(tmp_path / "rubrics.jsonl")
    make_set("a", "b").write(tmp_path / "rubrics.jsonl")
    assert len(RubricSet.read(tmp_path / "rubrics.jsonl").rubrics) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["rubrics.jsonl"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_set("a").write(tmp_path / "rubrics.jsonl")

    def fail(fd: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        make_set("a", "b").write(tmp_path / "rubrics.jsonl")
    assert RubricSet.read(tmp_path / "rubrics.jsonl") == make_set("a")
    assert [path.name for path in tmp_path.iterdir()] == ["rubrics.jsonl"]


def drop_last_line(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop_last_line, "holds 1 rubrics but its header says 2: the file is truncated"),
        (lambda text: text[:-40], "line 3: truncated or invalid JSON"),
        (lambda text: text.replace('"weight": 2.0', '"weight": 3.0'), "the file was altered"),
        (lambda text: text.replace("Says so.", "Says no."), "the file was altered"),
        (lambda text: text.replace('"weight": 2.0', '"weight": 0'), "line 2: the rubric of"),
        (lambda text: text.replace("rubric_set/1", "rubric_set/9"), "want 'rubric_rl.rubric_set/1"),
        (lambda text: text.replace('"num_rubrics": 2', '"n": 2'), "the header .* is not valid"),
        (lambda text: text.replace('"prompt_id"', '"prompt"'), "line 2: got keys"),
        (lambda text: text.split("\n", 1)[1], "the first line has format None"),
        (lambda text: "[]\n" + text, "line 1: not a JSON object"),
        (lambda text: "", "the file is empty"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_reason(
    tmp_path: Path, damage: Callable[[str], str], reason: str
) -> None:
    path = tmp_path / "rubrics.jsonl"
    make_set("a", "b").write(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=f"rubrics.jsonl.*{reason}"):
        RubricSet.read(path)


def test_a_file_that_is_not_utf_8_is_refused_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "rubrics.jsonl").write_bytes(b'{"format": "\xff"}\n')
    with pytest.raises(DataError, match=r"rubrics.jsonl: not UTF-8 at byte 12"):
        RubricSet.read(tmp_path / "rubrics.jsonl")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rubrics.jsonl: no such file"):
        RubricSet.read(tmp_path / "rubrics.jsonl")
