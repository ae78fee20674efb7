"""The resolved configuration of a run as dotted keys, without what must not be shown.

A report can be made of a run of another version, so the keys are not checked against
today's schema: one that isn't there is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from rubric_rl.errors import DataError

_HIDDEN = "(hidden)"
# A configuration names the variables that hold keys, never the keys. Should one have
# got in all the same, it is not passed on.
_SECRET = re.compile(r"(api_key|auth_token|access_token|secret|password|authorization)$")
_USER_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")
_QUERY_IN_URL = re.compile(r"(\w+://[^\s?]+\?)\S+")


@dataclass(frozen=True, slots=True)
class Settings:
    """Dotted keys to values as YAML writes them; the items of a list are numbered from 0."""

    values: Mapping[str, str]

    def text(self, key: str) -> str | None:
        """None if it isn't there, or null."""
        value = self.values.get(key)
        return None if value == "null" else value

    def is_on(self, key: str) -> bool:
        return self.text(key) == "true"


def read_settings(path: Path) -> Settings:
    """Read `config.yaml`. Raises DataError: it can't be read or is not a mapping."""
    try:
        content = cast("object", yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise DataError(f"configuration {str(path)!r} can't be read: {err}") from err
    if not isinstance(content, dict):
        raise DataError(f"configuration {str(path)!r} holds no keys: is it cut off?")
    return Settings(dict(_flat(cast("object", content), "")))


def _items(value: dict[object, object] | list[object]) -> Iterable[tuple[object, object]]:
    return value.items() if isinstance(value, dict) else enumerate(value)


def _flat(value: object, key: str) -> Iterator[tuple[str, str]]:
    if value and isinstance(value, dict | list):
        for name, item in _items(cast("dict[object, object] | list[object]", value)):
            yield from _flat(item, f"{key}.{name}" if key else f"{name}")
    elif value is None:
        yield key, "null"
    elif _SECRET.search(key):
        yield key, _HIDDEN
    else:
        words = str(value).lower() if isinstance(value, bool) else str(value)
        words = _USER_IN_URL.sub(rf"\1{_HIDDEN}@", words)
        yield key, _QUERY_IN_URL.sub(rf"\1{_HIDDEN}", words)
