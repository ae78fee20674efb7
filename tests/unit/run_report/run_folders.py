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
from rubric_rl.observability.records import CriterionRow, SampleRow, StepRecord
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


def _metrics(words: str) -> dict[str, float]:
    pairs = words.split()
    return {name: float(v) for name, v in zip(pairs[::2], pairs[1::2], strict=True)}


# Of 35 s: 11 rollout, 1 judge wait, 20 learner, 2 weight sync, 1 the rest.
_STEP = _metrics("""
    reward/top_tie_frac 0.5      reward/saturated_frac 0.25    reward/zero_variance_frac 0
    policy/entropy 2.0           rollout/truncated_frac 0.9    rollout/response_tokens_mean 60
    judge/coverage_mean 0.98     judge/unknown_frac 0.02       judge/unscored_frac 0
    judge/latency_s 0.4          judge/calls 32                judge/retries 1
    judge/hedges 0               judge/unknown/timeout 2       judge/unknown/missing 1
    time/step_s 35               time/rollout_s 11             time/judge_wait_s 1
    time/learner_s 20            time/weight_sync_s 2
""")
_REFINEMENT = _metrics("""
    rubric/refined_prompts 4     rubric/accepted 1             rubric/rejected 1
    rubric/failed 0              rubric/top_ties_before 3      rubric/top_ties_after 1
    rubric/criteria_mean 2.5     time/refinement_s 5
""")


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
    settings += ["refinement=none"] if refined_after is None else []
    run.config_yaml.write_text(to_yaml(compose(settings)), encoding="utf-8")
    versions = {"python": "3.11.9", "git_commit": None, "platform": words}
    run.environment_json.write_text(json.dumps(versions), encoding="utf-8")
    minutes = itertools.count(1_700_000_000, 60)
    sink = JsonlSink(folder, clock=lambda: float(next(minutes)))
    for step in range(num_steps + 1):
        for record in _records(step, eval_every, step == refined_after, gain, words):
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


def _records(
    step: int, eval_every: int, refined: bool, gain: float, words: str
) -> Iterator[StepRecord]:
    metrics, rows = dict[str, float](), tuple[SampleRow, ...]()
    if step:
        reward = 0.3 + 0.02 * step + step * 7 % 5 / 100
        metrics = {"reward/mean": reward, "policy/kl_ref": 0.001 * step}
        metrics |= {**_STEP, "judge/spent_usd": 0.01 * step}
    if eval_every and step % eval_every == 0:
        gained = gain * (step // eval_every)
        # Prompts differ by 0.1 in their reward.
        rows = tuple(
            held_out_row(prompt_id, step, 0.2 + gained + 0.1 * i, words=words)
            for i, prompt_id in enumerate(PROMPTS)
        )
        metrics |= {"eval/reward_mean": 0.3 + gained, "eval/reward_ci95": 0.05}
        metrics |= {"eval/anchor_reward_mean": 0.35 + gained, "time/eval_s": 12.0}
    if metrics:
        yield StepRecord(step=step, metrics=metrics, rows=rows)
    if refined:
        yield StepRecord(step=step, metrics=_REFINEMENT, rows=())


def held_out_row(
    prompt_id: str,
    step: int,
    reward: float | None,
    *,
    words: str = "words",
    sample_index: int = 0,
    anchor: float | None = None,
) -> SampleRow:
    """`anchor` is `reward` unless it is given; the third criterion is there after step 0."""
    verdicts = {"c1": MET, "c2": MET, "c3": UNMET} if step else {"c1": UNMET, "c2": MET}
    return SampleRow(
        step=step,
        phase="eval",
        prompt_id=prompt_id,
        messages=(Message(role="user", content=f"My knee hurts. {words}"),),
        completion=f"{words} ({step})",
        finish_reason="length",
        criteria=tuple(criterion_row(cid, v, f"{cid} {words}") for cid, v in verdicts.items()),
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


def criterion_row(cid: str, verdict: VerdictValue, text: str) -> CriterionRow:
    reason = f"because {text}"
    return CriterionRow(
        cid=cid, text=text, weight=1.0, polarity=1, verdict=verdict, reason=reason, cause=None
    )


# ----------------------------------------------------------------------------
# The rubric store


def _rubric(prompt_id: str, version: int, *texts: str) -> Rubric:
    criteria = tuple(Criterion(cid=f"c{i}", text=t, weight=2.0) for i, t in enumerate(texts, 1))
    return Rubric(prompt_id=prompt_id, version=version, criteria=criteria)


def _write_store(folder: Path, phase: str, words: str) -> None:
    """h1 gets a version 1, a proposal for h2 is refused, h3 and h4 stay as they are."""
    store = RubricStore(folder)
    first = [_rubric(p, 0, f"Names a doctor. {words}", "Names a dose.") for p in PROMPTS]
    store.begin(first, author="data", phase="start")
    store.append(decided("h1", phase, words))
    store.append(decided("h2", phase, words, f"3 of 6 top pairs are tied, 2 were before {words}"))
    store.close()


def decided(prompt_id: str, phase: str, words: str, *reasons: str) -> Revision:
    """c1 is reworded, c2 removed, another one added; refused if there is a reason."""
    specialist = NewCriterion(text=f"Names a specialist. {words}", weight=2.0)
    when = NewCriterion(text=f"Says when. {words}", weight=1.0)
    return Revision(
        prompt_id=prompt_id,
        number=1,
        status="rejected" if reasons else "accepted",
        version=1,
        parent_version=0,
        rubric=_rubric(prompt_id, 1, specialist.text, when.text),
        author=f"offline {words}",
        template_hash="t",
        round=1,
        phase=phase,
        evidence=(f"policy@2#0:{words}", "policy@2#3:0123abcd"),
        scores_before=(0.75, 0.75),
        scores_after=(0.9, None),
        operations=(
            Operation(
                op="rewrite", sources=("c1",), criteria=(specialist,), reason=f"sharper {words}"
            ),
            Operation(op="delete", sources=("c2",)),
            Operation(op="add", criteria=(when,)),
        ),
        gate=gate_figures(2, 3) if reasons else gate_figures(3, 1),
        reasons=reasons,
    )
