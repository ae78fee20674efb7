"""The prompts of a run: files in, training and held-out prompts with rubrics out.

    DataConfig --load_prompt_set--> RawPromptSet --tokenize_prompts--> Prompt | Dropped

Which prompts are held out, the first of these that applies:

1. `data.eval_path`: the prompts of that file. Split marks still hold: rows of
   `data.path` marked "eval" and rows of `data.eval_path` marked "train" are dropped.
2. Rows marked "eval". The others, marked or not, are for training.
3. `data.eval_size`: of the rows without a mark, those whose ids have the
   smallest hashes, so that the choice doesn't depend on their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from rubric_rl.config.schema import DataConfig
from rubric_rl.data.canonical import parse_canonical
from rubric_rl.data.healthbench import (
    JSONL_KEYS,
    PARQUET_COLUMNS,
    parse_healthbench_jsonl,
    parse_healthbench_parquet,
)
from rubric_rl.data.reading import list_problems, read_jsonl, read_parquet
from rubric_rl.data.records import Dropped, LoadedPrompt, RawRow, Split
from rubric_rl.errors import DataError
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import Prompt, PromptRecord

FormatName = Literal["canonical", "healthbench_jsonl", "healthbench_parquet"]
FormatOption = Literal["auto", "canonical", "healthbench_jsonl", "healthbench_parquet"]

BUILTIN_PREFIX = "builtin:"
BUILTIN_FILES = {"quickstart": "quickstart/prompts.jsonl"}

# The only suffix that a format may have if the suffix is one of these.
_SUFFIXES: dict[FormatName, str] = {
    "canonical": ".jsonl",
    "healthbench_jsonl": ".jsonl",
    "healthbench_parquet": ".parquet",
}
_ALLOWED = (
    f"allowed: .jsonl with messages and rubric (canonical) or with {', '.join(JSONL_KEYS)} "
    f"(healthbench_jsonl); .parquet with {', '.join(PARQUET_COLUMNS)} (healthbench_parquet)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPromptSet:
    """The prompts of a run before tokenization, in file order."""

    train: tuple[PromptRecord, ...]
    eval: tuple[PromptRecord, ...]
    rubrics: RubricSet
    """Version 0, of training and held-out prompts."""
    dropped: tuple[Dropped, ...]
    format: FormatName
    """Of the training file."""
    path: str
    """Of the training file, as configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PromptFile:
    """What one file gave."""

    format: FormatName
    loaded: tuple[LoadedPrompt, ...]
    dropped: tuple[Dropped, ...]


def load_prompt_set(config: DataConfig) -> RawPromptSet:
    """Read, validate and split the prompts of a run.

    Raises:
        DataError: a file is missing, unreadable, of an unknown layout or
            invalid; no prompt is left to train on; the split can't be made or
            overlaps.
    """
    main = _load_file(config.path, config.format, key="data.path")
    dropped = list(main.dropped)
    if config.eval_path is not None:
        held_out = _load_file(config.eval_path, config.format, key="data.eval_path")
        dropped += held_out.dropped
        train = _without_mark("eval", main.loaded, "data.path", dropped)
        evals = _without_mark("train", held_out.loaded, "data.eval_path", dropped)
        _check_not_empty(evals, "eval", f"data.eval_path={config.eval_path!r}", dropped)
    else:
        train, evals = _split(main.loaded, config.eval_size)
    _check_not_empty(train, "train", f"data.path={config.path!r}", dropped)
    _check_no_overlap(train, evals)
    return RawPromptSet(
        train=tuple(prompt.record for prompt in train),
        eval=tuple(prompt.record for prompt in evals),
        rubrics=RubricSet(version=0, rubrics=tuple(p.rubric for p in [*train, *evals])),
        dropped=tuple(dropped),
        format=main.format,
        path=config.path,
    )


