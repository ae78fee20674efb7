"""The judge's configuration: which model, where it is served, how it is asked and limited."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rubric_rl.config.section import NonEmptyStr, PositiveFloat, PositiveInt, Section
from rubric_rl.types import JudgeMode


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
    """Criteria in one call: all of a sample, `chunk_size` of them, or one. `likert` asks for no
    criterion but for one grade of the whole answer, from 1 to 10; the reward is (grade - 1) / 9."""
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


class RewardModelConfig(Section):
    """A model that gives each answer a number, instead of rubrics and an LLM judge."""

    path: NonEmptyStr
    """Hugging Face directory of a sequence classifier with one output and a chat template, as
    `rubric-rl reward-model` exports it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type."""
    max_tokens: PositiveInt = 8192
    """Longest conversation and answer together; a longer one is unscored."""
    batch_tokens: PositiveInt = 16384
    """Padded tokens that go through the model at once."""
    num_threads: PositiveInt = 1
    """CPU threads of each judge worker that hosts it."""
    trust_remote_code: bool = False
    """Run the model directory's own code."""


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
    reward_model: RewardModelConfig | None = None
    """Each judge worker hosts it, on GPU on a device of its own; the rubrics are not used."""
    budget: JudgeBudgetConfig = JudgeBudgetConfig()
    """Concurrency, rates and money."""
    health: JudgeHealthConfig = JudgeHealthConfig()
    """Circuit breaker and hedges."""
    cache: JudgeCacheConfig = JudgeCacheConfig()
    """Verdict cache."""

    @property
    def grades_whole_answers(self) -> bool:
        """One grade of each answer, whatever its prompt's rubric says."""
        return self.reward_model is not None or (self.llm is not None and self.llm.mode == "likert")

    @property
    def needs_rules(self) -> bool:
        """Nobody is there who could judge a criterion without a rule."""
        return self.llm is None and self.reward_model is None
