"""What a reader of a format gives, and what it is told.

    rows of a file + ReadOptions --Reader--> Imported(loaded, dropped, doubts)

A row is kept as it is, or dropped with its reason. Where a format leaves open what
is meant, the prompt is kept as the format says and the doubt is listed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rubric_rl.data.records import Dropped, LoadedPrompt, RawRow
from rubric_rl.errors import ConfigError
from rubric_rl.types import Polarity


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Something in a prompt that was kept that a person should look at."""

    source: str
    prompt_id: str
    cid: str | None
    """None: it is about the prompt or its rubric as a whole."""
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What the rows of one file gave; each part is in file order."""

    loaded: tuple[LoadedPrompt, ...]
    dropped: tuple[Dropped, ...] = ()
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeWeights:
    """Weights of criteria whose format gives a type and no weight."""

    hard: float
    principle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What the user decides. Each format takes some of them; see OPTION_HELP."""

    path: Path
    """The file, for messages about it as a whole."""
    domain: str | None = None
    essential_gates: bool = False
    pitfall_polarity: Polarity = -1
    weights: TypeWeights | None = None


Reader = Callable[[Sequence[RawRow], ReadOptions], Imported]

OPTION_HELP: dict[str, str] = {
    "domain": "domain of every prompt, in place of the file's",
    "essential_gates": "true: what the format calls essential becomes kind essential",
    "pitfall_polarity": "-1 (the default): meeting a Pitfall is bad; 1: it is good, as all say "
    "what to avoid",
    "weights": "hard=NUMBER,principle=NUMBER: weights of the two types of criteria",
}
"""Each option with what it does."""


def parse_options(path: Path, known: Sequence[str], pairs: Sequence[str]) -> ReadOptions:
    """Options written as KEY=VALUE, of which a format takes those in `known`.

    Raises:
        ConfigError: names the option, what was received and what is allowed.
    """
    parsed: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            allowed = "; ".join(f"{name}=... ({OPTION_HELP[name]})" for name in known) or "none"
            raise ConfigError(f"option {pair!r} is not known to this format, allowed: {allowed}")
        if key in parsed:
            raise ConfigError(f"option {key!r} is given more than once: give it once")
        parsed[key] = _PARSERS[key](value)
    return replace(ReadOptions(path=path), **parsed)


def _domain(value: str) -> str:
    if not value.strip():
        raise ConfigError("option 'domain' is blank: give it a name")
    return value


def _gates(value: str) -> bool:
    if value not in ("true", "false"):
        raise ConfigError(f"option 'essential_gates': got {value!r}, want true or false")
    return value == "true"


def _polarity(value: str) -> Polarity:
    if value not in ("1", "-1"):
        raise ConfigError(f"option 'pitfall_polarity': got {value!r}, want 1 or -1")
    return 1 if value == "1" else -1


def _weights(value: str) -> TypeWeights:
    weights: dict[str, float] = {}
    for part in value.split(","):
        name, _, number = part.partition("=")
        weights[name.strip()] = _above_0(number)
    if set(weights) != {"hard", "principle"}:
        raise ConfigError(
            f"option 'weights': got {value!r}, want both weights, as in hard=2,principle=1"
        )
    return TypeWeights(hard=weights["hard"], principle=weights["principle"])


def _above_0(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"option 'weights': got {text!r}, want a finite number above 0")
    return number


_PARSERS: dict[str, Callable[[str], object]] = {
    "domain": _domain,
    "essential_gates": _gates,
    "pitfall_polarity": _polarity,
    "weights": _weights,
}
