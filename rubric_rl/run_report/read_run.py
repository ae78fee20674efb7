"""Reads a run folder.

What makes a folder a run must be there and whole, else there is nothing to report: its
`config.yaml` and `metrics.jsonl`. What else is missing or damaged is a note in the
report, whose other parts are made all the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from rubric_rl.controller.best_checkpoints import read_score
from rubric_rl.controller.checkpoint_files import Checkpoint, damage
from rubric_rl.controller.evaluation import half_width
from rubric_rl.controller.run_folder import RunFolder
from rubric_rl.errors import DataError
from rubric_rl.evaluation.overoptimisation import Decline, analyse
from rubric_rl.evaluation.run_curve import run_curve
from rubric_rl.observability.metrics_file import read_metrics
from rubric_rl.observability.records import read_rows
from rubric_rl.observability.report import EvalComparison, compare
from rubric_rl.refinement.records import Revision
from rubric_rl.refinement.store import FILE_NAME, RubricStore
from rubric_rl.run_report.examples import most_changed
from rubric_rl.run_report.records import ChangedExample, Run, StepMetrics
from rubric_rl.run_report.settings import Settings, read_settings

_EVAL_FILE = re.compile(r"eval_(\d{6,})\.jsonl")
_LINE: TypeAdapter[dict[str, FiniteFloat]] = TypeAdapter(dict[str, FiniteFloat])
_ENVIRONMENT: TypeAdapter[dict[str, str | None]] = TypeAdapter(dict[str, str | None])


class _AnchoredRow(BaseModel):
    """What an interval needs of a held-out sample's row."""

    prompt_id: str
    anchor_reward: float | None = None


