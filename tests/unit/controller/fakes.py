"""In-memory stand-ins for rollouts, judges, learner and weight sync.

All of them append to one `events` list, and all are deterministic: a sample
depends on its seed and on the weights that were published, its reward on its
text, and the next weights on the batch. Hence a resumed run that repeated a
step, skipped one or used other weights ends in other numbers.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rubric_rl.config.schema import Config
from rubric_rl.controller import checkpoints
from rubric_rl.controller.archive import CandidateArchive
from rubric_rl.controller.interfaces import JudgePoolStatus
from rubric_rl.controller.loop import Controller, Parts
from rubric_rl.controller.measuring import GoldParts
from rubric_rl.controller.refinement_phase import RefinementParts
from rubric_rl.controller.run_folder import RunFolder
from rubric_rl.controller.state import TrainState
from rubric_rl.controller.streaming import GroupStreamer
from rubric_rl.observability.artifacts import CheckpointMade, RubricsInForce
from rubric_rl.observability.checksums import FileDigest
from rubric_rl.observability.metrics import check_names
from rubric_rl.observability.records import StepRecord
from rubric_rl.refinement.candidates import pool_of
from rubric_rl.refinement.interfaces import ProposalError, Proposer
from rubric_rl.refinement.records import (
    NewCriterion,
    Operation,
    Proposal,
    RefinementRequest,
    Revision,
)
from rubric_rl.refinement.store import RubricStore
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import (
    Criterion,
    FailureCause,
    JudgedSample,
    Judgement,
    JudgeRequest,
    JudgeUsage,
    Message,
    Prompt,
    PromptRecord,
    RolloutRequest,
    Rubric,
    Sample,
    Score,
    SyncReport,
    TrainBatch,
    UpdateResult,
    Verdict,
    VerdictValue,
)

from ...records import NUMERICS

Event = tuple[str, object]


class Killed(BaseException):
    """The process ends here; nothing but a `finally` runs after it."""


class Events(list[Event]):
    """What happened, in order; can end the run at a given event."""

    def __init__(self, *, kill_at: int | None = None) -> None:
        super().__init__()
        self.kill_at = kill_at

    def add(self, kind: str, detail: object = None) -> None:
        if self.kill_at is not None and len(self) >= self.kill_at:
            raise Killed
        self.append((kind, detail))

    def kinds(self, *wanted: str) -> list[str]:
        return [kind for kind, _ in self if kind in wanted]


# ----------------------------------------------------------------------------
# Data


def make_config(run_dir: Path | str, **overrides: Any) -> Config:
    """A small run; `rollout__samples_per_prompt=8` sets `rollout.samples_per_prompt`."""
    sections: dict[str, dict[str, Any]] = {
        "run": {
            "dir": str(run_dir),
            "eval_every_steps": 2,
            "eval_samples_per_prompt": 2,
            "checkpoint_every_steps": 2,
        },
        "model": {"name_or_path": "fake"},
        "learner": {},
        "rollout": {"prompts_per_step": 2, "samples_per_prompt": 4},
        "judge": {},
        "rubrics": {},
        "refinement": {},
        "algorithm": {},
        "data": {"path": "fake"},
        "cluster": {},
        "logging": {},
    }
    for name, value in overrides.items():
        *path, key = name.split("__")
        section: dict[str, Any] = sections
        for part in path:
            section = section.setdefault(part, {})
        section[key] = value
    return Config.model_validate(sections)


def make_prompt(prompt_id: str) -> Prompt:
    record = PromptRecord(
        prompt_id=prompt_id,
        messages=(Message(role="user", content=f"question {prompt_id}"),),
        domain="health",
        source="fake",
        row_hash="0" * 64,
    )
    return Prompt(record=record, token_ids=tuple(prompt_id.encode()))


def make_rubric(prompt_id: str, *, num_criteria: int = 4) -> Rubric:
    criteria = tuple(
        Criterion(cid=f"c{i}", text=f"criterion {i}", weight=float(1 + i % 3))
        for i in range(num_criteria)
    )
    return Rubric(prompt_id=prompt_id, version=1, criteria=criteria)


def make_rubrics(prompts: Sequence[Prompt]) -> RubricSet:
    return RubricSet(version=1, rubrics=tuple(make_rubric(p.prompt_id) for p in prompts))


def make_sample(
    prompt_id: str = "p0", index: int = 0, *, policy_version: int = 0, num_tokens: int = 3
) -> Sample:
    return Sample(
        prompt_id=prompt_id,
        sample_index=index,
        prompt_token_ids=(1, 2),
        completion_token_ids=tuple(range(num_tokens)),
        log_probs=(-0.5,) * num_tokens,
        loss_mask=(1,) * num_tokens,
        text=f"answer {index}",
        finish_reason="stop",
        seed=index,
        policy_version=policy_version,
    )


def make_judgement(rubric: Rubric, values: Sequence[VerdictValue | FailureCause]) -> Judgement:
    """One value for each criterion; a cause makes the verdict UNKNOWN."""
    verdicts = tuple(
        Verdict(cid=c.cid, value=VerdictValue.UNKNOWN, reason="", cause=value)
        if isinstance(value, FailureCause)
        else Verdict(cid=c.cid, value=value, reason="because")
        for c, value in zip(rubric.criteria, values, strict=True)
    )
    return Judgement(
        rubric_id=rubric.rubric_id,
        rubric_version=rubric.version,
        judge_id="fake",
        template_hash="0" * 16,
        mode="fake",
        verdicts=verdicts,
        usage=JudgeUsage(calls=1, prompt_tokens=10, completion_tokens=5),
        latency_s=0.5,
    )


def make_judged(
    reward: float | None, *, rubric: Rubric | None = None, index: int = 0, **sample: Any
) -> JudgedSample:
    """A judged sample of a given reward, whatever its verdicts say."""
    rubric = rubric or make_rubric("p0")
    value = FailureCause.TIMEOUT if reward is None else VerdictValue.MET
    return JudgedSample(
        sample=make_sample(rubric.prompt_id, index, **sample),
        judgement=make_judgement(rubric, [value] * len(rubric.criteria)),
        score=Score(value=reward, coverage=0.0 if reward is None else 1.0),
    )


# ----------------------------------------------------------------------------
# Workers


class FakeRollouts:
    """Finishes samples in an order of its own, one for each turn of the event loop."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.weights = 0.0
        self.policy_version: int | None = None
        self.version_error = 0
        """Added to the version that samples claim."""
        self.requests: list[RolloutRequest] = []
        self.before_sample: Callable[[RolloutRequest], Awaitable[None]] | None = None
        self.cuts: Callable[[RolloutRequest], bool] = lambda _: False
        """Whose completions end at the limit."""

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sample]:
        self.requests.extend(requests)
        self._events.add("generate", [(r.prompt_id, r.sample_index) for r in requests])
        try:
            for request in sorted(requests, key=lambda r: r.seed):
                await asyncio.sleep(0)
                if self.before_sample is not None:
                    await self.before_sample(request)
                self._events.add("sample", (request.prompt_id, request.sample_index))
                yield self._sample(request)
            self._events.add("generated")
        except asyncio.CancelledError:
            self._events.append(("generate cancelled", None))
            raise

    async def release_memory(self) -> None:
        self._events.add("release")

    def _sample(self, request: RolloutRequest) -> Sample:
        assert self.policy_version is not None, "a rollout before the first publish"
        dice = random.Random(f"{request.seed} {self.weights!r}")
        tokens = tuple(dice.randrange(1000) for _ in range(dice.randint(1, 5)))
        return Sample(
            prompt_id=request.prompt_id,
            sample_index=request.sample_index,
            prompt_token_ids=request.token_ids,
            completion_token_ids=tokens,
            log_probs=tuple(-dice.random() for _ in tokens),
            loss_mask=(1,) * len(tokens),
            text=" ".join(map(str, tokens)),
            finish_reason="length" if self.cuts(request) else "stop",
            seed=request.seed,
            policy_version=self.policy_version + self.version_error,
        )


