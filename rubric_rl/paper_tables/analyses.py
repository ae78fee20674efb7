"""Analyses of refinement, read: `rubric-rl rubrics analyze`, rubric_rl.rubric_analysis/1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rubric_rl.errors import DataError
from rubric_rl.evaluation.labels import Labels
from rubric_rl.paper_tables.layout import CONDITIONS
from rubric_rl.paper_tables.measurement import Content, Measurement, parsed
from rubric_rl.refinement.analysis import Breakdown, Shares, Sources

_MAX_FAILED_FRAC = 0.5
_STORES = {"good": "good_pair", "great": "great_pair", "diverse": "great_diverse_pairs"}
"""Short names of stores in an analysis, beside those of conditions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Analysis:
    classifier: _Model | None
    kinds: Breakdown
    capabilities: Breakdown
    sources: Sources


def read_analysis(content: bytes, given: Labels) -> Content:
    """Kinds of change, capabilities and sources. Raises DataError."""
    record = parsed(_Analysis, content)
    for what, found in (("revisions", record.kinds), ("rubrics", record.capabilities)):
        if found.num_failed > _MAX_FAILED_FRAC * found.num_read:
            raise DataError(f"{found.num_failed} of {found.num_read} {what} were not sorted")
    if record.classifier is None:
        note = "sorted without a model, so not into the paper's categories: give a judge"
        found = _sources(record.sources, given)
        return Content(how="counted", measurements=found, left_out=(note,))
    how = f"sorted by {record.classifier.model}"
    return Content(how=how, measurements=_sorted(record, given))


def _sorted(record: _Analysis, given: Labels) -> Iterator[Measurement]:
    yield from _kinds(record.kinds.shares, given)
    yield from _by_store("capability", record.capabilities.shares, given, "capabilities.shares")
    yield from _sources(record.sources, given)


def _kinds(shares: Shares, given: Labels) -> Iterator[Measurement]:
    stores = {_condition(store, shares, given): store for store in shares.by_store}
    if set(stores) != {"good_pair", "great_pair"}:
        return
    for place, row in enumerate(shares.rows):
        where = f"kinds.shares.rows[{place}]"
        values = {"share": (row.percent, f"{where}.percent", shares.total)}
        for name in ("great", "good"):
            store = stores[f"{name}_pair"]
            at = f"{where}.by_store.{store}.percent_of_row"
            values[name] = (row.by_store[store].percent_of_row, at, row.count)
        for name, (value, at, num) in values.items():
            yield Measurement(
                metric=f"kind/{name}", value=value, num=num, field=at, name=row.name, labels=given
            )


def _sources(sources: Sources, given: Labels) -> Iterator[Measurement]:
    return _by_store("source", sources.shares, given, "sources.shares")


def _by_store(metric: str, shares: Shares, given: Labels, where: str) -> Iterator[Measurement]:
    for store, total in shares.by_store.items():
        own = Labels(condition=_condition(store, shares, given), domain=given.domain)
        for place, row in enumerate(shares.rows):
            percent = row.by_store[store].percent
            if percent is not None:
                yield Measurement(
                    metric=metric,
                    value=percent,
                    num=total,
                    field=f"{where}.rows[{place}].by_store.{store}.percent",
                    name=row.name,
                    labels=own,
                )


def _condition(store: str, shares: Shares, given: Labels) -> str | None:
    """What a store's rubrics are: by its name, or the label of an analysis of one store."""
    name = _STORES.get(store, store)
    if name in CONDITIONS:
        return name
    return given.condition if len(shares.by_store) == 1 else None
