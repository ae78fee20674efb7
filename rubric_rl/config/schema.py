"""The configuration, one frozen model for each Hydra group.

Hydra composes, this validates, once (`rubric_rl.config.compose`). After that
nobody sees an untyped config, and nothing is mutated: derived values are
properties. A default lives here and nowhere else; the YAML files under
`configs/` hold only what differs from it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rubric_rl.config.checks import cross_section_problems
from rubric_rl.types import JudgeMode

NonEmptyStr = Annotated[str, Field(min_length=1)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: object, info: ValidationInfo) -> object:
        """Python counts True as 1; a flag in the place of a number is a mistake."""
        assert info.field_name is not None
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise PydanticCustomError("flag", "Input should be a value, not a flag")
        return value


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
    """Older checkpoints are deleted once a newer one is complete."""
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


class LearnerConfig(Section):
    """DeepSpeed, the optimizer and its schedule."""

    num_workers: PositiveInt = 1
    """Learner ranks, one process (and on GPU one device) each."""
    zero_stage: Literal[1, 2, 3] = 2
    """ZeRO: 1 shards optimizer state, 2 gradients too, 3 parameters too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the policy; optimizer state is always float32."""
    learning_rate: PositiveFloat = 1e-5
    """AdamW's rate after the warm-up."""
    warmup_frac: Fraction = 0.1
    """Share of all steps over which the rate rises linearly; constant afterwards."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decay of weight matrices (not of norms and biases), decoupled from the gradient."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of AdamW's mean of gradients."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of AdamW's mean of squared gradients."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    micro_batch_tokens: PositiveInt = 1024
    """Padded tokens that go through the model at once, for each rank."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    offload_optimizer: bool = False
    """Keep optimizer state in host memory (GPU only)."""
    attn_implementation: str = "sdpa"
    """Passed to transformers: `sdpa`, `eager`, `flash_attention_2`."""
    num_threads: PositiveInt | None = None
    """CPU threads of each rank; None divides the machine's cores among the ranks."""


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
    """CPU threads of each engine; None divides the machine's cores among the engines."""


class EndpointConfig(Section):
    """One address at which the judge's model is served."""

    base_url: str
    """Address of the endpoint, as in `http://localhost:8000/v1`, without credentials."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None sends no key."""

    # The two checks below never repeat what they received: it may be a secret.

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        return _checked_address(url)

    @field_validator("api_key_env")
    @classmethod
    def _name_of_a_variable(cls, name: str | None) -> str | None:
        return _checked_variable(name)


class HostedJudgeConfig(Section):
    """vLLM servers that the run starts for its judge."""

    num_engines: PositiveInt = 1
    """Servers, one Ray actor each."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs of one server; never split over nodes. On CPU it is 1."""
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """Compute type; `auto` is the model's own."""
    max_model_tokens: PositiveInt = 8192
    """Longest judge prompt and reply together."""
    max_concurrent: PositiveInt = 64
    """Requests that one server works on at once."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of a GPU's memory that a server may take."""
    kv_cache_gib: PositiveFloat = 2.0
    """KV cache of one server on CPU, GiB."""
    enforce_eager: bool = False
    """Skip graph capture and compilation: slower judging, faster start."""
    cpus: PositiveFloat = 1.0
    """CPUs that Ray reserves for each server."""


