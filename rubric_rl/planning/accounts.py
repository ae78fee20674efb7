"""A sum of memory, item by item, each with the formula that gave it."""

from __future__ import annotations

from dataclasses import dataclass

from rubric_rl.planning.hardware import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One part of what a device holds."""

    what: str
    formula: str
    """With its numbers, as in `2 B x 8.19e9 / 8`."""
    num_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a device holds at one time."""

    when: str
    items: tuple[Item, ...]

    @property
    def num_bytes(self) -> float:
        return sum(item.num_bytes for item in self.items)

    @property
    def gib(self) -> float:
        return self.num_bytes / GIB


def count(number: float) -> str:
    """As in `8.19e9`; small numbers as they are."""
    if number < 10_000:
        return f"{number:g}"
    mantissa, _, exponent = f"{number:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def item(what: str, num_bytes: float, formula: str) -> Item:
    """An item; shorter to read than the class's keywords."""
    return Item(what=what, formula=formula, num_bytes=num_bytes)
