"""The nouns: one frozen dataclass for each stage that a step passes through.

    PromptRecord -> Prompt -> RolloutRequest -> Sample -> JudgedSample -> Group -> TrainBatch
      (text)      (tokens)                                 (verdicts)            (advantages)

Everything here is plain Python: lists of ints and floats, no tensors. Instances
are picklable and cross process boundaries as they are.
"""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass, fields
from typing import Literal

from rubric_rl.rubrics.rules import RuleCheck

Polarity = Literal[1, -1]
CriterionKind = Literal["normal", "essential", "veto"]
LineageOp = Literal["add", "rewrite", "split", "merge", "keep"]
FinishReason = Literal["stop", "length"]
JudgeMode = Literal["all", "chunk", "each", "likert"]
JudgeContract = Literal["structured_outputs", "json_object", "text"]


# ----------------------------------------------------------------------------
# Prompts and rubrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """A prompt as its file holds it, before a tokenizer has seen it."""

    prompt_id: str
    messages: tuple[Message, ...]
    domain: str
    source: str
    """Where it came from: file name and line or row, for error messages."""
    row_hash: str
    """SHA-256 (hex) of the raw row, so that a record can be traced and overlap found."""
    reference: str | None = None
    """A reference answer, where the data has one. The policy never sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt ready to be rolled out."""

    record: PromptRecord
    token_ids: tuple[int, ...]
    """The chat-templated prompt, generation prompt included."""

    @property
    def prompt_id(self) -> str:
        return self.record.prompt_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """How a criterion came to be in its version of the rubric."""

    op: LineageOp
    sources: tuple[str, ...] = ()
    """Ids of the criteria of the parent version that it was made from; none for `add`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One gradable statement of a rubric.

    `polarity` says whether meeting the statement is good (1) or bad (-1); it is
    never read off a sign or a word. `weight` is always positive. A criterion
    with a `rule` is checked by executing it; one without is checked by the LLM
    judge. `kind` matters to the gated reward only: an essential criterion has
    polarity 1 and must be met, a veto has polarity -1 and must not be met.
    """

    cid: str
    text: str
    weight: float
    polarity: Polarity = 1
    kind: CriterionKind = "normal"
    axis: str | None = None
    """The quality that it is about, such as `accuracy`; for reports only."""
    tags: tuple[str, ...] = ()
    rule: RuleCheck | None = None
    lineage: Lineage | None = None

    @property
    def is_gate(self) -> bool:
        """Whether its outcome alone can take the whole reward away."""
        return self.kind != "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """The criteria of one prompt at one version."""

    prompt_id: str
    version: int
    criteria: tuple[Criterion, ...]

    @property
    def rubric_id(self) -> str:
        """Hash of what is graded: equal criteria give an equal id, whatever the version.

        Axis, tags and lineage are about a criterion and not part of it.
        """
        payload = [
            [
                c.cid,
                c.text,
                float(c.weight),
                c.polarity,
                c.rule.as_dict() if c.rule else None,
                # Only where it isn't the default, so that ids from before kinds still hold.
                *([c.kind] if c.is_gate else []),
            ]
            for c in self.criteria
        ]
        text = json.dumps([self.prompt_id, payload], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# ----------------------------------------------------------------------------
# Rollouts


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """One completion to generate."""

    prompt_id: str
    sample_index: int
    token_ids: tuple[int, ...]
    seed: int
    max_new_tokens: int
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion of one prompt.

    `completion_token_ids`, `log_probs` and `loss_mask` have the same length:
    the generated tokens, end-of-sequence included where the model produced it.
    """

    prompt_id: str
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    completion_token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    """Log-prob of each sampled token under the policy that sampled it, after temperature."""
    loss_mask: tuple[int, ...]
    """1 where the learner may train on the token."""
    text: str
    finish_reason: FinishReason
    seed: int
    policy_version: int


# ----------------------------------------------------------------------------
# Judging


class VerdictValue(enum.StrEnum):
    """What a judge says of one criterion. UNKNOWN is not a score."""

    MET = "met"
    UNMET = "unmet"
    GRADED = "graded"
    """Neither: the answer as a whole has a grade; see `rubrics.whole_answer`."""
    UNKNOWN = "unknown"


