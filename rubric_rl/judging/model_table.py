"""What models accept and cost, by name.

Two tables. What a model accepts goes by its family: the longest name that its own
begins with. What it costs goes by the whole name, because relatives differ tenfold
(`o3` and `o3-pro`). Names may carry a provider in front, as in
`openai/gpt-4.1-mini`, and the date of a snapshot at the end. A model in neither
table is taken for one behind a server of one's own: it accepts everything, and its
price is unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.types import JudgeContract

_ALL_CONTRACTS: tuple[JudgeContract, ...] = ("structured_outputs", "json_object", "text")
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
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
    """What a model accepts, and what it costs."""

    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    accepts_temperature: bool = True
    takes_system: bool = True
    """False: a system turn is refused, so its text is sent in front of the first user turn."""
    contracts: tuple[JudgeContract, ...] = _ALL_CONTRACTS
    max_top_logprobs: int = 5
    """Alternatives asked for at each token, where log-probs are wanted; 0 if it has none."""
    thinking: bool = False
    """It thinks before it replies, within the reply's longest length."""
    prices: Prices | None = None


_UNKNOWN = ModelTraits()
# The default temperature only, no log-probs, and another name for the longest length.
_THINKING = ModelTraits(
    max_tokens_parameter="max_completion_tokens",
    accepts_temperature=False,
    max_top_logprobs=0,
    thinking=True,
)
_FIRST_THINKING = replace(_THINKING, takes_system=False, contracts=("text",))
_NO_SYSTEM = ModelTraits(takes_system=False)

_FAMILIES: dict[str, ModelTraits] = {
    "gpt-4o-2024-05-13": ModelTraits(contracts=("json_object", "text")),  # before schemas
    "gpt-5": _THINKING,
    "gpt-5-chat": _UNKNOWN,
    "gpt-6": _THINKING,
    "o1": _THINKING,
    "o1-mini": _FIRST_THINKING,
    "o1-preview": _FIRST_THINKING,
    "o3": _THINKING,
    "o4": _THINKING,
    # The chat templates of these raise an error at a system turn.
    "gemma-2": _NO_SYSTEM,
    "gemma-1.1": _NO_SYSTEM,
    "gemma-2b": _NO_SYSTEM,
    "gemma-7b": _NO_SYSTEM,
}

# List prices in November 2026, US dollars for a million tokens of prompt and of reply;
# judge.llm.usd_per_million_* overrides them.
_PRICES: dict[str, tuple[float, float]] = {
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4o": (2.50, 10.00),
    "gpt-4o-2024-05-13": (5.00, 15.00),
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-5": (1.25, 10.00),
    "gpt-5-mini": (0.25, 2.00),
    "gpt-5-nano": (0.05, 0.40),
    "gpt-5.1": (1.25, 10.00),
    "gpt-5.2": (1.75, 14.00),
    "gpt-5.4": (2.50, 15.00),
    "gpt-5.4-mini": (0.75, 4.50),
    "gpt-5.4-nano": (0.20, 1.25),
    "gpt-5.5": (5.00, 30.00),
    "o1": (15.00, 60.00),
    "o3": (2.00, 8.00),
    "o3-mini": (1.10, 4.40),
    "o4-mini": (1.10, 4.40),
}
_FREE = Prices(prompt=0.0, completion=0.0)


def traits_of(model: str) -> ModelTraits:
    """The traits of a model by its name."""
    name = model.rpartition("/")[2].lower()
    # `gpt-5.1` and `gpt-5-mini` are of the family gpt-5; `gpt-50` is not.
    families = [key for key in _FAMILIES if re.match(rf"{re.escape(key)}(?![a-z0-9])", name)]
    traits = _FAMILIES[max(families, key=len)] if families else _UNKNOWN
    return replace(traits, prices=_listed_prices(name))


def prices_of(config: LlmJudgeConfig) -> Prices | None:
    """What the judge costs: the config's own prices, else the table's; None if one is unknown.

    A server that the run starts itself costs nothing.
    """
    listed = _FREE if config.backend == "vllm" else traits_of(config.model).prices
    prompt, completion = (
        config.usd_per_million_prompt_tokens,
        config.usd_per_million_completion_tokens,
    )
    if listed is not None:
        prompt = listed.prompt if prompt is None else prompt
        completion = listed.completion if completion is None else completion
    if prompt is None or completion is None:
        return None
    return Prices(prompt=prompt, completion=completion)


def _listed_prices(name: str) -> Prices | None:
    for known in (name, _SNAPSHOT.sub("", name)):
        if known in _PRICES:
            prompt, completion = _PRICES[known]
            return Prices(prompt=prompt, completion=completion)
    return None