class LlmJudgeConfig(Section):
    """An LLM judge: which model, where it is served, and how it is asked."""

    backend: Literal["openai", "vllm", "litellm"] = "openai"
    """`openai`: endpoints that speak OpenAI's protocol. `vllm`: servers that the run starts
    itself. `litellm`: any model string of LiteLLM (extra `litellm`)."""
    model: NonEmptyStr
    """Model name as the endpoint knows it; a Hugging Face directory or name for `vllm`."""
    base_url: str | None = None
    """Address of the endpoint, as in `http://localhost:8000/v1`, without credentials."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None sends no key."""
    extra_endpoints: tuple[EndpointConfig, ...] = ()
    """Further endpoints that serve the same model; requests go where the load is least."""
    hosted: HostedJudgeConfig = HostedJudgeConfig()
    """Servers of backend `vllm`."""
    served_model: str | None = None
    """Model that replies must name; None takes what the endpoints name at the start. A reply
    of any other model is no verdict."""
    mode: JudgeMode = "all"
    """Criteria in one call: all of a sample, `chunk_size` of them, or one."""
    chunk_size: PositiveInt = 4
    """Criteria in one call in mode `chunk`."""
    contract: Literal["auto", "structured_outputs", "json_object", "text"] = "auto"
    """What holds a reply to its form: a JSON schema, JSON of any form, or only the prompt's
    words. `auto` takes the strictest that the endpoints accept."""
    votes: PositiveInt = 1
    """Verdicts asked for each criterion."""
    votes_to_decide: PositiveInt | None = None
    """Equal verdicts that decide; asking stops as soon as they are there. None: a majority."""
    logprobs: bool = False
    """Read the probability of a verdict from log-probs, where the endpoint returns them."""
    show_reference: bool = False
    """Show the judge the reference answer of prompts that have one."""
    template_dir: str | None = None
    """Folder with judge templates of your own; None takes the packaged ones."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of the judge."""
    max_reply_tokens: PositiveInt = 2048
    """Longest reply, thinking included. A reply cut here is a failure, not a verdict."""
    timeout_s: PositiveFloat = 120.0
    """Longest wait for one reply."""
    max_retries: int = Field(default=4, ge=0)
    """Retries of a failed request (429, 5xx, connection), at another endpoint if one is up."""
    max_asks: PositiveInt = 2
    """Calls for one criterion: the second and later ask only for verdicts still missing."""
    usd_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    """Price; None takes it from the packaged table of models, where the model is in it."""
    usd_per_million_completion_tokens: float | None = Field(default=None, ge=0)
    """Price; None takes it from the packaged table of models, where the model is in it."""

    # The two checks below never repeat what they received: it may be a secret.

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str | None) -> str | None:
        return None if url is None else _checked_address(url)

    @field_validator("api_key_env")
    @classmethod
    def _name_of_a_variable(cls, name: str | None) -> str | None:
        return _checked_variable(name)

    @property
    def endpoints(self) -> tuple[EndpointConfig, ...]:
        """All endpoints of backend `openai`, the first of them `base_url`."""
        if self.base_url is None:
            return self.extra_endpoints
        first = EndpointConfig(base_url=self.base_url, api_key_env=self.api_key_env)
        return (first, *self.extra_endpoints)

    @property
    def endpoint_names(self) -> tuple[str, ...]:
        """What each endpoint is called in leases, metrics and messages."""
        if self.backend == "litellm":
            return (f"litellm:{self.model}",)
        return tuple(endpoint.base_url for endpoint in self.endpoints)

    @property
    def majority(self) -> int:
        """Equal verdicts that decide a criterion."""
        return self.votes_to_decide or self.votes // 2 + 1


def _checked_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("it must be an http:// or https:// address, as in http://host:8000/v1")
    if "@" in parts.netloc or parts.query:
        raise ValueError(
            "it must not carry credentials or a query: put the key into an environment "
            "variable and its name into api_key_env"
        )
    return url