def read_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read the runs, each under a label of its own.

    Raises:
        DataError: a folder is not a run, or was given twice.
    """
    folders = [path.resolve() for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        if folders.count(folder) > 1:
            raise DataError(f"run {str(path)!r} is given twice: name each run once")
    return tuple(read_run(p, label) for p, label in zip(paths, labels(folders), strict=True))


def labels(folders: Sequence[Path]) -> list[str]:
    """The names of the folders, with so many parents that each is another."""
    names: list[str] = []
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def read_run(path: Path, label: str) -> Run:
    """Read one run.

    Raises:
        DataError: the folder is not a run, has logged nothing, or its metrics or
            configuration are damaged.
    """
    folder = RunFolder(root=path)
    _refuse_other_folders(folder)
    notes: list[str] = []
    settings = read_settings(folder.config_yaml)
    steps = _read_metrics(folder.metrics_jsonl, notes)
    comparison, examples = _read_evaluations(folder, settings, notes)
    return Run(
        label=label,
        path=path,
        settings=settings,
        environment=_read_environment(folder.environment_json, notes),
        steps=steps,
        anchor_half_widths=_anchor_half_widths(folder, steps, notes),
        comparison=comparison,
        decline=_read_decline(path, notes),
        examples=examples,
        revisions=_read_revisions(folder, notes),
        checkpoints=tuple(_in_words(checkpoint) for checkpoint in folder.all_checkpoints()),
        notes=tuple(notes),
    )


def _refuse_other_folders(folder: RunFolder) -> None:
    root, needed = folder.root, (folder.config_yaml, folder.metrics_jsonl)
    if not root.is_dir():
        raise DataError(f"{str(root)!r} is not a folder: give the folder of a run (run.dir)")
    missing = [path.name for path in needed if not path.is_file()]
    if missing:
        inside = sorted(str(path.parent) for path in root.glob("*/metrics.jsonl"))
        hint = f"; runs in it: {', '.join(inside[:5])}" if inside else ""
        raise DataError(
            f"{str(root)!r} is not the folder of a run that has begun: it has no "
            f"{' and no '.join(missing)}. Give what run.dir was{hint}"
        )


def _read_metrics(path: Path, notes: list[str]) -> tuple[StepMetrics, ...]:
    lines = path.read_bytes().split(b"\n")
    if lines.pop():
        notes.append(
            "The last line of metrics.jsonl is half written and left out: the run was killed "
            "there, or writes it just now."
        )
    if not lines:
        raise DataError(
            f"{str(path)!r} holds no step yet: wait for the run's first evaluation or step"
        )
    return tuple(_step_metrics(path, number, line) for number, line in enumerate(lines, 1))


def _step_metrics(path: Path, number: int, line: bytes) -> StepMetrics:
    try:
        values = _LINE.validate_json(line)
        step, time = values.pop("step"), values.pop("time")
    except (ValidationError, KeyError) as err:
        raise DataError(
            f"{path}, line {number}: not a step's metrics ({line[:60]!r}): restore the file from "
            "a copy, or delete the line to report on the other steps"
        ) from err
    return StepMetrics(step=int(step), time=time, values=values)


# ----------------------------------------------------------------------------
# samples/


def _evaluation_files(folder: RunFolder) -> dict[int, Path]:
    """By step, in their order."""
    matches = [(_EVAL_FILE.fullmatch(path.name), path) for path in folder.samples.glob("*.jsonl")]
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def _read_evaluations(
    folder: RunFolder, settings: Settings, notes: list[str]
) -> tuple[EvalComparison | None, tuple[ChangedExample, ...]]:
    files = list(_evaluation_files(folder).values())
    if len(files) < 2:
        number = ("no evaluation", "one evaluation")[len(files)]
        notes.append(f"There is {number} in samples/: before and after can't be compared.")
        return None, ()
    try:
        before, after = read_rows(files[0]), read_rows(files[-1])
        # The seed of the closing report, so that both give the same interval.
        comparison = compare(before, after, seed=int(settings.text("run.seed") or 0))
    except DataError as err:
        notes.append(f"Before and after can't be compared: {err}")
        return None, ()
    return comparison, most_changed(before, after)


def _read_decline(path: Path, notes: list[str]) -> Decline | None:
    try:
        return analyse(run_curve(path, path.name, read_metrics(path)))
    except DataError as err:
        notes.append(f"Peak and decline of gold are left out: {err}")
        return None


def _anchor_half_widths(
    folder: RunFolder, steps: Sequence[StepMetrics], notes: list[str]
) -> Mapping[int, float]:
    anchored = {line.step for line in steps if "eval/anchor_reward_mean" in line.values}
    widths: dict[int, float] = {}
    for step, path in _evaluation_files(folder).items():
        if step in anchored:
            try:
                width = half_width(_prompt_means(path))
            except (OSError, ValidationError):
                notes.append(f"samples/{path.name} is damaged: its interval is left out.")
                continue
            if width is not None:
                widths[step] = width
    return widths


def _prompt_means(path: Path) -> list[float]:
    rewards: defaultdict[str, list[float]] = defaultdict(list)
    with path.open("rb") as file:
        for line in file:
            row = _AnchoredRow.model_validate_json(line)
            if row.anchor_reward is not None:
                rewards[row.prompt_id].append(row.anchor_reward)
    return [fmean(own) for own in rewards.values()]


# ----------------------------------------------------------------------------
# The rest


def _read_environment(path: Path, notes: list[str]) -> Mapping[str, str | None]:
    try:
        return _ENVIRONMENT.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        notes.append("environment.json is missing or damaged: versions are not known.")
        return {}


def _read_revisions(
    folder: RunFolder, notes: list[str]
) -> Mapping[str, tuple[Revision, ...]] | None:
    if not (folder.rubrics / FILE_NAME).is_file():
        return None
    try:
        store = RubricStore(folder.rubrics)
    except DataError as err:
        notes.append(f"The rubric store can't be read: {err}")
        return None
    return {prompt_id: store.history(prompt_id) for prompt_id in store.prompt_ids}


def _in_words(checkpoint: Checkpoint) -> tuple[str, str, str]:
    score, problem = read_score(checkpoint.path), damage(checkpoint.path)
    evaluated = f"{score.metric} {score.value:.4f}" if score else "not evaluated"
    return str(checkpoint.step), evaluated, problem or "complete"