def tokenize_prompts(
    records: Sequence[PromptRecord],
    tokenizer_apply: Callable[[PromptRecord], list[int]],
    max_prompt_tokens: int,
) -> tuple[tuple[Prompt, ...], tuple[Dropped, ...]]:
    """Prompts that fit, and those that don't with their lengths; each in input order.

    `tokenizer_apply` gives the token ids of the chat-templated prompt,
    generation prompt included.
    """
    prompts: list[Prompt] = []
    dropped: list[Dropped] = []
    for record in records:
        token_ids = tokenizer_apply(record)
        if len(token_ids) <= max_prompt_tokens:
            prompts.append(Prompt(record=record, token_ids=tuple(token_ids)))
            continue
        dropped.append(
            Dropped(
                source=record.source,
                prompt_id=record.prompt_id,
                reason=f"longer than data.max_prompt_tokens={max_prompt_tokens}",
                detail=f"{len(token_ids)} tokens",
            )
        )
    return tuple(prompts), tuple(dropped)


def describe(dropped: Sequence[Dropped], limit: int = 10) -> str:
    """How many prompts were dropped, for each reason the count and the first `limit` ids."""
    if not dropped:
        return "no prompts dropped"
    by_reason: dict[str, list[Dropped]] = {}
    for item in dropped:
        by_reason.setdefault(item.reason, []).append(item)
    lines = [f"{len(dropped)} {'prompt' if len(dropped) == 1 else 'prompts'} dropped:"]
    for reason, items in sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        names = [
            f"{item.prompt_id} ({item.detail})" if item.detail else item.prompt_id
            for item in items[:limit]
        ]
        if len(items) > limit:
            names.append(f"... and {len(items) - limit} more")
        lines.append(f"  {len(items)} x {reason}: {', '.join(names)}")
    return "\n".join(lines)


# ----------------------------------------------------------------------------
# Files


def _load_file(path_text: str, option: FormatOption, *, key: str) -> _PromptFile:
    with _local_path(path_text, key) as path:
        suffix = _checked_suffix(path, option, key)
        rows = read_parquet(path) if suffix == ".parquet" else read_jsonl(path)
        name = _recognise(rows, path, suffix) if option == "auto" else option
        match name:
            case "canonical":
                loaded, dropped = tuple(parse_canonical(rows, path)), ()
            case "healthbench_jsonl":
                loaded, dropped = parse_healthbench_jsonl(rows)
            case "healthbench_parquet":
                loaded, dropped = parse_healthbench_parquet(rows)
    return _PromptFile(format=name, loaded=loaded, dropped=dropped)


@contextmanager
def _local_path(path_text: str, key: str) -> Iterator[Path]:
    """A path that exists while the context is open, also for a packaged file."""
    if not path_text.startswith(BUILTIN_PREFIX):
        path = Path(path_text).expanduser()
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise DataError(
                f"{key}={path_text!r} {what} (looked for {path.absolute()}): "
                f"give the path of a file, or {_builtin_names()}"
            )
        yield path
        return
    name = path_text.removeprefix(BUILTIN_PREFIX)
    if name not in BUILTIN_FILES:
        raise DataError(f"{key}={path_text!r} is not a packaged set, allowed: {_builtin_names()}")
    with resources.as_file(resources.files("rubric_rl.data") / BUILTIN_FILES[name]) as path:
        yield path


def _builtin_names() -> str:
    return ", ".join(f"{BUILTIN_PREFIX}{name}" for name in BUILTIN_FILES)


def _checked_suffix(path: Path, option: FormatOption, key: str) -> str:
    """The suffix that says how to read the file; the format's, if one is configured."""
    suffix = path.suffix.lower()
    is_known = suffix in _SUFFIXES.values()
    if option == "auto":
        if not is_known:
            raise DataError(
                f"{key}={str(path)!r} has the suffix {path.suffix!r}, so data.format=auto can't "
                f"recognise it: set data.format ({_ALLOWED})"
            )
        return suffix
    if is_known and suffix != _SUFFIXES[option]:
        raise DataError(
            f"{key}={str(path)!r} is not a {_SUFFIXES[option]} file, but data.format={option!r} "
            "is read from one: set data.format=auto"
        )
    return _SUFFIXES[option]


