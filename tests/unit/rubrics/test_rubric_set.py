"""The rubric set finds rubrics and survives the disk, or says why it didn't."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_rl.errors import DataError
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.rubrics.rules import ContainsAny, WordCount
from rubric_rl.types import Criterion, CriterionKind, Lineage, Polarity, Rubric


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


texts = st.text(min_size=1).filter(lambda text: bool(text.strip()))
lineages = st.one_of(
    st.just(Lineage(op="add")),
    st.builds(
        Lineage,
        op=st.sampled_from(("rewrite", "split", "merge", "keep")),
        sources=st.lists(texts, min_size=2, unique=True).map(tuple),
    ),
)
# Kinds come with the only polarity that they may have.
signs: st.SearchStrategy[tuple[Polarity, CriterionKind]] = st.sampled_from(
    ((1, "normal"), (-1, "normal"), (1, "essential"), (-1, "veto"))
)


@st.composite
def criteria(draw: st.DrawFn, cid: str) -> Criterion:
    polarity, kind = draw(signs)
    return Criterion(
        cid=cid,
        text=draw(texts),
        weight=draw(st.floats(min_value=1e-9, max_value=1e9)),
        polarity=polarity,
        kind=kind,
        axis=draw(st.none() | texts),
        tags=tuple(draw(st.lists(st.text()))),
        rule=draw(st.none() | st.builds(WordCount, max=st.integers(1, 9))),
        lineage=draw(st.none() | lineages),
    )


@st.composite
def rubric_sets(draw: st.DrawFn) -> RubricSet:
    version = draw(st.integers(0, 9))
    rubrics: list[Rubric] = []
    for prompt_id in draw(st.lists(texts, max_size=3, unique=True)):
        drawn = [draw(criteria(cid)) for cid in draw(st.lists(texts, max_size=4, unique=True))]
        # Something can be earned.
        earned = Criterion(cid="\U0001f600 earned", text="t", weight=1.0)
        rubrics.append(Rubric(prompt_id=prompt_id, version=version, criteria=(*drawn, earned)))
    return RubricSet(version=version, rubrics=tuple(rubrics))


@given(original=rubric_sets())
def test_any_rubric_set_survives_the_disk(
    original: RubricSet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("sets") / "rubrics.jsonl"
    original.write(path)
    assert RubricSet.read(path) == original


def test_what_has_its_default_is_not_written(tmp_path: Path) -> None:
    plain = Rubric(
        prompt_id="a", version=1, criteria=(Criterion(cid="c1", text="Says so.", weight=2.0),)
    )
    RubricSet(version=1, rubrics=(plain,)).write(tmp_path / "rubrics.jsonl")
    line = json.loads((tmp_path / "rubrics.jsonl").read_text().splitlines()[1])
    assert line["criteria"] == [{"id": "c1", "text": "Says so.", "weight": 2.0, "polarity": 1}]


# As this format's files were before criteria had a kind, an axis or a lineage.
OLD_FILE = (
    '{"format": "rubric_rl.rubric_set/1", "version": 0, "content_hash": '
    '"edf209f4c3ae2e9c3d176e2ae780b708e6edaf0dba33cab1c820763ba3e833cf", "num_rubrics": 1}\n'
    '{"prompt_id": "sleep-1", "version": 0, "criteria": ['
    '{"id": "c1", "text": "Advises against screens.", "weight": 2.0, "polarity": 1, '
    '"tags": ["axis:content"]}, '
    '{"id": "c2", "text": "Stays brief.", "weight": 1.0, "polarity": 1, '
    '"rule": {"rule": "word_count", "max": 60}}, '
    '{"id": "c3", "text": "Scolds.", "weight": 1.5, "polarity": -1}]}\n'
)


def test_a_file_from_before_kinds_is_still_what_its_hash_says(tmp_path: Path) -> None:
    (tmp_path / "rubrics.jsonl").write_text(OLD_FILE)
    rubric = RubricSet.read(tmp_path / "rubrics.jsonl").of("sleep-1")
    assert rubric.rubric_id == "3dc2d8ef15d56688"
    assert [c.kind for c in rubric.criteria] == ["normal"] * 3
    assert {(c.axis, c.lineage) for c in rubric.criteria} == {(None, None)}


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
