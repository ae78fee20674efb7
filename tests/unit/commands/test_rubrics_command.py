"""`rubric-rl rubrics`: what is written, what is refused, and what a person is told."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rubric_rl import cli
from rubric_rl.commands.rubrics import main
from rubric_rl.data.formats.catalog import read_prompt_file
from rubric_rl.errors import ConfigError, DataError

CANARY = "canary-51aa"


def healthbench(prompt_id: str, **changes: Any) -> dict[str, Any]:
    base = {
        "prompt_id": prompt_id,
        "prompt": [{"role": "user", "content": f"Question {prompt_id}?"}],
        "rubrics": [
            {"criterion": "Names a dose.", "points": 5, "tags": ["axis:accuracy"]},
            {"criterion": "Scolds the user.", "points": -3, "tags": ["axis:tone"]},
        ],
        "ideal_completions_data": {"ideal_completion": "Two a day."},
        "canary": CANARY,
    }
    return base | changes


def rar(question: str, *pitfalls: str) -> dict[str, Any]:
    rubric = [{"title": "Dose", "description": "Essential Criteria: Names a dose.", "weight": 5}]
    rubric += [
        {"title": "Pit", "description": f"Pitfall Criteria: {text}", "weight": -1}
        for text in pitfalls
    ]
    return {"question": question, "reference_answer": "Two a day.", "rubric": rubric}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three rows, of which the last can't be used."""
    rows = [healthbench("a"), healthbench("b"), healthbench("c", rubrics=[])]
    return write(tmp_path / "hb.jsonl", rows)


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    """Two rows with three doubts."""
    rows = [rar("How?", "Avoids fear.", "Avoids blame."), rar("Why?", "Avoids pity.", "Omits ice.")]
    return write(tmp_path / "rar.jsonl", rows)


# ----------------------------------------------------------------------------
# Import


def test_import_writes_our_own_format_with_an_account(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert run("import", source, "--to", out) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"read 3 rows of {source} (format healthbench)",
        "kept 2 prompts with 4 criteria",
        "1 prompt dropped:",
        "  1 x no criteria: c",
        "no doubts",
        f"wrote {out} and out.import.json",
    ]
    file = read_prompt_file(out, "canonical", what="it")
    first = file.imported.loaded[0]
    assert (first.record.prompt_id, first.record.reference) == ("a", "Two a day.")
    assert [(c.weight, c.polarity, c.axis) for c in first.rubric.criteria] == [
        (5.0, 1, "accuracy"),
        (3.0, -1, "tone"),
    ]
    original = read_prompt_file(source, "auto", what="it").imported.loaded[0]
    assert first.record.row_hash == original.record.row_hash


