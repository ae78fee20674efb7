"""The report: one HTML page that needs nothing else.

    headline -> runs compared -> curves -> each run: time, judge, rubrics, answers, settings

The page holds no script, and its policy forbids to run one or to load anything, so that
a text of a model that got through unescaped could still do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rubric_rl import __version__
from rubric_rl.run_report.comparison import comparison_html
from rubric_rl.run_report.curves import CURVES, curves_html
from rubric_rl.run_report.example_section import examples_html
from rubric_rl.run_report.folder_section import folder_html
from rubric_rl.run_report.gold_section import gold_html
from rubric_rl.run_report.headline import bottleneck_html, headline_html, time_html
from rubric_rl.run_report.judge_section import judge_html
from rubric_rl.run_report.markup import EMPTY, Html, element, note, section, text
from rubric_rl.run_report.records import Run
from rubric_rl.run_report.rubric_section import rubrics_html
from rubric_rl.run_report.style import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def report_html(runs: Sequence[Run]) -> str:
    """The whole page on one run or several."""
    is_alone = len(runs) == 1
    title = f"Run {runs[0].label}" if is_alone else f"{len(runs)} runs compared"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", text(f"{title} - rubric_rl")),
        # Our own text, and no tag may stand in it.
        element("style", Html(STYLE)),
    )
    parts = _alone(runs[0]) if is_alone else _together(runs)
    main = element("main", element("h1", text(title)), *parts)
    foot = element("footer", note(f"Made by rubric_rl {__version__}."))
    return f"<!DOCTYPE html>\n{element('html', head, element('body', main, foot), lang='en')}\n"


def _alone(run: Run) -> Iterator[Html]:
    yield headline_html(run)
    yield bottleneck_html(run)
    yield gold_html(run, level=2)
    yield _curves([run])
    yield from _parts(run, level=2)


def _together(runs: Sequence[Run]) -> Iterator[Html]:
    ids = [f"run-{position}" for position in range(1, len(runs) + 1)]
    links = (
        element("li", element("a", text(run.label), href=f"#{own}"))
        for run, own in zip(runs, ids, strict=True)
    )
    yield element("nav", element("ul", *links), aria_label="Runs")
    yield from (bottleneck_html(run, run.label) for run in runs)
    yield comparison_html(runs)
    yield _curves(runs)
    for run, own in zip(runs, ids, strict=True):
        parts = (headline_html(run), *_parts(run, level=3))
        yield section(f"Run {run.label}", *parts, level=2, id_=own)


def _parts(run: Run, *, level: int) -> Iterator[Html]:
    for part in (time_html, judge_html, rubrics_html, examples_html, folder_html):
        yield part(run, level=level)


def _curves(runs: Sequence[Run]) -> Html:
    curves = curves_html(CURVES, runs)
    if not curves:
        return EMPTY
    hint = "Point at a step to read its figures; they are also in the table under each chart."
    if len(runs) == 1 and runs[0].refined_at:
        hint += " A dashed upright line: the rubrics were refined after that step."
    return section("Curves", note(hint), curves, level=2)
