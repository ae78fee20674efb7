"""The RFT loop: roll out, judge, learn, publish.

    prompts --> rollouts --> judges --> groups --> batch --> learner --> weight sync --+
                    ^                                                                  |
                    +------------------------------------------------------------------+

`Controller._train` is the algorithm; what each line does is a method below it or a
module beside it. Everything outside is a Protocol, so the loop runs in a test
without Ray.

    _train: consumes: StepGroups (`EpochGroups.next`)
            waits for:    the step's last verdict
            unblocked by: the producer, or a stop request
          produces: published weights, a step record, checkpoints
            unblocks:     the producer (`EpochGroups.learner_at`)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rubric_rl.config.schema import Config
from rubric_rl.controller.archive import CandidateArchive
from rubric_rl.controller.assembly import assemble
from rubric_rl.controller.checkpoint_writer import CheckpointWriter
from rubric_rl.controller.checkpoints import CheckpointContent
from rubric_rl.controller.criteria_stats import criteria_stats
from rubric_rl.controller.evaluation import Evaluation, evaluate
from rubric_rl.controller.groups import EpochGroups, NothingToLearn, StepGroups
from rubric_rl.controller.interfaces import (
    JudgePool,
    LearnerGroup,
    ReferenceGroup,
    RolloutPool,
    WeightSync,
)
from rubric_rl.controller.judging_tally import JudgingTally, refuse_unscored
from rubric_rl.controller.measuring import GoldParts, Measure
from rubric_rl.controller.money import (
    BudgetedJudges,
    BudgetedProposer,
    PaidJudges,
    cost_usd,
    exhausted,
    refuse_next_step,
)
from rubric_rl.controller.refinement_phase import RefinementParts, RefinementPhase
from rubric_rl.controller.run_folder import RunFolder
from rubric_rl.controller.schedule import (
    checkpoint_due,
    evaluation_due,
    finished,
    refinement_due,
)
from rubric_rl.controller.state import PromptUse, TrainState
from rubric_rl.controller.step_record import (
    StepTimes,
    status_metrics,
    step_metrics,
    step_rows,
    top_tie_frac,
)
from rubric_rl.controller.stopping import unless_stopped
from rubric_rl.controller.streaming import GroupStreamer, Status
from rubric_rl.errors import JudgeFailureError, OverBudget
from rubric_rl.observability.artifacts import NO_ARTIFACTS, Artifacts, RubricsInForce
from rubric_rl.observability.records import StepRecord
from rubric_rl.observability.sinks import Sink
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import Prompt, TrainBatch, UpdateResult

logger = logging.getLogger(__name__)

EXPORT_DIR = "model"
"""Where in the run folder the trained policy is exported to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the controller drives."""

    config: Config
    train_prompts: Sequence[Prompt]
    eval_prompts: Sequence[Prompt]
    """Empty: there is no evaluation."""
    rubrics: RubricSet
    """Of all these prompts, in force at the start."""
    anchor: RubricSet | None = None
    """Rubrics that evaluations are scored under too, so that their curve stays comparable."""
    gold: GoldParts | None = None
    """What evaluations are scored by too, and nothing is trained on."""
    refinement: RefinementParts | None = None
    """None: the rubrics stay as they are."""
    archive: CandidateArchive | None = None
    """Answers that a checkpoint remembered; None starts without any."""
    rollouts: RolloutPool
    judges: JudgePool
    learner: LearnerGroup
    reference: ReferenceGroup | None = None
    """Workers that work out the reference's log-probs; None: the learner does it."""
    weight_sync: WeightSync
    run_folder: RunFolder
    sinks: Sequence[Sink]
    """Closed by the caller."""
    artifacts: Artifacts = NO_ARTIFACTS
    """Is told of rubrics and checkpoints."""
    status: Status
    stop: asyncio.Event
    """Set it to stop: an update that has begun is completed, rollouts are cancelled."""


