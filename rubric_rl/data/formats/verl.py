"""verl's layout with rubrics: what `data.export` writes, and the same from elsewhere.

    {"data_source": "health", "ability": "health",
     "prompt": [{"role": "user", "content": "..."}],
     "reward_model": {"style": "rubric", "ground_truth": "",
                      "rubrics": [{"criterion": "...", "points": -4.0, "tags": ["..."]}]},
     "extra_info": {"format": "rubric_rl.prompt/1", "prompt_id": "h001", "domain": "health",
                    "split": "train", "reference": null, "row_hash": "...",
                    "rubric_version": 0,
                    "criteria": [{"id": "c1", "kind": "normal", "axis": null,
                                  "rule": "{...}", "lineage": null}], ...}}

How a row is read:

1. The sign of `points` is the polarity; see `formats.points`.
2. `extra_info` with our mark holds what points and tags can't, one entry for each
   criterion in the same order, so nothing is lost. A row in which the two don't
   have the same number of criteria is dropped: it was edited on one side.
3. A row without the mark keeps prompt, criteria, points and tags. Its id is `prompt_id`
   or `id`, or comes from its content; its domain is `ability`; `ground_truth`, where it
   isn't empty, is the reference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast, get_args

from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.points import (
    reward_model_of,
    rubrics_of,
    signed_criteria,
    signed_criterion,
    signed_id,
)
from rubric_rl.data.formats.rows import (
    Draft,
    Fields,
    RawCriterion,
    RowError,
    as_messages,
    assemble,
    domain_of,
    items_of,
    member,
    numbered,
    parsed,
    text_of,
)
from rubric_rl.data.records import RawRow, Split

MARK = "rubric_rl.prompt/1"
_DOMAIN = "verl"
_HASH = re.compile(r"[0-9a-f]{64}")


def read_verl(rows: Sequence[RawRow], options: ReadOptions) -> Imported:
    """Prompts and dropped rows, with our mark or without; option: domain."""

    def convert(fields: Fields) -> Draft:
        return (_marked if is_marked(fields) else _foreign)(fields, options)

    return assemble(rows, _identify, convert)


def is_marked(fields: Fields) -> bool:
    """Whether `data.export` wrote the row."""
    return member(_extra_info(fields), "format") == MARK


def prompt_of(fields: Fields) -> object:
    return fields.get("prompt") or fields.get("messages")


def checked_hash(value: object) -> str:
    """A row's hash as a file states it. Raises RowError."""
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise RowError("row_hash is not a SHA-256 in hex")
    return value


def _extra_info(fields: Fields) -> object:
    return parsed(fields.get("extra_info"))


def _identify(fields: Fields) -> str:
    extra_info = _extra_info(fields)
    for given in (member(extra_info, "prompt_id"), fields.get("prompt_id"), fields.get("id")):
        if (prompt_id := text_of(given)) is not None:
            return prompt_id
    return signed_id("verl", prompt_of(fields), member(reward_model_of(fields), "rubrics"))


def _foreign(fields: Fields, options: ReadOptions) -> Draft:
    reward_model = reward_model_of(fields)
    return Draft(
        messages=as_messages(prompt_of(fields)),
        criteria=signed_criteria(rubrics_of(reward_model)),
        domain=domain_of(options.domain, fields.get("ability"), fields.get("data_source"), _DOMAIN),
        reference=text_of(member(reward_model, "ground_truth")),
    )


# ----------------------------------------------------------------------------
# Ours


def _marked(fields: Fields, options: ReadOptions) -> Draft:
    extra_info = _extra_info(fields)
    items = numbered(rubrics_of(reward_model_of(fields)))
    entries = items_of(member(extra_info, "criteria"))
    if len(entries) != len(items):
        counts = f"{len(items)} and {len(entries)}"
        raise RowError("reward_model and extra_info have different numbers of criteria", counts)
    version = member(extra_info, "rubric_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise RowError("rubric_version is not a whole number")
    domain = text_of(member(extra_info, "domain"))
    if domain is None:
        raise RowError("domain is not a text")
    return Draft(
        messages=fields.get("prompt"),
        criteria=[
            _merged(signed_criterion(item, cid), item, entry)
            for (cid, item), entry in zip(items, entries, strict=True)
        ],
        domain=options.domain or domain,
        reference=text_of(member(extra_info, "reference")),
        split=_split(member(extra_info, "split")),
        version=version,
        row_hash=checked_hash(member(extra_info, "row_hash")),
    )


def _merged(criterion: RawCriterion, item: object, entry: object) -> RawCriterion:
    """The criterion with what extra_info adds; `parse_criteria` checks it."""
    return {
        **criterion,
        "tags": member(item, "tags"),
        "id": member(entry, "id"),
        "kind": member(entry, "kind"),
        "axis": member(entry, "axis"),
        "rule": parsed(member(entry, "rule")),
        "lineage": member(entry, "lineage"),
    }


def _split(value: object) -> Split | None:
    if value is not None and value not in get_args(Split):
        raise RowError("split is not train or eval")
    return cast("Split | None", value)