class FakeJudges:
    """Decides each criterion by the text; `fails` picks the samples that can't be judged,
    `perfect` those that meet everything.

    Each sample costs `price_usd`; one that would exceed `limit_usd` is refused.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self.fails: Callable[[Sample], bool] = lambda _: False
        self.perfect: Callable[[Sample], bool] = lambda _: False
        self.before_verdict: Callable[[JudgeRequest], Awaitable[None]] | None = None
        self.price_usd = 0.25  # a sum of quarters has no rounding error
        self.limit_usd: float | None = None
        self.spent_usd = 0.0
        self.restored: list[str] = []

    async def judge(self, request: JudgeRequest) -> Judgement:
        sample = request.sample
        assert request.record.prompt_id == request.rubric.prompt_id == sample.prompt_id
        key = (sample.prompt_id, sample.sample_index)
        self._events.add("judge", key)
        try:
            await asyncio.sleep(0)
            if self.before_verdict is not None:
                await self.before_verdict(request)
        except asyncio.CancelledError:
            self._events.append(("judge cancelled", key))
            raise
        self._events.add("judged", key)
        if self.limit_usd is not None and self.spent_usd + self.price_usd > self.limit_usd:
            causes = [FailureCause.BUDGET] * len(request.rubric.criteria)
            return make_judgement(request.rubric, causes)
        self.spent_usd += self.price_usd
        judgement = make_judgement(
            request.rubric, [self._value(sample, c) for c in request.rubric.criteria]
        )
        usage = replace(judgement.usage, cost_usd=self.price_usd)
        return replace(judgement, usage=usage)

    async def status(self) -> JudgePoolStatus:
        return JudgePoolStatus(
            spent_usd=self.spent_usd,
            concurrency_limit=8,
            num_endpoints=4,
            num_endpoints_up=3,
            rate_limited=2,
            cache_bytes=1024,
            limiter_state=json.dumps({"spent_usd": self.spent_usd}),
        )

    async def restore(self, limiter_state: str) -> None:
        self.restored.append(limiter_state)
        self.spent_usd = json.loads(limiter_state)["spent_usd"]

    def _value(self, sample: Sample, criterion: Criterion) -> VerdictValue | FailureCause:
        if self.fails(sample):
            return FailureCause.TIMEOUT
        if self.perfect(sample):
            return VerdictValue.MET
        met = random.Random(f"{sample.text} {criterion.cid}").random() < 0.5
        return VerdictValue.MET if met else VerdictValue.UNMET


class FakeLearner:
    """A policy of one weight."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.weights = 0.0
        self.policy_version = 0
        self.batches: dict[int, TrainBatch] = {}
        self.before_update: Callable[[TrainBatch], Awaitable[None]] | None = None
        self.before_written: Callable[[int], Awaitable[None]] | None = None
        self._unwritten: tuple[Path, str] | None = None

    async def update(self, batch: TrainBatch) -> UpdateResult:
        self._events.add("update", batch.step)
        if self.before_update is not None:
            await self.before_update(batch)
        await asyncio.sleep(0)
        gradient = sum(s.advantage * sum(s.completion_token_ids) for s in batch.samples)
        self.weights += 0.001 * gradient / batch.num_loss_tokens
        self.policy_version += 1
        self.batches[batch.step] = batch
        self._events.add("updated", batch.step)
        return UpdateResult(
            policy_version=self.policy_version,
            loss=-gradient,
            grad_norm=abs(gradient),
            learning_rate=0.001,
            kl_ref=self.weights**2,
            entropy=1.0,
            clip_frac=0.0,
            logprob_gap=0.0,
            num_tokens=sum(s.num_tokens for s in batch.samples),
            numerics=NUMERICS,
        )

    async def save(self, directory: Path, *, in_background: bool) -> None:
        self._events.add("save", self.policy_version)
        assert self._unwritten is None, "`written` comes first"
        text = json.dumps({"weights": self.weights, "version": self.policy_version})
        self._unwritten = (directory, text)
        if not in_background:
            self._write()

    async def written(self) -> dict[str, FileDigest]:
        if self.before_written is not None:
            await self.before_written(self.policy_version)
        self._write()
        self._unwritten = None
        self._events.add("saved", self.policy_version)
        return {}

    def _write(self) -> None:
        assert self._unwritten is not None
        directory, text = self._unwritten
        (directory / "weights.json").write_text(text)
        (directory / "rng_rank_0.pt").touch()

    async def load(self, directory: Path) -> int:
        stored = json.loads((directory / "weights.json").read_text())
        self.weights, self.policy_version = stored["weights"], stored["version"]
        return self.policy_version

    async def export(self, directory: Path) -> None:
        self._events.add("export", directory.name)
        (directory / "weights.json").write_text(json.dumps(self.weights))


