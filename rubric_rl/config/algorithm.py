"""The configuration of the algorithm: advantages, loss, KL, and which samples count.

Each choice is one of a small set of pure functions in `rubric_rl.algorithms`, where its paper and
equation are; `configs/algorithm/` combines them under the papers' names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rubric_rl.config.section import PositiveFloat, PositiveInt, Section

AdvantageName = Literal[
    "grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gdpo", "best_of_group"
]
PolicyLossName = Literal["ppo", "gspo", "cispo", "rft"]
ImportanceCorrection = Literal["off", "token_clip", "token_mask", "sequence_clip", "sequence_mask"]


class AlgorithmConfig(Section):
    """What the learner optimises, and on which samples."""

    advantage: AdvantageName = "grpo"
    """How rewards become advantages; see `algorithms.advantages`."""
    policy_loss: PolicyLossName = "ppo"
    """`ppo` clips each token's ratio, `gspo` each sample's; `cispo` clips the weight and keeps the
    gradient; `rft` trains on the best of each group without a ratio (rejection fine-tuning)."""
    clip_low: PositiveFloat = 0.2
    """The ratio is clipped from below at 1 - clip_low; 1 or more is no bound."""
    clip_high: PositiveFloat = 0.2
    """The ratio is clipped from above at 1 + clip_high."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bound on the ratio of tokens with a negative advantage (dual-clip PPO); None: no bound."""
    kl_coef: float = Field(default=0.01, ge=0)
    """Weight of the KL to the reference policy."""
    kl_in: Literal["loss", "reward"] = "loss"
    """A term of the loss, or a penalty that each token's advantage pays."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Form of that KL (Schulman's names). As a loss k1 has no gradient on average: noise only.
    As a penalty it is the only one that pulls a policy back which is near the reference."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the policy's entropy, which the loss then rewards."""
    loss_aggregation: Literal["token", "sequence", "constant"] = "token"
    """Mean over all tokens of the step, over each sample's mean, or the sum over a fixed length
    for each sample (Dr. GRPO)."""
    constant_length_tokens: PositiveInt | None = None
    """That fixed length; the longest completion (`rollout.max_new_tokens`) is the paper's."""
    old_log_probs: Literal["rollout", "learner"] = "rollout"
    """Denominator of the ratio: the engine's log-probs, or the learner's at the step's start."""
    importance_correction: ImportanceCorrection = "off"
    """With `old_log_probs=learner`: weigh each token by learner over engine probability, or its
    sample by their geometric mean, and clip that weight (`importance_min=0` truncates only, as
    TIS does), or leave out tokens, or whole samples, whose weight is out of bounds."""
    importance_min: float = Field(default=0.5, ge=0)
    """Lower bound of that weight; of a sample, its tokens' geometric mean."""
    importance_max: PositiveFloat = 5.0
    """Upper bound of that weight."""
    min_scored_samples: Annotated[int, Field(ge=2)] = 2
    """A group with fewer scored samples is dropped and another prompt takes its place."""
    drop_zero_variance: bool = False
    """Drop groups that teach nothing because their samples are all equal, and refill them too
    (dynamic sampling)."""
    max_refill_prompts: int = Field(default=8, ge=0)
    """Prompts that one step may draw in place of dropped groups."""
    overlong: Literal["train", "mask", "penalty"] = "train"
    """What happens to completions cut at `rollout.max_new_tokens`: they are trained on, count for
    their group only, or pay a penalty that already rises before the end (DAPO)."""
    overlong_buffer_tokens: PositiveInt | None = None
    """The penalty rises from 0 to 1 over so many last tokens; None: a fifth of the longest, as in
    DAPO."""
    max_staleness: int = Field(default=0, ge=0)
    """Steps that generation may run ahead of the learner; 0 is synchronous."""
