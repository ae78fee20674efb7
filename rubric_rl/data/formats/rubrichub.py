"""RubricHub: the set for reinforcement learning, and what its pipeline writes.

    for training   prompt or messages, data_source, ability,
                   reward_model{rubrics[{criterion, points, tags{function, parameters, verifier}}]},
                   extra_info, Rubrics; reward_model may be JSON in a string
    pipeline       question, id, rubrics[{criterion, points}]

How a row is read:

1. The layout is verl's, so the sign of `points` is the polarity. The set's own range
   is 0 to 10: points below 0 are a doubt. A criterion with 0 points counts for
   nothing, so it is left out and listed; the others keep their ids.
2. `verifier: rule` names a function of the set's own grader, which is not run here.
   Its criterion goes to the LLM judge like any other, and each is a doubt: such a
   text may be no sentence, as in "paragraphs:two".
3. Function, parameters and verifier are kept as tags.
4. A row without an id gets one from its content; its domain is `ability`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.points import (
    reward_model_of,
    rubrics_of,
    signed_criterion,
    signed_id,
)
from rubric_rl.data.formats.rows import (
    Draft,
    Fields,
    RawCriterion,
    Remark,
    RowError,
    as_messages,
    assemble,
    criterion_text,
    domain_of,
    member,
    numbered,
    parsed,
    text_of,
)
from rubric_rl.data.records import RawRow

_DOMAIN = "rubrichub"


def read_rubrichub(rows: Sequence[RawRow], options: ReadOptions) -> Imported:
    """Prompts, dropped rows and doubts of either layout; option: domain."""

    def convert(fields: Fields) -> Draft:
        remarks: list[Remark] = []
        reward_model = reward_model_of(fields)
        return Draft(
            messages=as_messages(_prompt(fields)),
            criteria=_criteria(_rubrics(fields), remarks),
            domain=domain_of(
                options.domain, fields.get("ability"), fields.get("data_source"), _DOMAIN
            ),
            reference=text_of(member(reward_model, "ground_truth")),
            remarks=remarks,
        )

    return assemble(rows, _identify, convert)


def _prompt(fields: Fields) -> object:
    return next(
        (fields[key] for key in ("question", "prompt", "messages") if fields.get(key)), None
    )


def _rubrics(fields: Fields) -> object:
    if "reward_model" in fields:
        return rubrics_of(reward_model_of(fields))
    return parsed(fields.get("rubrics"))


def _identify(fields: Fields) -> str:
    given = fields.get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if (prompt_id := text_of(given)) is not None:
        return prompt_id
    rubrics = fields.get("rubrics") or member(reward_model_of(fields), "rubrics")
    return signed_id("rubrichub", _prompt(fields), rubrics)


def _criteria(rubrics: object, remarks: list[Remark]) -> list[RawCriterion]:
    criteria: list[RawCriterion] = []
    for cid, item in numbered(rubrics):
        text = criterion_text(item, "criterion", cid)
        if member(item, "points") == 0:
            remarks.append(Remark(cid, f"has 0 points and is left out: {text!r}"))
            continue
        criterion = signed_criterion(item, cid)
        remarks += _doubts(item, cid, is_fault=criterion["polarity"] == -1)
        criteria.append(criterion)
    if not criteria:
        raise RowError("all points are 0")
    return criteria


def _doubts(item: object, cid: str, *, is_fault: bool) -> list[Remark]:
    remarks: list[Remark] = []
    if is_fault:
        remarks.append(Remark(cid, "has points below 0, while the set's are 0 to 10"))
    tags = member(item, "tags")
    if member(tags, "verifier") == "rule":
        function = member(tags, "function")
        what = f"is meant for the function {function!r}, which isn't run: a judge reads its text"
        remarks.append(Remark(cid, what))
    return remarks