def test_the_account_beside_the_output_holds_every_count_and_doubt(
    doubtful: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    bad = rar("Who?") | {"rubric": []}
    write(doubtful, [json.loads(line) for line in doubtful.read_text().splitlines()] + [bad])
    assert (
        run(
            "import",
            doubtful,
            "--to",
            out,
            "--allow-doubts",
            "--limit",
            "1",
            "--option",
            "domain=d",
        )
        == 0
    )
    account = json.loads((tmp_path / "out.import.json").read_text())
    assert account["source"] == {
        "file": "rar.jsonl",
        "sha256": hashlib.sha256(doubtful.read_bytes()).hexdigest(),
        "format": "rar",
        "options": ["domain=d"],
    }
    assert account["output"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert account["counts"] == {"read": 3, "kept": 2, "dropped": 1, "criteria": 6, "doubts": 3}
    assert account["dropped_by_reason"] == {"no criteria": 1}
    assert account["dropped"][0]["source"] == "rar.jsonl, line 3"
    assert [doubt["cid"] for doubt in account["doubts"]] == ["c2", "c3", "c2"]
    assert str(tmp_path) not in json.dumps(account)


def test_the_canary_is_in_nothing_that_is_written_or_said(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        source, [healthbench("a"), healthbench("b", prompt=[{"role": "user", "content": CANARY}])]
    )
    run("import", source, "--to", tmp_path / "out.jsonl")
    run("export", source, "--to", tmp_path / "out.parquet")
    run("show", source, "a")
    said = capsys.readouterr()
    assert CANARY not in said.out + said.err
    written = [tmp_path / name for name in ("out.jsonl", "out.import.json", "out.parquet")]
    assert not any(CANARY.encode() in path.read_bytes() for path in written)


def test_doubts_stop_an_import_until_they_are_allowed(
    doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"not written because of 3 doubts: .*--allow-doubts .* or"):
        run("import", doubtful, "--to", out)
    assert not out.exists()
    assert not (tmp_path / "out.import.json").exists()
    assert "3 doubts:\n  rar-" in capsys.readouterr().out
    assert run("import", doubtful, "--to", out, "--allow-doubts") == 0
    polarities = [
        c.polarity
        for c in read_prompt_file(out, "auto", what="it").imported.loaded[0].rubric.criteria
    ]
    assert polarities == [1, -1, -1]


def test_an_option_settles_doubts_and_is_recorded(doubtful: Path, tmp_path: Path) -> None:
    write(doubtful, [rar("How?", "Avoids fear.")])
    out = tmp_path / "out.jsonl"
    options = ("--option", "pitfall_polarity=1", "essential_gates=true")
    assert run("import", doubtful, "--to", out, *options) == 0
    (loaded,) = read_prompt_file(out, "auto", what="it").imported.loaded
    assert [(c.polarity, c.kind) for c in loaded.rubric.criteria] == [
        (1, "essential"),
        (1, "normal"),
    ]


@pytest.mark.parametrize("limit", [0, 2, 3])
def test_at_most_limit_doubts_are_listed_with_the_total(
    doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    run("import", doubtful, "--to", tmp_path / "out.jsonl", "--dry-run", "--limit", str(limit))
    said = capsys.readouterr().out
    assert "3 doubts:" in said
    assert said.count("suggests that meeting it is good") == limit
    assert (f"... and {3 - limit} more" in said) == (limit < 3)


def test_a_dry_run_says_everything_and_writes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(tmp_path.iterdir())
    assert run("import", source, "--to", tmp_path / "out.jsonl", "--dry-run") == 0
    assert run("export", source, "--to", tmp_path / "out.parquet", "--dry-run") == 0
    assert set(tmp_path.iterdir()) == before
    said = capsys.readouterr().out
    assert "kept 2 prompts" in said
    assert said.count("dry run: ") == 2


def test_openrubrics_without_weights_is_refused_and_taken_with_them(tmp_path: Path) -> None:
    source = write(
        tmp_path / "o.jsonl",
        [{"instruction": "Say hi.", "rubric": "1. Says hi. [Hard Rule]\n2. Is kind. [Principle]"}],
    )
    out = tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match="no weights"):
        run("import", source, "--to", out)
    assert run("import", source, "--to", out, "--option", "weights=hard=2,principle=1") == 0
    (loaded,) = read_prompt_file(out, "auto", what="it").imported.loaded
    assert [c.weight for c in loaded.rubric.criteria] == [2.0, 1.0]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (healthbench("a", prompt=[{"role": "user", "content": "Another?"}]), "'a' .* is in both"),
        (
            healthbench("z", prompt=[{"role": "user", "content": "QUESTION\n b?"}]),
            "'b' .* has the messages of 'z'",
        ),
    ],
)
def test_a_prompt_that_is_in_the_other_file_too_is_refused(
    source: Path, tmp_path: Path, other: dict[str, Any], reason: str
) -> None:
    against = write(tmp_path / "eval.jsonl", [healthbench("y"), other])
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=rf"1 prompts of .* are in .*eval.jsonl too.*\n  {reason}"):
        run("import", source, "--to", out, "--against", against)
    assert not out.exists()


