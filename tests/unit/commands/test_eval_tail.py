"""`rubric-rl eval tail`: stored and asked truths, several gradings, going on, refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.commands.eval_tail import main
from rubric_rl.errors import BudgetExhaustedError, ConfigError, DataError, JudgeFailureError
from rubric_rl.judging.graded_rows import read_graded

from .conftest import USD_PER_TOKEN, ModelServer

DRIVER = Path(__file__).with_name("killed_command.py")


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def words(*terms: str) -> list[dict[str, Any]]:
    """A criterion of weight 1 for each term that an answer may hold."""
    return [
        {
            "id": f"c{i}",
            "text": f"Says {term}.",
            "weight": 1,
            "rule": {"rule": "contains_any", "terms": [term]},
        }
        for i, term in enumerate(terms, 1)
    ]


def prompts(path: Path, criteria: list[dict[str, Any]], *, num: int = 2) -> Path:
    rows = [
        {
            "id": f"p{i}",
            "domain": "d",
            "messages": [{"role": "user", "content": f"Question {i}?"}],
            "rubric": {"criteria": criteria},
        }
        for i in range(num)
    ]
    return write(path, rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two prompts with four answers each, labelled, and a rubric of rules."""
    texts = {"alpha beta": 0.9, "alpha": 0.7, "beta": 0.3, "nothing": 0.1}
    pool = [
        {"prompt_id": f"p{i}", "source": f"m{j}", "text": text, "preference": preference}
        for i in range(2)
        for j, (text, preference) in enumerate(texts.items())
    ]
    write(tmp_path / "pool.jsonl", pool)
    prompts(tmp_path / "prompts.jsonl", words("alpha", "beta"))
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        str(folder / "pool.jsonl"),
        *("--rubrics", str(folder / "prompts.jsonl")),
        *("--out", str(folder / "tail.json")),
        *more,
    ]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tail.json").read_text())


def by_llm(folder: Path, server: ModelServer) -> list[str]:
    """Overrides for the scripted judge; traits tell answers apart."""
    traits = [{"id": f"c{i}", "text": f"Trait {i}.", "weight": 1} for i in range(3)]
    prompts(folder / "prompts.jsonl", traits)
    return [o for o in server.overrides if not o.startswith("refinement")]


def truth(server: ModelServer) -> str:
    price = USD_PER_TOKEN * 1e6
    return (
        f"model=judge,base_url={server.base_url}/v1,usd_per_million_prompt_tokens={price},"
        f"usd_per_million_completion_tokens={price}"
    )


# ----------------------------------------------------------------------------
# Figures


def test_rules_against_stored_preferences_by_hand(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, "--top", "2")) == 0
    content = result(folder)
    high, low = content["regions"]
    # Scores: 1, 0.5, 0.5, 0. Of each region's pair of each prompt the first is better.
    assert (high["region"], high["right"], high["tied"], high["used"]) == ("high", 2, 0, 2)
    assert (low["region"], low["right"], low["accuracy_ties_wrong"]["value"]) == ("low", 2, 1.0)
    # Rules say the same every time.
    assert (content["num_gradings"], content["judge_id"]) == (1, "rules")
    assert content["truth"] == "stored preferences"
    shown = capsys.readouterr().out
    assert "high: the 2 answers of highest stored preference" in shown
    assert re.search(r"accuracy, ties wrong\s+. 1\.0000", shown)


def test_ties_and_unclear_truths_by_hand(folder: Path) -> None:
    arguments_ = arguments(folder, "--high", "m0,m1,m2", "--low", "m2,m3")
    with pytest.raises(ConfigError, match="can't be in both regions"):
        main(arguments_)
    assert main(arguments(folder, "--high", "m0,m1,m2", "--margin", "0.25")) == 0
    (high,) = result(folder)["regions"]
    # (m0, m1) differ by 0.2, which says nothing; (m0, m2) is right and (m1, m2) tied.
    assert (high["num_pairs"], high["truth_tied"], high["used"]) == (6, 2, 4)
    assert high["accuracy_ties_wrong"]["value"] == 0.5
    assert high["accuracy_ties_half"]["value"] == 0.75
    assert high["tie_rate"]["value"] == 0.5


