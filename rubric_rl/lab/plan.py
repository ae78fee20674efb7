"""What a laboratory is to run, and where it keeps it.

setup.json               what was asked for; the same folder takes nothing else
model/                   the policy that all runs start from
seed0/pool.jsonl, bank.jsonl, first.jsonl
seed0/great_pair/store/  what `rubrics build` made     prompts.jsonl: its rubrics
runs/great_pair_seed0/   a run folder of `rubric-rl train`
report.md, *.csv, *.png, *.svg
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rubric_rl.errors import ConfigError, DataError
from rubric_rl.lab.small_policy import PolicySettings
from rubric_rl.lab.writers import diverse_writers
from rubric_rl.observability.atomic import write_text_atomic

INITIAL = "initial"
CONDITION_SOURCES: dict[str, tuple[str, ...]] = {
    INITIAL: (),
    "good_pair": ("good",),
    "great_pair": ("great",),
    "great_pairs": ("great",),
    "great_diverse_pairs": tuple(writer.name for writer in diverse_writers()),
}
"""The paper's conditions, and whose answers each contrasts."""
SETUP_FORMAT = "rubric_rl.lab/1"
_SECONDS_TO_START, _SECONDS_PER_STEP, _SECONDS_PER_EVALUATION = 50.0, 1.5, 3.0
_SECONDS_OF_MODEL = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """One training."""

    condition: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.condition}_seed{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabPlan:
    """What was asked for."""

    out: Path
    conditions: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    eval_every: int
    parallel: int
    policy: PolicySettings
    overrides: tuple[str, ...] = ()
    """Of the configuration of each training, such as `learner.learning_rate=1e-3`."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.conditions) - set(CONDITION_SOURCES))
        if unknown or not self.conditions:
            raise ConfigError(
                f"--conditions {','.join(unknown) or '(none)'}: not known, take some of "
                f"{', '.join(CONDITION_SOURCES)}"
            )
        for option, value in (
            ("--steps", self.steps),
            ("--eval-every", self.eval_every),
            ("--parallel", self.parallel),
            ("--seeds", len(self.seeds)),
        ):
            if value < 1:
                raise ConfigError(f"{option} {value}: want at least 1")

    @property
    def runs(self) -> tuple[RunPlan, ...]:
        """Seed by seed, so that whatever is finished can be compared."""
        return tuple(
            RunPlan(condition=condition, seed=seed)
            for seed in self.seeds
            for condition in self.conditions
        )

    @property
    def evaluated_steps(self) -> tuple[int, ...]:
        """0, every `eval_every`, and the last."""
        return tuple(sorted({*range(0, self.steps + 1, self.eval_every), self.steps}))

    @property
    def model_dir(self) -> Path:
        return self.out / "model"

    def run_dir(self, run: RunPlan) -> Path:
        return self.out / "runs" / run.name

    def prompts(self, run: RunPlan) -> Path:
        return self.out / f"seed{run.seed}" / run.condition / "prompts.jsonl"

    def train_overrides(self, run: RunPlan) -> list[str]:
        """What `rubric-rl train` is given."""
        return [
            "experiment=lab",
            f"run.name={run.name}",
            f"run.dir={self.run_dir(run)}",
            f"run.seed={run.seed}",
            f"run.max_steps={self.steps}",
            f"run.eval_every_steps={self.eval_every}",
            "run.resume=auto",
            f"model.name_or_path={self.model_dir}",
            f"data.path={self.prompts(run)}",
            *self.overrides,
        ]

    def is_done(self, run: RunPlan) -> bool:
        """Its last evaluation is on disk, rows and metrics."""
        folder = self.run_dir(run)
        metrics = folder / "metrics.jsonl"
        if not (folder / "samples" / f"eval_{self.steps:06d}.jsonl").is_file():
            return False
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        return bool(lines) and _evaluated(lines[-1]) == self.steps

    def estimate_s(self) -> float:
        """Seconds that what is missing takes on two idle cores, roughly."""
        missing = [run for run in self.runs if not self.is_done(run)]
        of_run = (
            _SECONDS_TO_START
            + _SECONDS_PER_STEP * self.steps
            + _SECONDS_PER_EVALUATION * len(self.evaluated_steps)
        )
        model = 0.0 if self.model_dir.is_dir() else _SECONDS_OF_MODEL
        return model + -(-len(missing) // self.parallel) * of_run


def _evaluated(line: str) -> int | None:
    record = json.loads(line)
    return record["step"] if "eval/reward_mean" in record else None


def keep_setup(plan: LabPlan) -> None:
    """Write down what decides the runs; seeds and conditions may be added later.

    Raises:
        DataError: the folder holds a laboratory with other settings.
    """
    path = plan.out / "setup.json"
    setup = {
        "format": SETUP_FORMAT,
        "steps": plan.steps,
        "eval_every": plan.eval_every,
        "policy": asdict(plan.policy),
        "overrides": list(plan.overrides),
    }
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != setup:
            raise DataError(
                f"{str(plan.out)!r} holds a laboratory with other settings "
                f"({'; '.join(_differences(before, setup))}): give the same ones to go on with "
                "it, or another --out"
            )
    else:
        plan.out.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps(setup, indent=2) + "\n")


def _differences(before: dict[str, object], now: dict[str, object]) -> Iterator[str]:
    for key in sorted({*before, *now}):
        if (old := before.get(key)) != (new := now.get(key)):
            yield f"{key}: {old} there, {new} now"


def in_words(plan: LabPlan, sources: Sequence[str] = ()) -> str:
    """The plan as `--dry-run` shows it."""
    done = sum(plan.is_done(run) for run in plan.runs)
    lines = [
        f"{len(plan.runs)} runs ({len(plan.conditions)} conditions x {len(plan.seeds)} seeds), "
        f"{done} of them complete",
        f"{plan.steps} GRPO steps each, evaluated at {len(plan.evaluated_steps)} steps "
        f"(every {plan.eval_every}), {plan.parallel} at a time",
        *(f"  {run.name}{'  complete' if plan.is_done(run) else ''}" for run in plan.runs),
        f"about {plan.estimate_s() / 60:.0f} minutes on two idle cores",
    ]
    return "\n".join([*lines, *sources])