def test_overlap_by_the_first_row_is_seen_through_our_own_files(
    source: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    run("import", source, "--to", first)
    # Another id and other words; that both come from one row is all that tells.
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    rows[0] |= {"id": "x", "messages": [{"role": "user", "content": "Reworded."}]}
    write(first, rows[:1])
    with pytest.raises(DataError, match=r"'a' .* is from the same row as 'x'"):
        run("import", source, "--to", second, "--against", first)


def test_a_file_that_shares_nothing_is_no_obstacle(source: Path, tmp_path: Path) -> None:
    against = write(tmp_path / "eval.jsonl", [healthbench("y")])
    out = tmp_path / "out.jsonl"
    arguments = ("--against", against, "--against", "builtin:quickstart")
    assert run("import", source, "--to", out, *arguments) == 0
    account = json.loads((tmp_path / "out.import.json").read_text())
    assert account["against"] == ["eval.jsonl", "builtin:quickstart"]


# ----------------------------------------------------------------------------
# Outputs


@pytest.mark.parametrize("command", ["import", "export"])
def test_an_output_that_exists_is_replaced_only_by_force(
    source: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(DataError, match=r"out.jsonl exists: .* --force"):
        run(command, source, "--to", out)
    assert out.read_text() == "mine"
    assert run(command, source, "--to", out, "--force") == 0
    assert len(read_prompt_file(out, "canonical", what="it").imported.loaded) == 2


def test_an_account_that_exists_is_replaced_only_by_force(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.import.json").write_text("mine")
    with pytest.raises(DataError, match=r"out.import.json exists"):
        run("import", source, "--to", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_the_input_is_not_replaced_even_by_force(source: Path) -> None:
    with pytest.raises(DataError, match="is the input itself"):
        run("import", source, "--to", source, "--force")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "IN", "--to", "out.parquet"), "'canonical' is written to a .jsonl file"),
        (("export", "IN", "--to", "out.csv"), "is written to a .jsonl file, got the suffix '.csv'"),
        (
            ("export", "IN", "--to", "out.parquet", "--layout", "canonical"),
            "'canonical' is written to a .jsonl file",
        ),
        (("export", "IN", "--to", "none/out.jsonl"), "the folder .*none does not exist"),
        (("show", "none.jsonl"), "IN='none.jsonl' does not exist"),
        (("show", "IN", "zz"), "no usable prompt 'zz'; it has 2, such as 'a', 'b'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(
    source: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(source.parent)
    with pytest.raises(DataError, match=message):
        run(*(source if argument == "IN" else argument for argument in arguments))


def test_a_file_without_a_usable_prompt_is_refused_with_the_account(tmp_path: Path) -> None:
    source = write(tmp_path / "hb.jsonl", [healthbench("a", rubrics=[])])
    with pytest.raises(DataError, match="has no usable prompt; 1 prompt dropped:\n  1 x no crit"):
        run("import", source, "--to", tmp_path / "out.jsonl")


# ----------------------------------------------------------------------------
# Export


def test_export_and_import_give_the_same_file_again(source: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    assert run("import", source, "--to", first) == 0
    assert run("export", first, "--to", tmp_path / "v.parquet") == 0
    assert run("import", tmp_path / "v.parquet", "--to", second) == 0
    assert first.read_bytes() == second.read_bytes()


def test_the_layout_follows_the_suffix_and_can_be_given(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("export", source, "--to", tmp_path / "a.parquet")
    run("export", source, "--to", tmp_path / "a.jsonl")
    run("export", source, "--to", tmp_path / "b.jsonl", "--layout", "verl")
    names = ("a.parquet", "a.jsonl", "b.jsonl")
    formats = [read_prompt_file(tmp_path / name, "auto", what="it").format for name in names]
    assert formats == ["verl", "canonical", "verl"]
    (row, _) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [c["points"] for c in row["reward_model"]["rubrics"]] == [5.0, -3.0]
    # What is dropped is said apart from the output.
    said = capsys.readouterr()
    assert "1 x no criteria: c" in said.err
    assert said.out.splitlines()[0] == f"wrote 2 prompts to {tmp_path}/a.parquet (layout verl)"


def test_one_split_can_be_exported_alone(tmp_path: Path) -> None:
    criterion = {"id": "c", "text": "Says so.", "weight": 1}
    rows = [
        {
            "id": name,
            "domain": "d",
            "messages": [{"role": "user", "content": name}],
            "rubric": {"criteria": [criterion]},
        }
        | split
        for name, split in (("a", {"split": "train"}), ("b", {"split": "eval"}), ("c", {}))
    ]
    source = write(tmp_path / "prompts.jsonl", rows)
    ids = {}
    for split in ("train", "eval"):
        out = tmp_path / f"{split}.jsonl"
        run("export", source, "--to", out, "--layout", "trl", "--split", split)
        ids[split] = [json.loads(line)["prompt_id"] for line in out.read_text().splitlines()]
    assert ids == {"train": ["a", "c"], "eval": ["b"]}
    with pytest.raises(DataError, match="no prompt of the split 'eval'"):
        source = write(tmp_path / "train_only.jsonl", rows[:1])
        run("export", source, "--to", tmp_path / "x.jsonl", "--split", "eval")


def test_doubts_are_settled_by_an_import_and_not_by_an_export(
    doubtful: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(DataError, match=r"has 3 doubts: settle them with `rubric-rl rubrics imp"):
        run("export", doubtful, "--to", out)
    assert not out.exists()


# ----------------------------------------------------------------------------
# Lint


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Two prompts; the second has a duplicate."""
    twice = [{"criterion": "Names a dose.", "points": 5, "tags": []}] * 2
    rows = [healthbench("a"), healthbench("b", rubrics=twice)]
    return write(tmp_path / "hb.jsonl", rows)


def test_lint_lists_findings_by_kind_with_examples(
    faulty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("lint", faulty) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 findings in 1 of 2 prompts"
    assert lines[1].startswith("    1 duplicate: two criteria of a rubric have the same text")
    assert lines[2:] == ["        b c2: the same as 'c1'"]


def test_lint_as_json_gives_every_finding(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lint", faulty, "--json", "--limit", "0") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"prompt_id": "b", "cid": "c2", "kind": "duplicate", "detail": "the same as 'c1'"}
    ]


def test_strict_lint_fails_exactly_where_there_are_findings(faulty: Path) -> None:
    assert run("lint", faulty, "--strict") == 2
    write(faulty, [healthbench("a")])
    assert run("lint", faulty, "--strict") == 0


def test_lint_knows_the_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    criterion = {"criterion": "Says what the reference answer says.", "points": 5, "tags": []}
    path = write(tmp_path / "hb.jsonl", [healthbench("a", rubrics=[criterion])])
    run("lint", path)
    assert "a judge sees it only with judge.llm.show_reference" in capsys.readouterr().out


# ----------------------------------------------------------------------------
# Show


def test_show_without_an_id_is_a_table_of_the_set(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", source) == 0
    table = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert table["prompts"] == "2, 2 with a reference answer"
    assert table["criteria"] == "4, for each prompt min 2, median 2, max 2"
    assert table["weights"] == "min 3, median 4, max 5"
    assert table["polarity"] == "1: 50.0%, -1: 50.0%"
    assert table["kinds"] == "normal 4"
    assert table["axes"] == "accuracy 2, tone 2"


def test_show_with_an_id_is_the_prompt_with_its_rubric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        "id": "p",
        "domain": "d",
        "split": "eval",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi?"},
        ],
        "reference": "Good day.",
        "rubric": {
            "criteria": [
                {
                    "id": "long",
                    "text": "Is long.",
                    "weight": 2.5,
                    "kind": "essential",
                    "axis": "form",
                    "tags": ["x"],
                    "rule": {"rule": "word_count", "min": 9},
                    "lineage": {"op": "merge", "from": ["c1", "c2"]},
                },
                {"id": "rude", "text": "Is rude.", "weight": 1, "polarity": -1},
            ]
        },
    }
    assert run("show", write(tmp_path / "a.jsonl", [record]), "p") == 0
    said = capsys.readouterr().out
    for expected in (
        "p   domain d, split eval\n",
        "\nsystem:\n  Be brief.\n",
        "\nuser:\n  Hi?\n",
        "reference answer: 9 characters\n",
        "rubric version 0: 2 criteria, 2.5 to earn\n",
        "  long  weight 2.5, polarity 1 (good to meet), essential, axis form\n      Is long.\n",
        '      rule: {"min": 9, "max": null, "rule": "word_count"}\n',
        "      lineage: merge c1, c2\n      tags: x\n",
        "  rude  weight 1, polarity -1 (bad to meet)\n",
    ):
        assert expected in said
    assert "Good day." not in said


def test_text_from_a_file_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = [{"role": "user", "content": "Hi\x1b[2J?"}]
    run("show", write(tmp_path / "hb.jsonl", [healthbench("a", prompt=prompt)]), "a")
    assert "\x1b" not in capsys.readouterr().out


# ----------------------------------------------------------------------------
# The command


def test_it_is_the_rubrics_command_and_errors_are_one_line(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["rubrics", "show", str(source)]) == 0
    capsys.readouterr()
    assert cli.main(["rubrics", "show", str(source), "zz"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["copy"],
        ["import", "a.jsonl"],
        ["show", "a.jsonl", "--format", "csv"],
        ["lint", "x", "--limit", "-1"],
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2


def test_a_reader_that_has_seen_enough_is_no_error(source: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rubric_rl.cli", "rubrics", "export", str(source), "--to"]
    out = source.with_name("out.jsonl")
    # Buffered, as Python's output into a pipe is unless someone says otherwise.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    try:
        result = subprocess.run(
            [*command, str(out)],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=env,
        )
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr.splitlines()[2:]) == (141, [])
    assert out.exists()