def _recognise(rows: Sequence[RawRow], path: Path, suffix: str) -> FormatName:
    keys = set(rows[0].value)
    if suffix == ".parquet" and keys.issuperset(PARQUET_COLUMNS):
        return "healthbench_parquet"
    if suffix == ".jsonl" and keys.issuperset(JSONL_KEYS):
        return "healthbench_jsonl"
    # One key is enough, so that a misspelt other one is reported as such.
    if suffix == ".jsonl" and not keys.isdisjoint({"messages", "rubric"}):
        return "canonical"
    raise DataError(f"{path}: the layout with {', '.join(sorted(keys))} is not known; {_ALLOWED}")


# ----------------------------------------------------------------------------
# Splits


def _split(
    loaded: Sequence[LoadedPrompt], eval_size: int
) -> tuple[list[LoadedPrompt], list[LoadedPrompt]]:
    """Training and held-out prompts of one file, by marks or else by `eval_size`."""
    held_out = {prompt.record.prompt_id for prompt in loaded if prompt.split == "eval"}
    if not held_out and loaded:
        held_out = _chosen_by_hash(loaded, eval_size)
    train = [prompt for prompt in loaded if prompt.record.prompt_id not in held_out]
    return train, [prompt for prompt in loaded if prompt.record.prompt_id in held_out]


def _chosen_by_hash(loaded: Sequence[LoadedPrompt], eval_size: int) -> set[str]:
    if eval_size >= len(loaded):
        raise DataError(
            f"data.eval_size={eval_size} leaves nothing to train on: the file has {len(loaded)} "
            "usable prompts; lower it"
        )
    ids = [prompt.record.prompt_id for prompt in loaded if prompt.split is None]
    if eval_size > len(ids):
        raise DataError(
            f"data.eval_size={eval_size} but only {len(ids)} of {len(loaded)} prompts are not "
            "marked 'train': lower it or mark prompts 'eval'"
        )
    return set(
        sorted(ids, key=lambda prompt_id: hashlib.sha256(prompt_id.encode()).hexdigest())[
            :eval_size
        ]
    )


def _without_mark(
    mark: Split, loaded: Sequence[LoadedPrompt], key: str, dropped: list[Dropped]
) -> list[LoadedPrompt]:
    """The prompts that don't carry the mark; those that do are added to `dropped`."""
    reason = f"marked {mark!r} in {key}, while data.eval_path is set"
    dropped += [
        Dropped(source=p.record.source, prompt_id=p.record.prompt_id, reason=reason)
        for p in loaded
        if p.split == mark
    ]
    return [prompt for prompt in loaded if prompt.split != mark]


def _check_not_empty(
    prompts: Sequence[LoadedPrompt], split: Split, what: str, dropped: Sequence[Dropped]
) -> None:
    if not prompts:
        raise DataError(f"{what} has no {split} prompts left; {describe(dropped)}")


def _check_no_overlap(train: Sequence[LoadedPrompt], evals: Sequence[LoadedPrompt]) -> None:
    """Refuse a held-out prompt that is also trained on, by id or by its messages."""
    ids = {prompt.record.prompt_id for prompt in train}
    by_messages = {_messages_hash(prompt.record): prompt.record.prompt_id for prompt in train}
    problems: list[str] = []
    for record in (prompt.record for prompt in evals):
        twin = by_messages.get(_messages_hash(record))
        if record.prompt_id in ids:
            problems.append(f"{record.prompt_id!r} ({record.source}) is in both")
        elif twin is not None:
            problems.append(f"{record.prompt_id!r} ({record.source}) has the messages of {twin!r}")
    if problems:
        raise DataError(
            f"held-out prompts are also trained on ({len(problems)}), remove them from one "
            f"side:{list_problems(problems)}"
        )


def _messages_hash(record: PromptRecord) -> str:
    payload = [[message.role, message.content] for message in record.messages]
    return hashlib.sha256(json.dumps(payload).encode()).hexdigest()
