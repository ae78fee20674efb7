"""What an evaluated policy is called: the labels that a record of figures carries.

    condition=great_pairs  domain=health  step=106  model=runs/first/model

The figures of an evaluation don't say which experiment they belong to. Labels do, so that
`rubric-rl tables` finds the cell of a table that they fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from rubric_rl.errors import ConfigError

Key = Literal["condition", "domain", "step", "model"]
KEYS: tuple[Key, ...] = get_args(Key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """None: not said."""

    condition: str | None = None
    """What the policy was trained with, such as `great_pairs`, `sft` or `base`."""
    domain: str | None = None
    """What it was trained and evaluated on, such as `health`."""
    step: int | None = None
    """Training steps that it has had."""
    model: str | None = None
    """For people: in no table's way."""

    def with_more(self, more: Labels, whose: str) -> Labels:
        """Both together; `whose` the other ones are, for messages. Raises ConfigError."""
        own, given = asdict(self), asdict(more)
        for key, value in given.items():
            if None not in (own[key], value) and own[key] != value:
                raise ConfigError(
                    f"{whose} says {key}={value}, and {key}={own[key]} is said already: leave "
                    "one out"
                )
        said = {key: value for key, value in given.items() if value is not None}
        return replace(self, **said)

    def __str__(self) -> str:
        said = {key: value for key, value in asdict(self).items() if value is not None}
        return ",".join(f"{key}={value}" for key, value in said.items()) or "no labels"


NO_LABELS = Labels()


def parse_labels(pairs: Sequence[str], option: str = "--label") -> Labels:
    """Labels out of `KEY=VALUE` words.

    Raises:
        ConfigError: an unknown key, a key said twice, an empty value, a step that is no number.
    """
    said: dict[str, str | int] = {}
    for pair in pairs:
        key, _, value = (part.strip() for part in pair.partition("="))
        if key not in KEYS or not value:
            raise ConfigError(f"{option} {pair!r}: want KEY=VALUE, KEY one of {', '.join(KEYS)}")
        if key in said:
            raise ConfigError(f"{option} {pair!r}: {key} is given twice")
        if key == "step" and not (value.isascii() and value.isdigit()):
            raise ConfigError(f"{option} {pair!r}: want a whole number of steps, from 0 on")
        said[key] = int(value) if key == "step" else value
    return replace(NO_LABELS, **said)
