"""The configuration, one frozen model for each Hydra group.

Hydra composes, this validates, once (`rubric_rl.config.compose`). After that
nobody sees an untyped config, and nothing is mutated: derived values are
properties. A default lives here and nowhere else; the YAML files under
`configs/` hold only what differs from it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rubric_rl.config.algorithm import AlgorithmConfig
from rubric_rl.config.baselines import BradleyTerryConfig, SftConfig
from rubric_rl.config.checks import cross_section_problems
from rubric_rl.config.gold import GoldConfig
from rubric_rl.config.judge import JudgeConfig
from rubric_rl.config.learner import LearnerConfig
from rubric_rl.config.refinement import RefinementConfig
from rubric_rl.config.section import Fraction, NonEmptyStr, PositiveFloat, PositiveInt, Section


class RunConfig(Section):
    """How long, from which seed, into which folder."""

    name: NonEmptyStr = "train"
    """Name of the run, for the run folder and W&B."""
    dir: NonEmptyStr
    """Run folder. Everything that the run writes is in it."""
    seed: int = Field(default=0, ge=0)
    """Every random choice derives from (seed, epoch, prompt, sample)."""
    epochs: PositiveInt = 1
    """Passes over the training prompts."""
    max_steps: PositiveInt | None = None
    """Stop after so many optimizer steps, epochs or not."""
    resume: Literal["never", "auto"] = "never"
    """`auto` goes on from the newest checkpoint in the run folder, or starts if there is none."""
    eval_every_steps: PositiveInt = 6
    """Held-out evaluation every so many steps; also before the first and after the last."""
    eval_samples_per_prompt: PositiveInt = 4
    """Completions for each held-out prompt in one evaluation."""
    checkpoint_every_steps: PositiveInt = 6
    """Checkpoint every so many steps; also at the end and on a clean stop."""
    keep_checkpoints: PositiveInt = 2
    """Older checkpoints are deleted once a newer one is complete, the best ones excepted."""
    keep_best: int = Field(default=1, ge=0)
    """So many of the best checkpoints by `best_metric` stay beside the newest, and a policy that
    is evaluated as the best so far gets a checkpoint at once. 0: age alone decides."""
    best_metric: Literal["auto", "gold", "eval/reward_mean", "eval/anchor_reward_mean"] = "auto"
    """`auto`: with refinement the reward under the run's first rubrics, which stays comparable.
    `gold`: that of the section `gold`."""
    checkpoint_writing: Literal["auto", "async", "sync"] = "auto"
    """`async` writes while the run goes on, from a copy in host memory (12 to 16 bytes for each
    parameter of a rank's share); with `sync` it waits. `auto` is async on GPU, and sync on CPU,
    where writing and the next step want the same cores."""
    export_model: bool = False
    """Write the trained policy as a Hugging Face directory at the end."""


class ModelConfig(Section):
    """The policy that is trained."""

    name_or_path: NonEmptyStr
    """Hugging Face directory or hub name; `builtin:smollm2` is the packaged small model."""
    trust_remote_code: bool = False
    """Run the model repository's own code."""
    cache_dir: str | None = None
    """Where `builtin:` models are prepared; None is the user's cache folder."""


class RolloutConfig(Section):
    """How completions are generated."""

    engine: Literal["vllm", "transformers"] = "vllm"
    """`transformers` is small and slow, for debugging."""
    num_workers: PositiveInt = 1
    """Engines, one Ray actor each."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs of one engine; never split over nodes."""
    prompts_per_step: PositiveInt = 4
    """Groups in one optimizer step."""
    samples_per_prompt: Annotated[int, Field(ge=2)] = 8
    """Completions in one group."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; the learner's log-probs use the same."""
    max_new_tokens: PositiveInt = 64
    """Longest completion."""
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """Compute type of the engine; `auto` is the learner's."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of a GPU's memory that vLLM may take."""
    kv_cache_gib: PositiveFloat = 2.0
    """KV cache of one engine on CPU, GiB."""
    max_concurrent_samples: PositiveInt = 64
    """Sequences that one engine decodes at once."""
    enforce_eager: bool = True
    """Skip graph capture and compilation: slower decoding, faster start."""
    deterministic: bool = True
    """Queue a step's requests before decoding starts, so that a repeated run batches alike."""
    num_threads: PositiveInt | None = None
    """CPU threads of each engine; None divides its node's CPUs among the engines."""


class RubricsConfig(Section):
    """How verdicts become rewards, and what happens when they are missing."""

    reward: Literal["weighted_share", "signed_points", "gated"] = "weighted_share"
    """`weighted_share` is the paper's, in [0, 1]; `signed_points` is HealthBench's; `gated` is
    the share, or 0 where an essential criterion is not met or a veto is."""
    min_coverage: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A sample with a smaller share of judged weight is unscored; `signed_points` asks the same
    of the positive weight."""
    max_unscored_frac: Fraction = 0.5
    """The run stops when more than this share of samples is unscored in the window."""
    unscored_window_steps: PositiveInt = 4
    """Steps over which that share is taken."""


class DataConfig(Section):
    """Prompts and their rubrics."""

    path: NonEmptyStr
    """JSONL or Parquet file; `builtin:quickstart` is the packaged set."""
    format: Literal[
        "auto",
        "canonical",
        "healthbench",
        "rar",
        "junkaiz",
        "rubrichub",
        "prbench",
        "openrubrics",
        "verl",
    ] = "auto"
    """Format of the file, .jsonl or .parquet; `auto` recognises it by its columns."""
    eval_path: str | None = None
    """Held-out prompts from a file of their own."""
    eval_size: int = Field(default=0, ge=0)
    """Without `eval_path` and split marks: prompts held out, chosen by the hash of their id."""
    max_train_prompts: PositiveInt | None = None
    """Train on so many prompts at most, chosen by the hash of their id; None: on all."""
    max_prompt_tokens: PositiveInt = 512
    """Longer prompts are dropped, counted and listed."""
    shuffle: bool = True
    """New order of the prompts in each epoch, by the run's seed."""


class ClusterConfig(Section):
    """Ray, devices, placement, and how long to wait."""

    device: Literal["cpu", "gpu"] = "cpu"
    """What learner ranks and engines compute on."""
    address: str = "auto"
    """`local` starts Ray here; `auto` joins the cluster of RAY_ADDRESS if set, else starts it."""
    placement: Literal["disaggregated", "colocated"] = "disaggregated"
    """`colocated`: learner ranks and engines take turns on the same devices."""
    weight_transport: Literal["auto", "object_store", "nccl", "ipc"] = "auto"
    """`auto`: on GPU ipc if colocated, nccl if not; object_store on CPU and for transformers."""
    learner_cpus: PositiveFloat = 1.0
    """CPUs that Ray reserves for each learner rank."""
    rollout_cpus: PositiveFloat = 0.5
    """CPUs that Ray reserves for each rollout worker."""
    judge_cpus: PositiveFloat = 0.1
    """CPUs that Ray reserves for each judge worker."""
    start_timeout_s: PositiveFloat = 900.0
    """Longest wait for workers to be ready."""
    step_timeout_s: PositiveFloat = 3600.0
    """Longest wait for one learner update, or for the next sample of a rollout."""
    sync_timeout_s: PositiveFloat = 600.0
    """Longest wait for one weight sync."""


class WandbConfig(Section):
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online if the WANDB_API_KEY variable is set or a login is stored, else offline."""
    project: NonEmptyStr = "rubric-rl"
    """Project that the run appears in."""
    entity: str | None = None
    """User or team; None is the account's default."""
    rubric_artifacts: bool = True
    """Each version of the rubrics as an artifact."""
    checkpoint_artifacts: Literal["none", "reference", "upload"] = "reference"
    """`reference` is the manifest with sizes and SHA-256, and where the files are; `upload` is
    the files, copied in the run folder until they are there."""


class LoggingConfig(Section):
    """What is written and shown."""

    wandb: WandbConfig = WandbConfig()
    """Weights & Biases."""
    tensorboard: bool = False
    """The metrics as TensorBoard events in tensorboard/ of the run folder."""
    sample_table_rows: int = Field(default=16, ge=0)
    """Rows that each step adds to the W&B samples table."""
    progress: bool = True
    """Draw a progress bar when the output is a terminal; a line a step otherwise."""


class Config(Section):
    """The whole configuration of `rubric-rl train`."""

    run: RunConfig
    """Duration, seed and folder."""
    model: ModelConfig
    """The policy."""
    learner: LearnerConfig
    """Optimizer and ZeRO."""
    rollout: RolloutConfig
    """Generation."""
    judge: JudgeConfig
    """The judges."""
    rubrics: RubricsConfig
    """From verdicts to rewards."""
    refinement: RefinementConfig = RefinementConfig()
    """How rubrics are refined."""
    algorithm: AlgorithmConfig
    """Advantages, loss, sample selection."""
    data: DataConfig
    """Prompts with their rubrics."""
    gold: GoldConfig = GoldConfig()
    """What held-out answers are also measured by, and never trained on."""
    sft: SftConfig = SftConfig()
    """Supervised fine-tuning: `rubric-rl sft`."""
    bradley_terry: BradleyTerryConfig = BradleyTerryConfig()
    """A reward model: `rubric-rl reward-model`."""
    cluster: ClusterConfig
    """Ray and placement."""
    logging: LoggingConfig
    """W&B, samples, progress."""

    @property
    def max_sequence_tokens(self) -> int:
        """data.max_prompt_tokens + rollout.max_new_tokens."""
        return self.data.max_prompt_tokens + self.rollout.max_new_tokens

    @property
    def best_metric(
        self,
    ) -> Literal["eval/reward_mean", "eval/anchor_reward_mean", "eval/gold_mean"]:
        """What checkpoints are ranked by, `auto` and `gold` resolved."""
        if self.run.best_metric == "gold":
            return "eval/gold_mean"
        if self.run.best_metric != "auto":
            return self.run.best_metric
        return "eval/anchor_reward_mean" if self.refinement.enabled else "eval/reward_mean"

    @property
    def async_checkpoints(self) -> bool:
        """Whether checkpoints are written while the run goes on, `auto` resolved."""
        if self.run.checkpoint_writing != "auto":
            return self.run.checkpoint_writing == "async"
        return self.cluster.device == "gpu"

    @property
    def rollout_dtype(self) -> Literal["float32", "bfloat16"]:
        """Compute type of the engine, `auto` resolved."""
        return self.learner.dtype if self.rollout.dtype == "auto" else self.rollout.dtype

    @property
    def weight_transport(self) -> Literal["object_store", "nccl", "ipc"]:
        """How weights reach the engines, `auto` resolved. nccl and ipc are vLLM's own."""
        if self.cluster.weight_transport != "auto":
            return self.cluster.weight_transport
        if self.cluster.device == "cpu" or self.rollout.engine == "transformers":
            return "object_store"
        return "ipc" if self.cluster.placement == "colocated" else "nccl"

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = cross_section_problems(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self