class FakeReference:
    """Says -1 of every token."""

    def __init__(self, events: Events) -> None:
        self._events = events

    async def with_log_probs(self, batch: TrainBatch) -> TrainBatch:
        self._events.add("reference", batch.step)
        samples = (
            replace(s, reference_log_probs=(-1.0,) * len(s.completion_token_ids))
            for s in batch.samples
        )
        return replace(batch, samples=tuple(samples))


class FakeWeightSync:
    """Copies the learner's weight into the engine."""

    def __init__(self, events: Events, learner: FakeLearner, rollouts: FakeRollouts) -> None:
        self._events = events
        self._learner = learner
        self._rollouts = rollouts

    async def publish(self, policy_version: int) -> SyncReport:
        assert policy_version == self._learner.policy_version
        await asyncio.sleep(0)
        self._rollouts.weights = self._learner.weights
        self._rollouts.policy_version = policy_version
        self._events.add("publish", policy_version)
        return SyncReport(seconds=0.25, versions=(policy_version, policy_version))


class FakeSink:
    """Keeps records, and refuses what the real sinks refuse."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.records: list[StepRecord] = []

    def log(self, record: StepRecord) -> None:
        check_names(record.metrics)
        self._events.add("log", record.step)
        self.records.append(record)

    def close(self) -> None:
        raise AssertionError("sinks are closed by who opened them")


class WatchedStore(RubricStore):
    """A rubric store that a test can kill before and after each line."""

    def __init__(self, folder: Path, events: Events) -> None:
        self._events = events
        super().__init__(folder)

    def append(self, revision: Revision) -> None:
        if revision.status != "initial":
            self._events.add("append", (revision.prompt_id, revision.status))
        super().append(revision)
        if revision.status != "initial":
            self._events.add("appended", (revision.prompt_id, revision.status))


class FakeProposer:
    """Adds one criterion in each round; `fails` picks the prompts that get none."""

    author = "fake proposer"

    def __init__(self) -> None:
        self.events: Events | None = None
        self.fails: Callable[[str], bool] = lambda _: False
        self.asked: list[tuple[str, int]] = []

    async def initial(self, record: PromptRecord) -> tuple[Rubric, Proposal]:
        raise NotImplementedError

    async def refine(self, request: RefinementRequest) -> Proposal:
        prompt_id = request.record.prompt_id
        assert self.events is not None
        self.events.add("propose", prompt_id)
        await asyncio.sleep(0)
        self.asked.append((prompt_id, request.round))
        if self.fails(prompt_id):
            raise ProposalError("nothing comes to mind")
        kept = [Operation(op="keep", sources=(c.cid,)) for c in request.rubric.criteria]
        text = f"Says thing {request.rubric.version} of round {request.round}."
        new = NewCriterion(text=text, weight=2.0)
        added = Operation(op="add", criteria=(new,), reason="they differ in it")
        return Proposal(
            operations=(*kept, added), author=self.author, template_hash="t", cost_usd=0.5
        )


class FakeArtifacts:
    """Remembers what it was told; a checkpoint's files must be there then."""

    def __init__(self) -> None:
        self.made: list[RubricsInForce | CheckpointMade] = []

    def rubrics(self, made: RubricsInForce) -> None:
        self.made.append(made)

    def checkpoint(self, made: CheckpointMade) -> None:
        assert (made.path / "manifest.json").is_file()
        self.made.append(made)


