"""Run folders as a training leaves them, by the project's own writers, without training."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rubric_rl.config.compose import compose, to_yaml
from rubric_rl.controller.best_checkpoints import Scored, write_score
from rubric_rl.controller.run_folder import RunFolder
from rubric_rl.observability.checksums import FileDigest
from rubric_rl.observability.records import CriterionRow, Phase, SampleRow, StepRecord
from rubric_rl.observability.sinks import JsonlSink
from rubric_rl.refinement.records import NewCriterion, Operation, Revision
from rubric_rl.refinement.store import RubricStore
from rubric_rl.types import Criterion, Message, Rubric, VerdictValue

from ...records import gate_figures

MET, UNMET = VerdictValue.MET, VerdictValue.UNMET
PROMPTS = ("h1", "h2", "h3", "h4")
HOSTILE = (
    "</pre></style><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"
)


def write_run(
    folder: Path,
    *,
    num_steps: int = 4,
    eval_every: int = 2,
    refined_after: int | None = 2,
    gain: float = 0.1,
    words: str = "See a doctor within a day.",
    overrides: Sequence[str] = (),
) -> Path:
    """A run of `num_steps`.

    Args:
        eval_every: evaluations at 0 and every so many steps; 0: none at all.
        refined_after: the step that a refinement follows; None: none, and no rubric store.
        gain: what the held-out reward of each prompt gains from one evaluation to the next.
        words: of every completion, criterion, reason and author.
    """
    run = RunFolder(root=folder)
    folder.mkdir(parents=True)
    settings = ["experiment=quickstart_cpu", f"run.dir={folder}", *overrides]
    if refined_after is None:
        settings.append("refinement=none")
    run.config_yaml.write_text(to_yaml(compose(settings)), encoding="utf-8")
    versions = {"rubric_rl": "0.1.0", "python": "3.11.9", "git_commit": None, "platform": words}
    run.environment_json.write_text(json.dumps(versions), encoding="utf-8")
    ticks = itertools.count(1_700_000_000, 60)
    sink = JsonlSink(folder, clock=lambda: float(next(ticks)))
    for record in _records(num_steps, eval_every, refined_after, gain, words):
        sink.log(record)
    sink.close()
    if refined_after is not None:
        _write_store(run.rubrics, f"step {refined_after}", words)
    asyncio.run(run.commit_checkpoint(num_steps, _checkpoint))
    write_score(run.checkpoint(num_steps).path, Scored(metric="eval/reward_mean", value=0.5))
    return folder


async def _checkpoint(directory: Path) -> dict[str, FileDigest]:
    (directory / "state.json").write_text("{}", encoding="utf-8")
    return {}


# ----------------------------------------------------------------------------
# Steps


def _records(
    num_steps: int, eval_every: int, refined_after: int | None, gain: float, words: str
) -> Iterator[StepRecord]:
    for step in range(num_steps + 1):
        metrics: dict[str, float] = _training(step) if step else {}
        rows: tuple[SampleRow, ...] = ()
        if eval_every and step % eval_every == 0:
            num_evals = step // eval_every
            rows = _evaluation(step, 0.2 + gain * num_evals, words)
            metrics |= {
                "eval/reward_mean": 0.3 + gain * num_evals,
                "eval/reward_ci95": 0.05,
                "eval/anchor_reward_mean": 0.35 + gain * num_evals,
                "time/eval_s": 12.0,
            }
        if metrics:
            yield StepRecord(step=step, metrics=metrics, rows=rows)
        if step == refined_after:
            yield StepRecord(step=step, metrics=_REFINEMENT, rows=())


_REFINEMENT = {
    "rubric/refined_prompts": 4.0,
    "rubric/accepted": 1.0,
    "rubric/rejected": 1.0,
    "rubric/failed": 0.0,
    "rubric/top_ties_before": 3.0,
    "rubric/top_ties_after": 1.0,
    "rubric/criteria_mean": 2.5,
    "time/refinement_s": 5.0,
}


def _training(step: int) -> dict[str, float]:
    """Of 35 s: 11 rollout, 1 judge wait, 20 learner, 2 weight sync, 1 the rest."""
    wobble = (step * 7 % 5) / 100
    return {
        "reward/mean": 0.3 + 0.02 * step + wobble,
        "reward/top_tie_frac": 0.5 - wobble,
        "reward/saturated_frac": 0.25,
        "reward/zero_variance_frac": 0.0,
        "policy/kl_ref": 0.001 * step,
        "policy/entropy": 2.0 - 0.01 * step,
        "rollout/response_tokens_mean": 60.0 + step,
        "rollout/truncated_frac": 0.9,
        "judge/coverage_mean": 0.98,
        "judge/unknown_frac": 0.02,
        "judge/unscored_frac": 0.0,
        "judge/latency_s": 0.4,
        "judge/calls": 32.0,
        "judge/retries": 1.0,
        "judge/hedges": 0.0,
        "judge/spent_usd": 0.01 * step,
        "judge/unknown/timeout": 2.0,
        "judge/unknown/missing": 1.0,
        "time/step_s": 35.0,
        "time/rollout_s": 11.0,
        "time/judge_wait_s": 1.0,
        "time/learner_s": 20.0,
        "time/weight_sync_s": 2.0,
    }


def _evaluation(step: int, reward: float, words: str) -> tuple[SampleRow, ...]:
    """Prompts differ by 0.1 in their reward; the third criterion is there after step 0."""
    return tuple(
        held_out_row(prompt_id, step, reward + 0.1 * i, words=words)
        for i, prompt_id in enumerate(PROMPTS)
    )


def held_out_row(
    prompt_id: str,
    step: int,
    reward: float | None,
    *,
    words: str = "words",
    sample_index: int = 0,
    anchor: float | None = None,
    criteria: tuple[CriterionRow, ...] | None = None,
    phase: Phase = "eval",
) -> SampleRow:
    """`anchor` is `reward` unless it is given."""
    own = [("c1", MET if step else UNMET), ("c2", MET)]
    if step:
        own.append(("c3", UNMET))
    return SampleRow(
        step=step,
        phase=phase,
        prompt_id=prompt_id,
        messages=(Message(role="user", content=f"My knee hurts. {words}"),),
        completion=f"{words} ({step})",
        finish_reason="length",
        criteria=tuple(criterion_row(cid, verdict, f"{cid} {words}") for cid, verdict in own)
        if criteria is None
        else criteria,
        reward=reward,
        coverage=1.0,
        advantage=None,
        sample_index=sample_index,
        seed=7,
        policy_version=step,
        rubric_id="r1",
        rubric_version=0,
        judge_id="rules",
        anchor_reward=reward if anchor is None else anchor,
    )


def criterion_row(cid: str, verdict: VerdictValue, text: str, weight: float = 1.0) -> CriterionRow:
    return CriterionRow(
        cid=cid,
        text=text,
        weight=weight,
        polarity=1,
        verdict=verdict,
        reason=f"because {text}",
        cause=None,
    )


# ----------------------------------------------------------------------------
# The rubric store


def rubric(prompt_id: str, version: int, *texts: str) -> Rubric:
    criteria = tuple(Criterion(cid=f"c{i}", text=t, weight=2.0) for i, t in enumerate(texts, 1))
    return Rubric(prompt_id=prompt_id, version=version, criteria=criteria)


def _write_store(folder: Path, phase: str, words: str) -> None:
    """h1 gets a version 1, a proposal for h2 is refused, h3 and h4 stay as they are."""
    store = RubricStore(folder)
    first = [rubric(p, 0, f"Names a doctor. {words}", "Names a dose.") for p in PROMPTS]
    store.begin(first, author="data", phase="start")
    store.append(decided("h1", "accepted", phase, words))
    store.append(decided("h2", "rejected", phase, words))
    store.close()


def decided(prompt_id: str, status: str, phase: str, words: str = "words") -> Revision:
    """c1 is reworded, c2 removed, another one added; the gate saw 3 ties become 1."""
    is_accepted = status == "accepted"
    reasons = () if is_accepted else (f"3 of 6 top pairs are tied, 2 were before {words}",)
    return Revision(
        prompt_id=prompt_id,
        number=1,
        status="accepted" if is_accepted else "rejected",
        version=1,
        parent_version=0,
        rubric=rubric(prompt_id, 1, f"Names a specialist. {words}", f"Says when. {words}"),
        author=f"offline {words}",
        template_hash="t",
        round=1,
        phase=phase,
        evidence=(f"policy@2#0:{words}", "policy@2#3:0123abcd"),
        scores_before=(0.75, 0.75),
        scores_after=(0.9, None),
        operations=(
            Operation(
                op="rewrite",
                sources=("c1",),
                criteria=(NewCriterion(text=f"Names a specialist. {words}", weight=2.0),),
                reason=f"sharper {words}",
            ),
            Operation(op="delete", sources=("c2",)),
            Operation(op="add", criteria=(NewCriterion(text=f"Says when. {words}", weight=1.0),)),
        ),
        gate=gate_figures(3, 1) if is_accepted else gate_figures(2, 3),
        reasons=reasons,
    )
