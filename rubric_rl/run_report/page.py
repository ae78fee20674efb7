"""The report: one HTML page that needs nothing else.

    headline -> runs compared -> curves -> each run: time, judge, rubrics, answers, settings

The page holds no script, and its policy forbids to run one or to load anything, so that
a text of a model that got through unescaped could still do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rubric_rl import __version__
from rubric_rl.run_report.comparison import comparison_html
from rubric_rl.run_report.curves import POLICY_PLOTS, REWARD_PLOTS, charts_html
from rubric_rl.run_report.example_section import examples_html
from rubric_rl.run_report.folder_section import folder_html
from rubric_rl.run_report.headline import bottleneck_words, headline_html, time_html
from rubric_rl.run_report.judge_section import judge_html
from rubric_rl.run_report.markup import EMPTY, Html, element, paragraph, section, text
from rubric_rl.run_report.records import Run
from rubric_rl.run_report.rubric_section import rubrics_html
from rubric_rl.run_report.style import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def report_html(runs: Sequence[Run]) -> str:
    """The whole page on one run or several."""
    title = f"Run {runs[0].label}" if len(runs) == 1 else f"{len(runs)} runs compared"
    body = _alone(runs[0]) if len(runs) == 1 else _together(runs)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", text(f"{title} - rubric_rl")),
        # Our own text, and no tag may stand in it.
        element("style", Html(STYLE)),
    )
    main = element("main", element("h1", text(title)), *body)
    foot = element("footer", paragraph(f"Made by rubric_rl {__version__}.", "note"))
    page = element("html", head, element("body", main, foot), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _alone(run: Run) -> Iterator[Html]:
    yield headline_html(run)
    yield bottleneck_words([run])
    yield _curves([run])
    yield from _parts(run, level=2)


def _together(runs: Sequence[Run]) -> Iterator[Html]:
    yield _contents(runs)
    yield bottleneck_words(runs)
    yield comparison_html(runs)
    yield _curves(runs)
    for position, run in enumerate(runs):
        yield section(
            f"Run {run.label}",
            headline_html(run),
            *_parts(run, level=3),
            id_=_anchor(position),
        )


def _parts(run: Run, *, level: int) -> Iterator[Html]:
    yield time_html(run, level=level)
    yield judge_html(run, level=level)
    yield rubrics_html(run, level=level)
    yield examples_html(run, level=level)
    yield folder_html(run, level=level)


def _contents(runs: Sequence[Run]) -> Html:
    links = [
        element("li", element("a", text(run.label), href=f"#{_anchor(position)}"))
        for position, run in enumerate(runs)
    ]
    return element("nav", element("ul", *links), aria_label="Runs")


def _anchor(position: int) -> str:
    return f"run-{position + 1}"


def _curves(runs: Sequence[Run]) -> Html:
    charts = charts_html((*REWARD_PLOTS, *POLICY_PLOTS), runs)
    if not charts:
        return EMPTY
    hint = "Point at a step to read its figures; they are also in the table under each chart."
    if len(runs) == 1 and runs[0].refined_at:
        hint += " A dashed upright line: the rubrics were refined after that step."
    return section("Curves", paragraph(hint, "note"), charts)
