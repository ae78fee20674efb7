"""What models accept and cost, by name.

A table of name patterns; the longest one that a name starts with counts. Names
may carry a provider, as in `openai/gpt-4.1-mini`, and a date at the end. A model
that isn't in the table is taken for one behind a server of one's own: it accepts
everything, and its price is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rubric_rl.config.schema import LlmJudgeConfig
from rubric_rl.types import JudgeContract

_ALL_CONTRACTS: tuple[JudgeContract, ...] = ("structured_outputs", "json_object", "text")
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars for a million tokens."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars of one request."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / _MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """What one family of models accepts."""

    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    accepts_temperature: bool = True
    contracts: tuple[JudgeContract, ...] = _ALL_CONTRACTS
    max_top_logprobs: int = 5
    """Alternatives that it tells for each token; 0 if it has no log-probs."""
    prices: Prices | None = None


def _chat(prompt: float, completion: float, top_logprobs: int = 5) -> ModelTraits:
    return ModelTraits(
        prices=Prices(prompt=prompt, completion=completion), max_top_logprobs=top_logprobs
    )


def _reasoning(prompt: float, completion: float) -> ModelTraits:
    """Models that think first: no temperature, no log-probs, another name for the limit."""
    return ModelTraits(
        max_tokens_parameter="max_completion_tokens",
        accepts_temperature=False,
        max_top_logprobs=0,
        prices=Prices(prompt=prompt, completion=completion),
    )


# List prices as of mid-2025; judge.llm.usd_per_million_* overrides them.
_TABLE: dict[str, ModelTraits] = {
    "gpt-4.1": _chat(2.00, 8.00),
    "gpt-4.1-mini": _chat(0.40, 1.60),
    "gpt-4.1-nano": _chat(0.10, 0.40),
    "gpt-4o": _chat(2.50, 10.00),
    "gpt-4o-2024-05-13": _chat(5.00, 15.00),
    "gpt-4o-mini": _chat(0.15, 0.60),
    "gpt-5": _reasoning(1.25, 10.00),
    "gpt-5-mini": _reasoning(0.25, 2.00),
    "gpt-5-nano": _reasoning(0.05, 0.40),
    "o1": _reasoning(15.00, 60.00),
    "o3": _reasoning(2.00, 8.00),
    "o3-mini": _reasoning(1.10, 4.40),
    "o4-mini": _reasoning(1.10, 4.40),
}
_UNKNOWN = ModelTraits()
_FREE = Prices(prompt=0.0, completion=0.0)


def traits_of(model: str) -> ModelTraits:
    """The traits of a model by its name."""
    name = model.rpartition("/")[2].lower()
    # `gpt-4.1-2025-04-14` is gpt-4.1; `gpt-4.12` or `gpt-5.9-mini` are something else.
    matches = [key for key in _TABLE if name == key or name.startswith(f"{key}-")]
    return _TABLE[max(matches, key=len)] if matches else _UNKNOWN


def prices_of(llm: LlmJudgeConfig) -> Prices | None:
    """What the judge costs: the config's own prices, else the table's; None if unknown."""
    prompt, completion = llm.usd_per_million_prompt_tokens, llm.usd_per_million_completion_tokens
    known = _FREE if llm.backend == "vllm" else traits_of(llm.model).prices
    if known is None:
        if prompt is None or completion is None:
            return None
        return Prices(prompt=prompt, completion=completion)
    return Prices(
        prompt=known.prompt if prompt is None else prompt,
        completion=known.completion if completion is None else completion,
    )
