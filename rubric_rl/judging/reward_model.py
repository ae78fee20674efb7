"""A reward model as the judge: each answer gets one number, and no criterion a verdict.

    request -> tokens -> micro-batch of what waits -> reward model -> GRADED

Requests that come while the model is at work go through it together next. An answer that is
too long, a model that can't be run on it or a number that isn't finite is UNKNOWN with its
cause, never a score.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rubric_rl.config.judge import RewardModelConfig
from rubric_rl.config.schema import ModelConfig
from rubric_rl.data.tokenizing import PolicyTokenizer, load_tokenizer
from rubric_rl.errors import ConfigError, ModelError
from rubric_rl.judging.judge import RubricJudge
from rubric_rl.rubrics.whole_answer import REWARD_MODEL_MODE, WHOLE
from rubric_rl.types import (
    FailureCause,
    Judgement,
    JudgeRequest,
    JudgeUsage,
    Verdict,
    VerdictValue,
)

Score = Callable[[Sequence[Sequence[int]]], list[float]]
"""Rewards of token sequences, in their order. Raises RuntimeError where the model can't be run."""

_SAMPLES = 64
_SAMPLE_BYTES = 1 << 16


def check_reward_model(config: RewardModelConfig) -> str:
    """Check that the directory holds a reward model; returns its fingerprint.

    Raises:
        ConfigError: there is none, or its head has more than one output.
        ModelError: it has no tokenizer with a chat template.
    """
    path = Path(config.path).expanduser()
    try:
        fields = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ConfigError(
            f"judge.reward_model.path={config.path!r} holds no config.json that can be read "
            f"({err}): want a directory as `rubric-rl reward-model` exports it"
        ) from err
    names = fields.get("architectures") or ["nothing"]
    labels = fields.get("id2label")
    num_labels = len(labels) if isinstance(labels, dict) else 2
    if not str(names[0]).endswith("ForSequenceClassification") or num_labels != 1:
        raise ConfigError(
            f"judge.reward_model.path={config.path!r} holds {names[0]} with {num_labels} outputs: "
            "want a sequence classifier with one, as `rubric-rl reward-model` exports it"
        )
    load_tokenizer(str(path), _model(config))
    return fingerprint(path)


