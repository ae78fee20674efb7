"""The page: well formed, alone in the world, and nothing that a model wrote is markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rubric_rl.cli import main
from rubric_rl.errors import DataError
from rubric_rl.run_report.page import report_html
from rubric_rl.run_report.read_run import read_runs

from .run_folders import HOSTILE, write_run

VOID = {"meta", "br", "col", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps what a browser would make of the page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], "tags that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data

    @property
    def text(self) -> str:
        return "\n".join(self.words)

    def values_of(self, name: str) -> list[str]:
        return [value or "" for _, own, value in self.attributes if own == name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "first": write_run(root / "first"),
        "second": write_run(
            root / "second", refined_after=None, gain=0.05, overrides=["run.seed=3"]
        ),
        "hostile": write_run(root / "hostile", words=HOSTILE),
        "bare": write_run(root / "bare", eval_every=0, refined_after=None, num_steps=1),
        "long": write_run(root / "long", num_steps=450, eval_every=50, refined_after=100),
    }


def page_of(*folders: Path) -> Page:
    return Page(report_html(read_runs(folders)))


KINDS = ["first", "second", "hostile", "bare", "long"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_balanced_and_asks_for_nothing(kind: str, runs: dict[str, Path]) -> None:
    html = report_html(read_runs([runs[kind]]))
    page = Page(html)
    assert page.tags & {"script", "img", "link", "iframe", "object", "embed", "base"} == set()
    assert page.values_of("src") == page.values_of("srcset") == []
    assert [href for href in page.values_of("href") if not href.startswith("#")] == []
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "<" not in style
    assert "default-src 'none'" in page.values_of("content")[0]


def test_what_a_model_wrote_is_shown_and_is_no_markup(runs: dict[str, Path]) -> None:
    html = report_html(read_runs([runs["hostile"]]))
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("</style>") == 1
    # Completion, criterion, reason, author, evidence, refusal, platform: all of it is there.
    text = Page(html).text
    for begin in (
        "c1 ",
        "because c1 ",
        "by offline ",
        "policy@2#0:",
        "3 of 6 top pairs",
        "sharper ",
    ):
        assert any(begin in own and HOSTILE in own for own in text.split("\n")), begin


def test_control_characters_do_not_reach_the_page(tmp_path: Path) -> None:
    words = "tick\x1b[31m bidi\u202e half\ud800 nul\x00 end"
    folder = write_run(tmp_path / "r", words=words.replace("\x00", "").replace("\ud800", ""))
    html = report_html(read_runs([folder]))
    assert "tick?[31m bidi? half" in html
    html.encode("utf-8")


def test_the_headline_says_what_was_run_and_what_it_did(runs: dict[str, Path]) -> None:
    text = page_of(runs["first"]).text
    # Prompts' means 0.2, 0.3, 0.4, 0.5 at step 0, and each 0.2 more at step 4.
    assert "0.350 [" in text and "at step 0, 0.550 [" in text
    assert ": +0.200 [+0.200, +0.200] over 4 held-out prompts, under the run's first" in text
    assert "builtin:smollm2" in text
    assert "grpo advantages, ppo loss, KL 0.01 in the loss" in text
    assert "refined in 2 rounds a pass by the offline proposer" in text
    # 4 steps of 35 s, 3 evaluations of 12 s, a refinement of 5 s.
    assert "3.0 min in steps" in text


def test_zeros_are_drawn_where_they_tell_something(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", num_steps=1, eval_every=0, refined_after=None)
    path = folder / "metrics.jsonl"
    zeros = re.sub(r'("(?:reward|judge)/\w+": )[\d.]+', r"\g<1>0", path.read_text(encoding="utf-8"))
    path.write_text(zeros, encoding="utf-8")
    text = page_of(folder).text
    assert "Ties and saturation at the top" in text
    assert "Requests to the judge" not in text and "Cost of judging" not in text


def test_the_bottleneck_is_named(runs: dict[str, Path]) -> None:
    # 4 x 20 s of 4 x 35 + 3 x 12 + 5 = 181 s.
    assert "The bottleneck is the learner with 44% of the time (median 20 s, 4 times)." in (
        page_of(runs["first"]).text
    )


def test_rubrics_are_shown_with_what_changed_and_what_was_refused(runs: dict[str, Path]) -> None:
    text = page_of(runs["first"]).text
    for words in (
        "1 of 4 rubrics were changed.",
        "h1: version 0 to 1",
        "reworded",
        "(2) Names a doctor. See a doctor within a day.",
        "(2) Names a specialist. See a doctor within a day.",
        "removed",
        "(2) Names a dose.",
        "added",
        "(0.750 to 0.900)",
        "(0.750 to unscored)",
        "top ties 3 -> 1 of 6 pairs",
        "N of N top pairs are tied, N were before See a doctor within a day.",
    ):
        assert words in text, words


def test_the_most_changed_answers_are_beside_each_other(runs: dict[str, Path]) -> None:
    page = page_of(runs["first"])
    assert "See a doctor within a day. (0)" in page.text
    assert "See a doctor within a day. (4)" in page.text
    assert "not in the rubric" in page.text  # c3 came with the refinement
    assert "Criteria with the same words and verdict: 1." in page.text


def test_judging_is_accounted_for(runs: dict[str, Path]) -> None:
    words = page_of(runs["first"]).words
    at = words.index("timeout")
    assert words[at : at + 3] == ["timeout", "8", "67%"]  # 2 in each of 4 steps; 4 are missing
    at = words.index("USD since the run began, evaluations too")
    assert words[at + 1] == "0.04"


def test_a_run_without_evaluation_and_refinement_says_so(runs: dict[str, Path]) -> None:
    page = page_of(runs["bare"])
    assert "no two held-out evaluations to compare" in page.text
    assert "There is no evaluation in samples/" in page.text
    assert "There is no rubric store" in page.text
    assert "Held-out reward" not in page.text
    assert "Training reward" in page.text


def test_several_runs_share_charts_and_keep_their_own_parts(runs: dict[str, Path]) -> None:
    page = page_of(runs["first"], runs["second"])
    assert page.headings[:4] == ["2 runs compared", "Runs compared", "Curves", "Run first"]
    assert "Run second" in page.headings
    assert "first, rubrics in force" in page.words and "second, first rubrics" in page.words
    ids, links = page.values_of("id"), page.values_of("href")
    assert [link.removeprefix("#") for link in links] == ["run-1", "run-2"]
    assert len(set(ids)) == len(ids) and {"run-1", "run-2"} <= set(ids)


def test_the_comparison_gives_first_last_and_peak(runs: dict[str, Path]) -> None:
    words = page_of(runs["first"], runs["second"]).words
    at = words.index("held-out reward")
    # 0.3, 0.4, 0.5 at steps 0, 2, 4.
    assert words[at : at + 7] == [
        "held-out reward",
        "0.300 +/- 0.050",
        "0.500 +/- 0.050",
        "+0.200",
        "0.500 +/- 0.050",
        "4",
        "0.000",
    ]
    at = words.index("run.seed")
    assert words[at : at + 3] == ["run.seed", "0", "3"]
    assert "run.dir" not in words[: words.index("Run first")]


# ----------------------------------------------------------------------------
# The command


def test_the_command_writes_the_page(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both.html"
    assert main(["report", str(runs["first"]), str(runs["bare"]), "--out", str(out)]) == 0
    Page(out.read_text(encoding="utf-8"))
    told = capsys.readouterr()
    assert told.out.startswith(f"{out}: 2 runs, ")
    assert told.err.startswith("bare: There is no evaluation")
    assert list(tmp_path.iterdir()) == [out]


def test_a_dry_run_writes_no_page(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(next(iter(runs.values()))), "--out", str(out), "--dry-run"]) == 0
    assert "would be written" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("", "is a folder"),
        ("nowhere/report.html", "there is no folder"),
        ("report.txt", "ends in .html"),
    ],
)
def test_a_place_that_can_not_be_written_is_refused_first(
    out: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The run isn't there either, but a long one would take a while to read.
    assert main(["report", "no_run", "--out", str(tmp_path / out)]) == 2
    assert words in capsys.readouterr().err


def test_reading_is_what_fails_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder: give the folder of a run"):
        read_runs([tmp_path / "missing"])
