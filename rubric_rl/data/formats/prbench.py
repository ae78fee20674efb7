"""PRBench: professional questions in finance and law with experts' rubrics.

    task, turns, field, topic, prompt_0..9, response_0..9, reference_texts_0..9,
    rubric[{id, title, annotations{criteria_category, weight_class,
                                   critically_important_weight, important_weight,
                                   slightly_important_weight, slightly_detrimental_weight,
                                   detrimental_weight, critically_detrimental_weight}}], ...

How a row is read:

1. The statement to grade is `title`. `weight_class` decides which of the weight fields
   counts; the others may be left from earlier annotation and are not looked at.
2. The class is the polarity: a detrimental class has -1. Its weights are below 0;
   where the sign says otherwise that is a doubt and the class holds.
3. Prompts and the responses between them are the conversation, up to the last
   prompt. Slots that aren't used are null, NaN or blank. `reference_texts` are
   documents that the user hands over, as the benchmark has it: they stand before the
   prompt of their turn. They are no reference answers.
4. `criteria_category` is the axis. Class, field and id are kept as tags.
5. Critically important stays kind `normal`; with the option essential_gates=true it
   becomes kind `essential`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.rows import (
    Draft,
    Fields,
    RawCriterion,
    Remark,
    RowError,
    assemble,
    criterion_text,
    domain_of,
    finite_number,
    hashed_id,
    is_blank,
    items_of,
    member,
    numbered,
    text_of,
)
from rubric_rl.data.records import RawRow
from rubric_rl.rubrics.validation import describe_value
from rubric_rl.types import Polarity

_DOMAIN = "prbench"
_MAX_TURNS = 10
_POLARITIES: dict[str, Polarity] = {
    "critically important": 1,
    "important": 1,
    "slightly important": 1,
    "slightly detrimental": -1,
    "detrimental": -1,
    "critically detrimental": -1,
}
_GATE_CLASS = "critically important"


def read_prbench(rows: Sequence[RawRow], options: ReadOptions) -> Imported:
    """Prompts, dropped rows and doubts; options: domain, essential_gates."""

    def convert(fields: Fields) -> Draft:
        remarks: list[Remark] = []
        field = text_of(fields.get("field"))
        return Draft(
            messages=_messages(fields),
            criteria=[
                _criterion(item, cid, options, remarks)
                for cid, item in numbered(fields.get("rubric"))
            ],
            domain=domain_of(options.domain, field and field.lower(), _DOMAIN),
            remarks=remarks,
        )

    return assemble(rows, _identify, convert)


def _identify(fields: Fields) -> str:
    task = text_of(fields.get("task"))
    return task or hashed_id("prbench", [fields.get(f"prompt_{n}") for n in range(_MAX_TURNS)])


# ----------------------------------------------------------------------------
# Conversation


def _messages(fields: Fields) -> list[dict[str, str]]:
    used = [turn for turn in range(_MAX_TURNS) if not is_blank(fields.get(f"prompt_{turn}"))]
    if not used:
        raise RowError("the prompt is empty")
    if used != list(range(len(used))):
        raise RowError("a prompt is missing between others", f"turns {used}")
    stated = fields.get("turns")
    if isinstance(stated, int | float) and not is_blank(stated) and stated != len(used):
        raise RowError("turns is not the number of prompts", f"{stated:g}, not {len(used)}")
    messages: list[dict[str, str]] = []
    for turn in used:
        messages.append({"role": "user", "content": _prompt(fields, turn)})
        if turn != used[-1]:
            response = _text(fields, f"response_{turn}")
            messages.append({"role": "assistant", "content": response})
    return messages


def _prompt(fields: Fields, turn: int) -> str:
    texts = [text for text in items_of(fields.get(f"reference_texts_{turn}")) if text_of(text)]
    documents = [f"Reference text {n}:\n{text}" for n, text in enumerate(texts, start=1)]
    return "\n\n".join([*documents, _text(fields, f"prompt_{turn}")])


def _text(fields: Fields, key: str) -> str:
    text = text_of(fields.get(key))
    if text is None:
        raise RowError("a turn is not a text", key)
    return text


# ----------------------------------------------------------------------------
# Criteria


def _criterion(item: object, cid: str, options: ReadOptions, remarks: list[Remark]) -> RawCriterion:
    text = criterion_text(item, "title", cid)
    annotations = member(item, "annotations")
    weight_class = _weight_class(annotations, cid)
    weight = _weight(annotations, weight_class, cid)
    polarity = _POLARITIES[weight_class]
    if (weight > 0) != (polarity == 1):
        what = f"is {weight_class} with the weight {weight:g}: kept as its class says"
        remarks.append(Remark(cid, what))
    gates = options.essential_gates and weight_class == _GATE_CLASS
    return {
        "id": cid,
        "text": text,
        "weight": abs(weight),
        "polarity": polarity,
        "kind": "essential" if gates else "normal",
        "axis": _category(annotations),
        "tags": _tags(item, annotations, weight_class),
    }


def _weight_class(annotations: object, cid: str) -> str:
    value = member(annotations, "weight_class")
    weight_class = " ".join(value.lower().split()) if isinstance(value, str) else ""
    if weight_class not in _POLARITIES:
        raise RowError("weight_class is not one of the format", f"{cid}: {describe_value(value)}")
    return weight_class


def _weight(annotations: object, weight_class: str, cid: str) -> float:
    key = f"{weight_class.replace(' ', '_')}_weight"
    return finite_number(member(annotations, key), "the weight of the class is", cid)


def _category(annotations: object) -> str | None:
    """Some rows have the category under a longer name that ends in the usual one."""
    if not isinstance(annotations, Mapping):
        return None
    struct = cast("Mapping[str, object]", annotations)
    found = [text_of(struct[key]) for key in sorted(struct) if key.endswith("criteria_category")]
    return next((category for category in found if category), None)


def _tags(item: object, annotations: object, weight_class: str) -> list[str]:
    given = (
        ("weight_class", weight_class),
        ("field", member(annotations, "field_for_category")),
        ("id", member(item, "id")),
    )
    return [f"{name}:{value}" for name, value in given if text_of(value)]