def _checked_variable(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(
            "it must be the name of an environment variable, as in OPENAI_API_KEY, "
            "not the key itself"
        )
    return name


class JudgeBudgetConfig(Section):
    """What all judge requests together may take, over all workers and runs on the cluster."""

    max_concurrency: PositiveInt = 64
    """Requests out at once."""
    adaptive: bool = True
    """Go below `max_concurrency` while an endpoint answers 429 or slows down."""
    requests_per_minute: PositiveInt | None = None
    """Requests in any 60 seconds, the few of the check at the start aside; None: no limit."""
    tokens_per_minute: PositiveInt | None = None
    """Prompt and reply tokens in any 60 seconds; None: no limit."""
    max_cost_usd: PositiveFloat | None = None
    """Money of this run. The run stops at a step's end, with a checkpoint, before it would
    spend more. None: no limit."""
    deadline_s: PositiveFloat = 600.0
    """Longest time for one call: waiting for the budget, retries and hedges included."""


class JudgeHealthConfig(Section):
    """How failing and slow endpoints are dealt with."""

    failures_to_open: PositiveInt = 5
    """Failures in a row after which an endpoint gets no more requests for a while."""
    open_s: PositiveFloat = 5.0
    """First such while; then one request tries it, and each failed try doubles the while."""
    max_open_s: PositiveFloat = 120.0
    """Longest such while."""
    hedge: bool = True
    """Send a second request when the first is out much longer than others take."""


class JudgeCacheConfig(Section):
    """Verdicts on disk, so that none is paid for twice."""

    enabled: bool = True
    """Read and write the cache."""
    dir: str | None = None
    """Folder of the cache, which several runs may share; None: in the run folder."""


class JudgeConfig(Section):
    """The pool of judges. Rule criteria are executed; the rest go to the LLM judge."""

    num_workers: PositiveInt = 2
    """Judge workers, one Ray actor each."""
    max_in_flight_per_worker: PositiveInt = 32
    """Samples that one worker judges at once."""
    llm: LlmJudgeConfig | None = None
    """None: every criterion must carry a rule."""
    budget: JudgeBudgetConfig = JudgeBudgetConfig()
    """Concurrency, rates and money."""
    health: JudgeHealthConfig = JudgeHealthConfig()
    """Circuit breaker and hedges."""
    cache: JudgeCacheConfig = JudgeCacheConfig()
    """Verdict cache."""


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


class GateConfig(Section):
    """When a proposed rubric is accepted."""

    enabled: bool = True
    """False: every valid proposal is accepted, as in the paper."""
    top_size: Annotated[int, Field(ge=2)] = 4
    """Answers that the proposer did not see that count as the best."""
    clear_margin: float = Field(default=0.05, ge=0)
    """Scores further apart than this are ordered clearly."""
    max_reversed_frac: Fraction = 0.0
    """Share of clearly ordered pairs that a new rubric may turn around."""


class ProposerConfig(Section):
    """Who writes rubrics."""

    kind: Literal["offline", "llm"] = "offline"
    """`offline` picks from a bank of criteria with rules; `llm` asks a chat model."""
    bank: str | None = None
    """JSONL with criteria for each prompt; `builtin:quickstart` is the packaged one."""
    llm: LlmJudgeConfig | None = None
    """The chat model of `llm`, given like a judge's; what only a judge needs is of no effect."""
    template_dir: str | None = None
    """Folder with proposer templates of your own; None takes the packaged ones."""
    show_verdicts: bool = False
    """Show the proposer what the current rubric's verdicts on the pair are."""
    max_criteria: PositiveInt = 40
    """Most criteria of a rubric."""
    min_weight: PositiveFloat = 1.0
    """Smallest weight of a criterion that is written."""
    max_weight: PositiveFloat = 3.0
    """Largest weight of a criterion that is written; the paper's are 1 to 3."""


class RefinementConfig(Section):
    """How rubrics are refined, between the epochs of a training or by `rubric-rl rubrics build`."""

    enabled: bool = False
    """Refine during training."""
    every_epochs: PositiveInt | None = 1
    """Refine after every so many epochs, the last aside; None: not at epochs' ends."""
    every_steps: PositiveInt | None = None
    """Refine after every so many steps too."""
    top_tie_frac: Fraction | None = None
    """Refine when more than this share of a step's groups is tied at the top."""
    rounds: Annotated[int, Field(ge=0)] = 4
    """Proposals for each prompt in one pass; 0 builds initial rubrics only."""
    pool_size: Annotated[int, Field(ge=2)] = 16
    """Most answers for each prompt that are scored."""
    pool_path: str | None = None
    """JSONL with answers of other models to the same prompts."""
    pool_sources: tuple[str, ...] = ()
    """Models whose answers are taken from the pool; empty takes all."""
    on_policy_candidates: Annotated[int, Field(ge=0)] = 8
    """Best answers of the epoch that are kept for each prompt, during training."""
    pair_strategy: Literal["top2", "top_tied", "top_diverse"] = "top2"
    """Which two answers the proposer sees; see `refinement.pairs`."""
    exclude_used: bool = True
    """Leave answers that the proposer has seen out of later pairs."""
    only_tied: bool = True
    """Leave a prompt alone while its best answer stands alone."""
    saturation: Fraction = 0.95
    """A best score of at least this counts as tied at the top: nothing better could be told."""
    max_prompts: PositiveInt | None = None
    """Prompts refined in one pass, those with most ties first; None: all that qualify."""
    prompts_in_flight: PositiveInt = 64
    """Prompts refined at once."""
    refine_eval: bool = True
    """Refine the held-out prompts' rubrics too, from the answers of the last evaluation."""
    max_failed_frac: Fraction = 0.5
    """The run stops when more than this share of a pass's proposals fails."""
    proposer: ProposerConfig = ProposerConfig()
    """Who writes rubrics."""
    gate: GateConfig = GateConfig()
    """When a proposal is accepted."""


class AlgorithmConfig(Section):
    """GRPO."""

    clip_low: PositiveFloat = 0.2
    """The ratio is clipped from below at 1 - clip_low."""
    clip_high: PositiveFloat = 0.2
    """The ratio is clipped from above at 1 + clip_high."""
    kl_coef: float = Field(default=0.01, ge=0)
    """Weight of the KL to the reference policy, in the loss."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Form of that KL (Schulman's names). As a loss k1 has no gradient on average: noise only."""
    loss_aggregation: Literal["token", "sequence"] = "token"
    """Mean over all tokens of the step, or over each sample's mean."""
    old_log_probs: Literal["rollout", "learner"] = "rollout"
    """Denominator of the ratio: the engine's log-probs, or the learner's at the step's start."""
    min_scored_samples: Annotated[int, Field(ge=2)] = 2
    """A group with fewer scored samples is dropped and another prompt takes its place."""
    max_refill_prompts: int = Field(default=8, ge=0)
    """Prompts that one step may draw in place of dropped groups."""
    max_staleness: int = Field(default=0, ge=0)
    """Steps that generation may run ahead of the learner; 0 is synchronous."""


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


class LoggingConfig(Section):
    """What is written and shown."""

    wandb: WandbConfig = WandbConfig()
    """Weights & Biases."""
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
    """GRPO."""
    data: DataConfig
    """Prompts with their rubrics."""
    cluster: ClusterConfig
    """Ray and placement."""
    logging: LoggingConfig
    """W&B, samples, progress."""

    @property
    def max_sequence_tokens(self) -> int:
        """data.max_prompt_tokens + rollout.max_new_tokens."""
        return self.data.max_prompt_tokens + self.rollout.max_new_tokens

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