def test_gradings_are_independent_and_vote(folder: Path, model_server: ModelServer) -> None:
    overrides = by_llm(folder, model_server)
    assert main(arguments(folder, "--top", "2", "--gradings", "3", *overrides)) == 0
    # Four texts for two prompts each, three criteria, three gradings: a remembered verdict is no
    # second opinion.
    assert model_server.counts("verdict") == [2 * 3] * 12
    content = result(folder)
    assert (content["num_gradings"], content["judge_id"]) == (3, "judge")
    rows = read_graded(folder / "tail.json.graded.jsonl")
    assert Counter(row.row_id.rpartition("@")[2] for row in rows) == {"0": 8, "1": 8, "2": 8}
    assert content["cost_usd"] == pytest.approx(model_server.spent_usd)
    asked = len(model_server.bodies)
    assert main(arguments(folder, "--top", "2", "--gradings", "3", *overrides)) == 0
    assert len(model_server.bodies) == asked


def test_another_model_may_say_what_is_true(folder: Path, model_server: ModelServer) -> None:
    more = ["--high", "m0,m1,m3", "--truth", truth(model_server)]
    assert main(arguments(folder, *more)) == 0
    content = result(folder)
    (high,) = content["regions"]
    # The longer answer is better: 'alpha beta' > 'nothing' > 'alpha'; the rubric puts 'alpha'
    # (0.5) before 'nothing' (0).
    assert (content["truth"], content["margin"]) == ("judge", None)
    assert (high["used"], high["right"], high["wrong"]) == (6, 4, 2)
    assert high["accuracy_ties_wrong"]["value"] == pytest.approx(2 / 3)
    assert model_server.counts("compare") == [1] * 6
    assert content["cost_usd"] == pytest.approx(model_server.spent_usd)


def test_pairs_can_be_drawn(folder: Path) -> None:
    assert main(arguments(folder, "--high", "m0,m1,m2,m3", "--pairs", "1")) == 0
    assert result(folder)["regions"][0]["num_pairs"] == 2


# ----------------------------------------------------------------------------
# Failures, money, and going on


def test_what_a_judge_fails_on_is_unknown_and_not_wrong(
    folder: Path, model_server: ModelServer
) -> None:
    overrides = by_llm(folder, model_server)
    model_server.garbles = lambda body: (
        "Question 1?" in json.dumps(body) and "\\nnothing\\n" in json.dumps(body)
    )
    assert main(arguments(folder, "--top", "2", "--gradings", "1", *overrides)) == 0
    high, low = result(folder)["regions"]
    assert (high["rubric_unknown"], high["used"]) == (0, 2)
    assert (low["rubric_unknown"], low["used"], low["coverage"]) == (1, 1, 0.5)


def test_too_many_unknown_pairs_are_an_error(folder: Path, model_server: ModelServer) -> None:
    more = ["--high", "m0,m1", "--truth", truth(model_server)]
    model_server.garbles = lambda _: True
    with pytest.raises(JudgeFailureError, match="2 of 2 pairs of the region 'high' are unknown"):
        main(arguments(folder, *more))
    assert result(folder)["regions"][0]["truth_unknown"] == 2


@pytest.mark.parametrize(("temperature", "warns"), [("0.0", True), ("0.7", False)])
def test_votes_of_one_mind_are_warned_of(
    folder: Path,
    model_server: ModelServer,
    capsys: pytest.CaptureFixture[str],
    temperature: str,
    warns: bool,
) -> None:
    overrides = [*by_llm(folder, model_server), f"judge.llm.temperature={temperature}"]
    given = arguments(folder, "--top", "2", "--gradings", "3", "--dry-run", *overrides)
    assert main(given) == 0
    assert ("3 gradings at judge.llm.temperature=0" in capsys.readouterr().err) == warns