def fingerprint(directory: Path) -> str:
    """16 hex digits over the files of a model directory, of large ones over pieces of them."""
    digest = hashlib.sha256()
    for path in sorted(p for p in directory.iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        step = max(_SAMPLE_BYTES, size // _SAMPLES)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def load_score(config: RewardModelConfig, device: Literal["cpu", "gpu"]) -> Score:
    """Load the model. Raises ModelError."""
    import torch

    from rubric_rl.learner.models import torch_device
    from rubric_rl.learner.reward_model import load_reward_model, sequence_rewards

    if device == "cpu":
        torch.set_num_threads(config.num_threads)
    try:
        model = load_reward_model(
            str(Path(config.path).expanduser()),
            dtype=config.dtype,
            device=torch_device(device),
            trust_remote_code=config.trust_remote_code,
        )
    except (OSError, ValueError, RuntimeError) as err:
        raise ModelError(
            f"judge.reward_model.path={config.path!r} can't be loaded as a reward model: {err}"
        ) from err
    pad = model.config.pad_token_id
    if pad is None:
        raise ModelError(
            f"judge.reward_model.path={config.path!r}: its config.json has no pad_token_id, so the "
            "last token of an answer can't be told from padding; set one that ends no turn"
        )

    def score(sequences: Sequence[Sequence[int]]) -> list[float]:
        if any(sequence[-1] == pad for sequence in sequences):
            raise RuntimeError("the token that ends turns is the model's padding token")
        with torch.no_grad():
            return sequence_rewards(model, sequences, pad).tolist()

    return score


def _model(config: RewardModelConfig) -> ModelConfig:
    return ModelConfig(name_or_path=config.path, trust_remote_code=config.trust_remote_code)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A conversation with its answer, and who waits for its reward."""

    token_ids: tuple[int, ...]
    reward: asyncio.Future[float]


class _NoReward(Exception):
    """There is no number; the message says why."""


class RewardModelJudge:
    """Judges many samples at once from one event loop."""

    def __init__(
        self, config: RewardModelConfig, score: Score, tokenizer: PolicyTokenizer, digest: str
    ) -> None:
        """`digest`: the model's `fingerprint`."""
        self._config = config
        self._score = score
        self._tokenizer = tokenizer
        self._digest = digest
        self._rules = RubricJudge()
        self._queue: list[_Waiting] = []
        self._runner: asyncio.Task[None] | None = None

    @classmethod
    def open(cls, config: RewardModelConfig, device: Literal["cpu", "gpu"]) -> RewardModelJudge:
        """Load model and tokenizer. Raises ConfigError and ModelError."""
        digest = check_reward_model(config)
        tokenizer = load_tokenizer(str(Path(config.path).expanduser()), _model(config))
        return cls(config, load_score(config, device), tokenizer, digest)

    @property
    def template_hash(self) -> str:
        """In place of an LLM's templates: which model this is."""
        return self._digest

    async def judge(self, request: JudgeRequest) -> Judgement:
        """The grade of the whole answer, under the rubric of `rubrics.whole_answer`.

        Any other rubric, such as a gold one, must be of rules, which are executed.
        """
        started = time.perf_counter()
        if [criterion.cid for criterion in request.rubric.criteria] != [WHOLE]:
            return await self._rules.judge(request)
        try:
            reward = await self._reward(request)
            verdict = Verdict(cid=WHOLE, value=VerdictValue.GRADED, reason="", grade=reward)
        except _NoReward as why:
            verdict = Verdict(
                cid=WHOLE,
                value=VerdictValue.UNKNOWN,
                reason=str(why),
                cause=FailureCause.REWARD_MODEL,
            )
        return Judgement(
            rubric_id=request.rubric.rubric_id,
            rubric_version=request.rubric.version,
            judge_id=f"{Path(self._config.path).name}@{self._digest[:8]}",
            template_hash=self._digest,
            mode=REWARD_MODEL_MODE,
            verdicts=(verdict,),
            usage=JudgeUsage(),
            latency_s=time.perf_counter() - started,
        )

    async def _reward(self, request: JudgeRequest) -> float:
        prompt = self._tokenizer.tokenize(request.record)
        ids = (*prompt, *self._tokenizer.tokenize_answer(request.sample.text))
        if len(ids) > self._config.max_tokens:
            raise _NoReward(
                f"{len(ids)} tokens, more than judge.reward_model.max_tokens="
                f"{self._config.max_tokens}"
            )
        reward = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(ids, reward))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        found = await reward
        if not math.isfinite(found):
            raise _NoReward(f"the reward is {found}")
        return found

    async def _run(self) -> None:
        """Until nothing waits."""
        while self._queue:
            batch = self._next_batch()
            try:
                rewards = await asyncio.to_thread(self._score, [one.token_ids for one in batch])
            # Out of memory is one, too.
            except RuntimeError as err:
                for one in batch:
                    _give(one.reward, _NoReward(f"the model can't be run: {err}"))
                continue
            for one, reward in zip(batch, rewards, strict=True):
                _give(one.reward, reward)

    def _next_batch(self) -> list[_Waiting]:
        """The first of the queue, as many as `batch_tokens` hold once they are padded."""
        count, longest = 0, 0
        for one in self._queue:
            longest = max(longest, len(one.token_ids))
            if count and (count + 1) * longest > self._config.batch_tokens:
                break
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch


def _give(future: asyncio.Future[float], outcome: float | _NoReward) -> None:
    """Unless nobody waits any more."""
    if future.done():
        return
    if isinstance(outcome, _NoReward):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