class FakeStatus:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def status(self, text: str) -> None:
        self.texts.append(text)


# ----------------------------------------------------------------------------
# A process


@dataclass(kw_only=True)
class World:
    """All parts of one process that runs the loop."""

    config: Config
    train_prompts: list[Prompt]
    eval_prompts: list[Prompt]
    events: Events = field(default_factory=Events)
    proposer: Proposer | None = None
    """Refines the rubrics, if the config says so."""
    gold: GoldParts | None = None

    def __post_init__(self) -> None:
        self.first_rubrics = make_rubrics([*self.train_prompts, *self.eval_prompts])
        self.archive: CandidateArchive | None = None
        self.open_store: RubricStore | None = None
        self.rubrics = make_rubrics([*self.train_prompts, *self.eval_prompts])
        self.rollouts = FakeRollouts(self.events)
        self.judges = FakeJudges(self.events)
        self.learner = FakeLearner(self.events)
        self.reference: FakeReference | None = None
        self.weight_sync = FakeWeightSync(self.events, self.learner, self.rollouts)
        self.sink = FakeSink(self.events)
        self.artifacts = FakeArtifacts()
        self.status = FakeStatus()
        self.stop = asyncio.Event()
        self.run_folder = RunFolder(root=Path(self.config.run.dir))

    @property
    def fresh_state(self) -> TrainState:
        return TrainState(
            rubric_version=self.rubrics.version, rubric_hash=self.rubrics.content_hash
        )

    def streamer(self) -> GroupStreamer:
        return GroupStreamer(self.config, self.rubrics, self.rollouts, self.judges, self.status)

    def controller(self) -> Controller:
        return Controller(
            Parts(
                config=self.config,
                train_prompts=self.train_prompts,
                eval_prompts=self.eval_prompts,
                rubrics=self.rubrics,
                anchor=self.first_rubrics,
                gold=self.gold,
                refinement=self._refinement(),
                archive=self.archive,
                rollouts=self.rollouts,
                judges=self.judges,
                learner=self.learner,
                reference=self.reference,
                weight_sync=self.weight_sync,
                run_folder=self.run_folder,
                sinks=[self.sink],
                artifacts=self.artifacts,
                status=self.status,
                stop=self.stop,
            )
        )

    def _refinement(self) -> RefinementParts | None:
        if self.proposer is None:
            return None
        self.open_store = store = WatchedStore(self.run_folder.root / "rubrics", self.events)
        store.begin(self.first_rubrics.rubrics, author="test", phase="start")
        return RefinementParts(store=store, proposer=self.proposer, pool=pool_of(()))

    def store(self) -> RubricStore:
        """The rubric store as the next process would find it."""
        return RubricStore(self.run_folder.root / "rubrics")

    async def train(self) -> TrainState:
        """Run from the newest checkpoint, or from the start; nothing may be left behind."""
        before = asyncio.all_tasks()
        found = self.run_folder.all_checkpoints()
        state = self.fresh_state
        if found:
            state, self.rubrics = checkpoints.read(found[-1])
            await checkpoints.restore_learner(found[-1], self.learner)
            await checkpoints.restore_judges(found[-1], self.judges)
            per_prompt = self.config.refinement.on_policy_candidates
            self.archive = checkpoints.read_archive(found[-1], per_prompt)
        try:
            return await self.controller().run(state)
        finally:
            if self.open_store is not None:
                self.open_store.close()  # as the end of a process does
            left = asyncio.all_tasks() - before
            assert not left, f"tasks are left behind: {left}"

    def run(self) -> TrainState:
        return asyncio.run(self.train())

    def checkpoint_steps(self) -> list[int]:
        return [checkpoint.step for checkpoint in self.run_folder.all_checkpoints()]


def make_world(
    run_dir: Path,
    *,
    num_train: int = 6,
    num_eval: int = 2,
    kill_at: int | None = None,
    events: Events | None = None,
    **overrides: Any,
) -> World:
    return World(
        config=make_config(run_dir, **overrides),
        train_prompts=[make_prompt(f"t{i}") for i in range(num_train)],
        eval_prompts=[make_prompt(f"e{i}") for i in range(num_eval)],
        events=Events(kill_at=kill_at) if events is None else events,
    )


_NOT_REPEATED = frozenset(
    {
        "rollout/tokens_per_s",
        "judge/wait_frac",
        "judge/spent_usd",
        "rubric/usd",
        "rubric/usd_per_accepted",
    }
)


def without_times(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics that a repeated run must repeat.

    Not times, and not what is spent: a step that was given up has cost its money.
    """
    return {
        name: value
        for name, value in metrics.items()
        if not name.startswith(("time/", "learner/")) and name not in _NOT_REPEATED
    }