def test_one_budget_holds_for_truth_and_gradings(folder: Path, model_server: ModelServer) -> None:
    overrides = by_llm(folder, model_server)
    more = ["--top", "2", "--gradings", "1", "--truth", truth(model_server), *overrides]
    main(arguments(folder, *more))
    spent = model_server.spent_usd
    (folder / "tail.json.graded.jsonl").unlink()
    asked = len(model_server.bodies)
    with pytest.raises(BudgetExhaustedError, match="has cost"):
        # What the truth cost alone is more than this.
        main(arguments(folder, *more, f"judge.budget.max_cost_usd={spent / 1000}"))
    assert len(model_server.bodies) == asked


def test_killed_at_a_boundary_it_ends_as_the_undisturbed_one(
    folder: Path, model_server: ModelServer
) -> None:
    by_llm(folder, model_server)
    base = f"{model_server.base_url}/{{run}}-{{child}}/v1"
    overrides = [o for o in model_server.overrides_at(base) if not o.startswith("refinement")]
    argv = [a.replace("tail.json", "tail{run}.json") for a in arguments(folder)]
    argv += ["--high", "m0,m1", "--gradings", "3", "--truth", f"model=judge,base_url={base}"]
    sequential = ["judge.num_workers=1", "judge.max_in_flight_per_worker=1"]
    # Twelve gradings and two truths.
    kill_at = (1, 2, 23, 24, 25, 28)
    whole = json.dumps(["eval", "tail", *argv, *overrides, *sequential])
    command = [sys.executable, str(DRIVER), whole, "row", *map(str, (0, *kill_at))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    codes = [json.loads(line) for line in done.stdout.splitlines()]
    assert codes[1:] == [{"run": n, "killed": -9, "resumed": 0} for n in kill_at], done.stderr
    by_run = model_server.asked_by_run
    assert Counter(q.kind for q in by_run["0-killed"].elements()) == {"verdict": 36, "compare": 2}
    for number in kill_at:
        assert (folder / f"tail{number}.json").read_text() == (folder / "tail0.json").read_text()
        asked = by_run[f"{number}-killed"] + by_run[f"{number}-resumed"]
        repeated = asked - by_run["0-killed"]
        # Before its line is written one grading of three criteria, or one truth, is nowhere.
        lost = {1: 3, 23: 3, 25: 1}
        assert repeated.total() == lost.get(number, 0)


# ----------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ([], ConfigError, "either by --high and --low or by --top"),
        (["--top", "2", "--high", "m0"], ConfigError, "either by --high and --low or by --top"),
        (["--high", "m0,m9"], ConfigError, "no answer is of 'm9'"),
        (["--high", "m0"], DataError, "the region 'high' has no pair"),
        (["--top", "3"], DataError, "the region 'high' has no pair"),
        (["--top", "2", "--truth", "gpt-4.1"], ConfigError, "--truth 'gpt-4.1': want model=NAME"),
        (
            [
                "--top",
                "2",
                "--truth",
                "model=m,base_url=http://x/v1",
                "judge.budget.max_cost_usd=1",
            ],
            ConfigError,
            "price is not known: add usd_per_million_prompt_tokens=",
        ),
        (["--top", "2", "run.seed=1"], ConfigError, "has no effect on an evaluation"),
        (["--top", "2", "--margin", "5"], DataError, "no pair of the region 'high' can be used"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    folder: Path, more: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        main(arguments(folder, *more))


def test_prompts_without_rubrics_and_criteria_without_a_judge_are_refused(folder: Path) -> None:
    prompts(folder / "prompts.jsonl", words("alpha"), num=1)
    with pytest.raises(DataError, match="no rubric of the prompt 'p1' of the pool"):
        main(arguments(folder, "--top", "2"))
    prompts(folder / "prompts.jsonl", [{"id": "c1", "text": "Is good.", "weight": 1}])
    with pytest.raises(ConfigError, match="no LLM judge is configured"):
        main(arguments(folder, "--top", "2"))
    assert not (folder / "tail.json").exists()