class Controller:
    """Trains from a state to the end of the run, or to a stop request."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._config = parts.config
        self._prompts = {prompt.prompt_id: prompt for prompt in parts.train_prompts}
        self._judges = BudgetedJudges(parts.judges, parts.config)
        self._streamer = GroupStreamer(
            parts.config, parts.rubrics, parts.rollouts, self._judges, parts.status
        )
        self._archive = parts.archive or CandidateArchive(
            parts.config.refinement.on_policy_candidates
        )
        self._checkpoints = CheckpointWriter(
            parts.config, parts.run_folder, parts.learner, parts.artifacts
        )
        self._over_budget: OverBudget | None = None
        """Why an evaluation was given up."""

    async def run(self, state: TrainState) -> TrainState:
        """Train on from `state`, which the learner must be at; leaves a checkpoint of its result.

        Raises:
            JudgeFailureError: too many samples are unscored. A checkpoint is left.
            BudgetExhaustedError: judging costs more than it may. A checkpoint is left.
            RunFolderError: a checkpoint can't be written; those before it stand.
            LearnerDivergedError, WeightSyncError and others: as the part raised it. The
                last checkpoint stands.
        """
        assert state.rubric_version == self._parts.rubrics.version
        assert state.rubric_hash == self._parts.rubrics.content_hash
        self._announce_rubrics(state.step)
        async with self._checkpoints:
            await self._publish(state.step)
            return await self._train(state)

    async def _train(self, state: TrainState) -> TrainState:
        config, parts = self._config, self._parts
        try:
            await self._stay_in_budget(state)
            state = await self._evaluate_pending(state)
            while not (finished(config, state) or parts.stop.is_set()):
                if state.phase == "refining":
                    state = await self._refine(state)
                    continue
                await self._stay_in_budget(state)
                async with EpochGroups(config, parts.train_prompts, state, self._streamer) as epoch:
                    began = time.perf_counter()
                    while groups := await unless_stopped(parts.stop, epoch.next()):
                        state = await self._step(state, groups, began)
                        refuse_unscored(state.window, config.rubrics)
                        self._checkpoints.raise_failure()
                        await self._stay_in_budget(state)
                        if checkpoint_due(config, state) or state.phase == "refining":
                            await self._checkpoint(state)
                        if state.phase == "refining" or finished(config, state):
                            break
                        epoch.learner_at(state.step)
                        began = time.perf_counter()
            state = await self._evaluate_pending(state)
            self._refuse_given_up()
        except NothingToLearn as refused:
            # The samples say why: they are what the error's text points to.
            rows = step_rows(refused.groups, (), self._prompts, self._rubrics)
            self._log(StepRecord(step=refused.groups.step, metrics={}, rows=rows))
            await self._checkpoint(state.with_empty_window(), is_last=True)
            raise refused.error from None
        except JudgeFailureError:
            await self._checkpoint(state.with_empty_window(), is_last=True)
            raise
        except OverBudget as why:
            await self._checkpoint(state, is_last=True)
            status = await self._judges.status()
            raise exhausted(config, state, status, self._apart_usd(state), why) from None
        await self._checkpoint(state, is_last=True)
        if finished(config, state) and config.run.export_model and not parts.stop.is_set():
            await self._export()
        return state

    async def _step(self, state: TrainState, groups: StepGroups, began: float) -> TrainState:
        """Learn from one step's groups, evaluate if it is time, log; the state afterwards."""
        if not groups.groups:
            return self._skip(state, groups)
        batch, advantages_P_G = assemble(
            groups.step, groups.groups, self._config.algorithm, self._config.rollout
        )
        update, times = await self._learn(batch, began)
        after = state.after_step(update.policy_version, self._use(groups))
        if refinement_due(self._config, state, after, top_tie_frac(groups.scored_groups)):
            after = after.before_refinement()
        rubrics = self._rubrics
        criteria = criteria_stats(groups.all_groups, rubrics, step=groups.step, phase="train")
        saturation = self._config.refinement.saturation
        metrics = step_metrics(groups, update, times, criteria, rubrics, saturation=saturation) | {
            "data/epoch": state.epoch,
            "data/prompts_consumed": after.total_consumed,
        }
        rows = step_rows(groups, advantages_P_G, self._prompts, rubrics)
        if self._config.refinement.enabled:
            self._archive.add(groups.scored_groups)
        if evaluation := await self._evaluate(after):
            metrics, rows = metrics | evaluation.metrics, rows + evaluation.rows
            criteria += evaluation.criteria
            after = evaluation.recorded_in(after, self._config)
        metrics |= status_metrics(await self._judges.status())
        self._log(StepRecord(step=after.step, metrics=metrics, rows=rows, criteria=criteria))
        return after

    def _skip(self, state: TrainState, groups: StepGroups) -> TrainState:
        """Go on without a step: a few last prompts of an epoch must not end a run."""
        use = self._use(groups)
        logger.warning(
            "the last %d prompts of epoch %d give no step: %s; %s",
            len(use.prompt_ids),
            state.epoch,
            use.tally.in_words(),
            groups.drops_in_words(),
        )
        after = state.after_skipped_step(use)
        is_due = refinement_due(self._config, state, after, top_tie_frac=0.0)
        return after.before_refinement() if is_due else after

    def _use(self, groups: StepGroups) -> PromptUse:
        return PromptUse(
            prompt_ids=groups.consumed_prompt_ids,
            epoch_size=len(self._prompts),
            tally=JudgingTally.of(groups.samples),
            window_steps=self._config.rubrics.unscored_window_steps,
            cost_usd=cost_usd(groups.samples),
        )

    async def _stay_in_budget(self, state: TrainState) -> None:
        """Raise OverBudget if an evaluation was given up or the next step could be refused."""
        self._refuse_given_up()
        if self._config.judge.budget.max_cost_usd is not None:
            status = await self._judges.status()
            refuse_next_step(self._config, state, status, self._apart_usd(state))

    def _refuse_given_up(self) -> None:
        """Raise OverBudget if an evaluation was given up; the step before it stands."""
        if self._over_budget is not None:
            raise self._over_budget

    async def _refine(self, state: TrainState) -> TrainState:
        """Refine the rubrics; the state under the next ones, or under the same if cut off."""
        parts, began = self._parts, time.perf_counter()
        assert parts.refinement is not None, "refinement.enabled needs its parts"
        records = {p.prompt_id: p.record for p in parts.train_prompts}
        if self._config.refinement.refine_eval:
            records |= {p.prompt_id: p.record for p in parts.eval_prompts}
        paid = replace(
            parts.refinement,
            proposer=BudgetedProposer(
                parts.refinement, self._judges, self._config, gold_usd=state.gold_usd
            ),
        )
        phase = RefinementPhase(self._config, records, paid, self._judges, parts.status)
        refined = await unless_stopped(
            parts.stop, phase.run(f"step {state.step}", self._rubrics, self._archive)
        )
        if refined is None:
            return state
        self._streamer.rubrics = refined.rubrics
        self._archive.clear()
        metrics = refined.metrics | {"time/refinement_s": time.perf_counter() - began}
        record = StepRecord(step=state.step, metrics=metrics, rows=(), revisions=refined.revisions)
        self._log(record)
        self._announce_rubrics(state.step)
        return state.after_refinement(refined.rubrics.version, refined.rubrics.content_hash)

    def _apart_usd(self, state: TrainState) -> float:
        """What proposals and a gold judge have cost beside what the judges say was spent."""
        refinement = self._parts.refinement
        return state.gold_usd + (0.0 if refinement is None else refinement.usd_apart)

    @property
    def _rubrics(self) -> RubricSet:
        """The rubrics in force."""
        return self._streamer.rubrics

    async def _learn(self, batch: TrainBatch, began: float) -> tuple[UpdateResult, StepTimes]:
        """One optimizer step, after which every engine serves the new weights."""
        if self._config.algorithm.max_staleness == 0:
            await self._parts.rollouts.release_memory()
        batch, reference_s = await self._with_reference(batch)
        self._parts.status.status(f"learner: updating on {len(batch.samples)} samples")
        update_began = time.perf_counter()
        update = await self._parts.learner.update(batch)
        learner_s = time.perf_counter() - update_began
        assert update.policy_version == batch.step
        weight_sync_s = await self._publish(update.policy_version)
        times = StepTimes(
            step_s=time.perf_counter() - began,
            learner_s=learner_s,
            weight_sync_s=weight_sync_s,
            reference_s=reference_s,
        )
        return update, times

    async def _with_reference(self, batch: TrainBatch) -> tuple[TrainBatch, float | None]:
        if self._parts.reference is None:
            return batch, None
        began = time.perf_counter()
        self._parts.status.status(f"reference: {len(batch.samples)} samples")
        return await self._parts.reference.with_log_probs(batch), time.perf_counter() - began

    async def _publish(self, policy_version: int) -> float:
        """Return the seconds of the sync itself, without the wait for rollouts in flight."""
        async with self._streamer.weights_in_use:
            self._parts.status.status(f"weight sync: policy version {policy_version}")
            report = await self._parts.weight_sync.publish(policy_version)
        assert set(report.versions) == {policy_version}
        return report.seconds

    async def _evaluate_pending(self, state: TrainState) -> TrainState:
        """The evaluation of a completed step that is due and has not been made.

        Of step 0; of a step whose evaluation a stop cut off; of the last one if only
        skipped prompts showed that it was the last.
        """
        evaluation = await self._evaluate(state)
        if evaluation is None:
            return state
        metrics = evaluation.metrics | status_metrics(await self._judges.status())
        rows, criteria = evaluation.rows, evaluation.criteria
        self._log(StepRecord(step=state.step, metrics=metrics, rows=rows, criteria=criteria))
        return evaluation.recorded_in(state, self._config)

    async def _evaluate(self, state: TrainState) -> Evaluation | None:
        """None if it isn't time, if nothing is held out, or if the run is to stop.

        That includes a stop for want of money, after which the step that was made stands.
        """
        parts = self._parts
        if not parts.eval_prompts or not evaluation_due(self._config, state):
            return None
        try:
            evaluation = await unless_stopped(
                parts.stop,
                evaluate(
                    self._config,
                    parts.eval_prompts,
                    self._rubrics,
                    self._streamer,
                    step=state.step,
                    anchor=self._anchor,
                    gold=self._gold,
                ),
            )
        except OverBudget as why:
            self._over_budget = why
            return None
        if evaluation is not None and evaluation.reward_mean is None:
            logger.warning("step %d: no held-out sample could be scored", state.step)
        if evaluation is not None and parts.gold is not None and evaluation.gold is None:
            logger.warning("step %d: no held-out sample could be scored for gold", state.step)
        if evaluation is not None and self._config.refinement.enabled:
            self._archive.replace(evaluation.groups)
        return evaluation

    @property
    def _anchor(self) -> Measure | None:
        rubrics = self._parts.anchor
        return None if rubrics is None else Measure(rubrics=rubrics, judges=self._judges)

    @property
    def _gold(self) -> Measure | None:
        gold = self._parts.gold
        if gold is None or gold.judges is None:
            return None if gold is None else Measure(rubrics=gold.rubrics, judges=self._judges)
        return Measure(
            rubrics=gold.rubrics,
            judges=PaidJudges(gold.judges, self._config),
            is_own_judge=True,
            is_paid_apart=not gold.shares_account,
        )

    def _announce_rubrics(self, step: int) -> None:
        self._parts.artifacts.rubrics(RubricsInForce(step=step, rubrics=self._rubrics))

    def _log(self, record: StepRecord) -> None:
        if record.metrics and (taken := self._checkpoints.take_metrics()):
            record = replace(record, metrics={**record.metrics, **taken})
        for sink in self._parts.sinks:
            sink.log(record)

    async def _checkpoint(self, state: TrainState, *, is_last: bool = False) -> None:
        self._parts.status.status(f"checkpoint: step {state.step}")
        content = CheckpointContent(
            state=state,
            rubrics=self._rubrics,
            limiter_state=(await self._judges.status()).limiter_state,
            archive=self._archive if self._config.refinement.enabled else None,
        )
        await self._checkpoints.save(content)
        if is_last:
            await self._checkpoints.finish()

    async def _export(self) -> None:
        directory = self._parts.run_folder.root / EXPORT_DIR
        directory.mkdir(exist_ok=True)
        self._parts.status.status(f"export: {directory}")
        await self._parts.learner.export(directory)