class FailureCause(enum.StrEnum):
    """Why a verdict is UNKNOWN."""

    TIMEOUT = "timeout"
    TRANSPORT = "transport"
    RATE_LIMITED = "rate_limited"
    REFUSED_REQUEST = "refused_request"
    TRUNCATED = "truncated"
    UNPARSEABLE = "unparseable"
    WRONG_NONCE = "wrong_nonce"
    MISSING = "missing"
    DUPLICATE = "duplicate"
    OUT_OF_CHOICE = "out_of_choice"
    NO_MAJORITY = "no_majority"
    """Votes were given and neither side reached the votes needed."""
    WRONG_JUDGE = "wrong_judge"
    """Another model than the one that judges this run answered."""
    BUDGET = "budget"
    """The call would have cost more than the run may spend."""
    RULE_TIMEOUT = "rule_timeout"
    REWARD_MODEL = "reward_model"
    """The reward model could not be run on the answer, or gave no finite number."""
    WORKER_DIED = "worker_died"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judge's answer on one criterion; `cause` is set exactly when it is UNKNOWN, and `grade`
    when it is GRADED."""

    cid: str
    value: VerdictValue
    reason: str
    cause: FailureCause | None = None
    probability: float | None = None
    """The judge's probability that the criterion is met, where the server tells it."""
    votes: tuple[VerdictValue, ...] = ()
    """Single verdicts that this one was decided by; empty when there was one call only."""
    cached: bool = False
    """Given earlier on the same criterion and answer, and read from the cache."""
    grade: float | None = None
    """Of the answer as a whole: in [0, 1] from a chat model, any number from a reward model."""

    def __post_init__(self) -> None:
        assert (self.value is VerdictValue.UNKNOWN) == (self.cause is not None)
        assert (self.value is VerdictValue.GRADED) == (self.grade is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRequest:
    """One sample to judge, with the prompt and the rubric that it is judged under."""

    record: PromptRecord
    rubric: Rubric
    sample: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeUsage:
    """What judging took. Sums over calls; adding two of them adds field by field."""

    calls: int = 0
    """Requests sent, retries and hedges included."""
    retries: int = 0
    """Requests sent again because the one before failed."""
    hedges: int = 0
    """Second requests sent while the first was still out."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    cached_verdicts: int = 0
    saved_tokens: float = 0.0
    """Tokens that verdicts from the cache cost when they were given."""
    saved_usd: float = 0.0
    cache_failures: int = 0
    """Reads and writes of the verdict cache that failed; what was asked again cost money."""
    unknown_ids: int = 0
    """Entries of replies that named no criterion asked for; they were ignored."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: JudgeUsage) -> JudgeUsage:
        return JudgeUsage(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All verdicts of one sample, in the order of the rubric's criteria."""

    rubric_id: str
    rubric_version: int
    judge_id: str
    """Model that judged, independent of the endpoint it was reached at; `rules` if none."""
    template_hash: str
    mode: str
    verdicts: tuple[Verdict, ...]
    usage: JudgeUsage
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A sample's reward over its judged criteria; `value` is None when unscored."""

    value: float | None
    coverage: float
    """Weight of judged criteria over the weight of all, in [0, 1]."""
    gated_from: float | None = None
    """What the reward would have been, where a failed essential or veto criterion took it away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSample:
    """A sample with its judgement and its score."""

    sample: Sample
    judgement: Judgement
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All samples of one prompt, judged under one rubric version: the baseline unit.

    `scored` and `unscored` are ordered by `sample_index`.
    """

    rubric: Rubric
    scored: tuple[JudgedSample, ...]
    unscored: tuple[JudgedSample, ...]

    @property
    def prompt_id(self) -> str:
        return self.rubric.prompt_id

    @property
    def rubric_version(self) -> int:
        return self.rubric.version

    @property
    def rewards_G(self) -> list[float]:
        """Rewards of the scored samples, in the order of `scored`."""
        return [s.score.value for s in self.scored if s.score.value is not None]


# ----------------------------------------------------------------------------
# Learning


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSample:
    """What the learner needs of one scored sample."""

    prompt_token_ids: tuple[int, ...]
    completion_token_ids: tuple[int, ...]
    rollout_log_probs: tuple[float, ...]
    loss_mask: tuple[int, ...]
    advantage: float
    reference_log_probs: tuple[float, ...] | None = None
    """Of the completion under the reference, where workers of their own give them."""

    @property
    def num_tokens(self) -> int:
        """Prompt and completion."""
        return len(self.prompt_token_ids) + len(self.completion_token_ids)

    @property
    def num_loss_tokens(self) -> int:
        return sum(self.loss_mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """One optimizer step's samples, all ranks together.

    The order is fixed by (prompt position, sample index), never by the order in
    which samples finished, so that a repeated run sums in the same order.
    """

    step: int
    samples: tuple[TrainSample, ...]
    temperature: float

    @property
    def num_loss_tokens(self) -> int:
        """The global denominator of the token-level loss."""
        return sum(s.num_loss_tokens for s in self.samples)

    @property
    def num_loss_samples(self) -> int:
        """The global denominator of the sample-level loss: samples with a token in it."""
        return sum(s.num_loss_tokens > 0 for s in self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateNumerics:
    """Whether the numbers of a step are sound, and how much arithmetic it was.

    A ratio is that of the trained policy's probability of a token to the one it was sampled
    with; KL and ratios are token means.
    """

    kl_ref_k1: float | None
    """To the reference policy, log ratio: unbiased, noisy, may be negative. Nats."""
    kl_ref_k2: float | None
    """Half the squared log ratio: biased, little noise. Nats."""
    ratio_mean: float
    ratio_min: float
    ratio_max: float
    ratio_below_frac: float
    """Tokens with a ratio below 1 - algorithm.clip_low."""
    ratio_above_frac: float
    """Tokens with a ratio above 1 + algorithm.clip_high."""
    clipped_grad_norm: float
    num_flop: float
    """Operations of the step's matrix products, all ranks together."""
    matrix_flop_per_s: float
    """Measured rate of a large matrix product, sum over the ranks' devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """What one optimizer step did. `policy_version` counts completed steps."""

    policy_version: int
    loss: float
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    kl_ref: float | None
    """Token mean of the k3 estimate against the reference policy, nats; None without one."""
    entropy: float
    """Token mean, nats."""
    clip_frac: float
    logprob_gap: float
    """Mean absolute difference between rollout and learner log-probs, nats."""
    num_tokens: int
    """Prompt and completion tokens of the samples that have a token in the loss."""
    numerics: UpdateNumerics


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """Weight sync: how long it took and what every engine now serves."""

    seconds: float
    versions: tuple[int, ...]
