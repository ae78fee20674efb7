"""The resolved configuration of a run as dotted keys, without what must not be shown.

A report can be made of a run of another version, so the keys are not checked against
today's schema: one that isn't there is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from rubric_rl.errors import DataError

HIDDEN = "(hidden)"
# A run's configuration names the variables that hold its keys, never the keys. Should
# one have got in all the same, it is not passed on.
_SECRET_KEY = re.compile(r"(api_key|auth_token|access_token|secret|password|authorization)$")
_USER_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")
_QUERY_IN_URL = re.compile(r"(\w+://[^\s?]+\?)\S+")

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Dotted keys to values; a list is one value, in YAML's short form."""

    values: Mapping[str, Scalar]

    def text(self, key: str) -> str | None:
        """As it is shown; None if it isn't set."""
        value = self.values.get(key)
        return None if value is None else shown(value)

    def is_on(self, key: str) -> bool:
        """Whether it is set and true."""
        return self.values.get(key) is True

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        return value if isinstance(value, int | float) else None


def shown(value: Scalar) -> str:
    """As YAML writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_settings(path: Path) -> Settings:
    """Read `config.yaml`.

    Raises:
        DataError: it can't be read or is not a mapping.
    """
    try:
        content = cast("object", yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise DataError(f"configuration {str(path)!r} can't be read: {err}") from err
    if not isinstance(content, dict):
        raise DataError(f"configuration {str(path)!r} holds no keys: is it cut off?")
    return Settings(dict(_flat(cast("dict[object, object]", content), "")))


def _flat(mapping: Mapping[object, object], prefix: str) -> Iterator[tuple[str, Scalar]]:
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from _flat(cast("dict[object, object]", value), f"{key}.")
        elif _SECRET_KEY.search(key) and value is not None:
            yield key, HIDDEN
        elif isinstance(value, bool | int | float) or value is None:
            yield key, value
        else:
            yield key, _without_secrets(_in_one_line(value))


def _in_one_line(value: object) -> str:
    if isinstance(value, str):
        return value
    return yaml.safe_dump(_hidden(value), default_flow_style=True, width=4096).strip()


def _hidden(value: object) -> object:
    """A list's or an empty mapping's value with every secret key of it hidden."""
    if isinstance(value, list):
        return [_hidden(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {
            key: HIDDEN if _SECRET_KEY.search(str(key)) and item is not None else _hidden(item)
            for key, item in items
        }
    return value


def _without_secrets(words: str) -> str:
    """URLs without a user, a password and a query."""
    return _QUERY_IN_URL.sub(rf"\1{HIDDEN}", _USER_IN_URL.sub(rf"\1{HIDDEN}@", words))
