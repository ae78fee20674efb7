"""Validation errors in words: what was received, what is allowed, the key meant.

pydantic reports a path, a code and the received value; a person who mistyped
`learner.lerning_rate` wants to read `learner.learning_rate`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rubric_rl.config.schema import Config

# Longest received value that a message repeats.
_MAX_VALUE_CHARS = 80


def known_keys() -> tuple[str, ...]:
    """Dotted path of every field that holds a value, in the schema's order."""
    return tuple(_leaves(Config, ""))


def nearest(name: str, known: Sequence[str], *, cutoff: float = 0.6) -> str | None:
    """The most similar of `known`, None if none reaches `cutoff` in [0, 1]."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return matches[0] if matches else None


def describe(error: ValidationError) -> list[str]:
    """One sentence for each problem."""
    return [sentence for detail in error.errors() for sentence in _sentences(detail)]


def unknown_key(path: str) -> str:
    """Say that a dotted path is not in the schema, and which one may have been meant."""
    guess = _meant(path)
    if guess is not None:
        return f"{path} is not a known key: did you mean {guess}?"
    section = path.rpartition(".")[0]
    siblings = _leaf_names(section)
    if siblings:
        return f"{path} is not a known key: {section} takes {', '.join(siblings)}"
    return f"{path} is not a known key: the sections are {', '.join(Config.model_fields)}"


def _meant(path: str) -> str | None:
    section, _, leaf = path.rpartition(".")
    sibling = nearest(leaf, _leaf_names(section))
    if sibling is not None:
        return f"{section}.{sibling}"
    known = known_keys()
    namesakes = [key for key in known if key.rpartition(".")[2] == leaf]
    if namesakes:
        return nearest(path, namesakes, cutoff=0.0)
    # Paths of one section are alike by their section alone: compare only where it is misspelt.
    return None if _leaf_names(section) else nearest(path, known, cutoff=0.8)


def _leaf_names(section: str) -> list[str]:
    """Names of the values directly in a section, which is given by its dotted path."""
    paths = (key.rpartition(".") for key in known_keys())
    return [leaf for parent, _, leaf in paths if parent == section]


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            yield f"{prefix}{name}"
        else:
            yield from _leaves(section, f"{prefix}{name}.")


def _section_of(annotation: object) -> type[BaseModel] | None:
    """The model that a field holds, optional or not; None if it holds a value."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _sentences(detail: ErrorDetails) -> list[str]:
    path = ".".join(str(part) for part in detail["loc"])
    received: object = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            return [unknown_key(leaf) for leaf in _received_leaves(path, received)]
        case "missing":
            return [f"{path} is required: set {path}=..."]
        case "value_error":
            message = detail["msg"].removeprefix("Value error, ")
            return [f"{path}: {message}"] if path else message.split("\n")
        case _:
            return [f"{path}={_shown(received)} is not allowed: {_allowed(detail, path)}"]


def _received_leaves(path: str, received: object) -> Iterator[str]:
    if isinstance(received, Mapping) and received:
        for name, value in cast("Mapping[object, object]", received).items():
            yield from _received_leaves(f"{path}.{name}", value)
    else:
        yield path


def _shown(received: object) -> str:
    text = repr(received)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}..."


def _allowed(detail: ErrorDetails, path: str) -> str:
    message, received = detail["msg"], detail["input"]
    if detail["type"] == "model_type":
        return f"it is a section of {', '.join(_leaf_names(path))}"
    if detail["type"] == "string_type" and isinstance(received, int | float):
        # Hydra reads a bare 7 as a number, and a shell keeps one pair of quotes for itself.
        return f"it must be text, which a shell takes as {path}='\"{received}\"'"
    if message.startswith("Input should be "):
        return f"it must be {message.removeprefix('Input should be ')}"
    return f"{message[0].lower()}{message[1:]}"
