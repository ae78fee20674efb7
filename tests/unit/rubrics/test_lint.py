"""Each kind of doubt is found where it should be, and not where it should not."""

from __future__ import annotations

from typing import get_args

import pytest

from rubric_rl.rubrics.lint import KINDS, MAX_CHARS, Finding, FindingKind, lint_rubrics
from rubric_rl.rubrics.rules import WordCount
from rubric_rl.types import Criterion, Message, Polarity, PromptRecord, Rubric


def rubric_of(*criteria: Criterion, prompt_id: str = "p") -> Rubric:
    return Rubric(prompt_id=prompt_id, version=0, criteria=criteria)


def criterion(text: str, cid: str = "c1", weight: float = 1.0, polarity: Polarity = 1) -> Criterion:
    return Criterion(cid=cid, text=text, weight=weight, polarity=polarity)


def texts_of(*texts: str) -> Rubric:
    return rubric_of(*(criterion(text, f"c{i}") for i, text in enumerate(texts, start=1)))


def findings_of(rubric: Rubric, kind: FindingKind) -> list[tuple[str | None, str]]:
    return [(f.cid, f.detail) for f in lint_rubrics([rubric]) if f.kind == kind]


def record(*turns: str, reference: str | None = None) -> PromptRecord:
    return PromptRecord(
        prompt_id="p",
        messages=tuple(Message(role="user", content=turn) for turn in turns),
        domain="d",
        source="s",
        row_hash="0",
        reference=reference,
    )


def test_every_kind_is_explained() -> None:
    assert set(KINDS) == set(get_args(FindingKind))


def test_a_plain_rubric_has_no_findings() -> None:
    plain = texts_of(
        "Names 37.5 degrees as the limit of a fever.",
        "Advises seeing a doctor after three days.",
        "Asks how old the child is.",
    )
    assert lint_rubrics([plain]) == []


def test_findings_come_rubric_by_rubric_and_kind_by_kind() -> None:
    rubrics = [
        rubric_of(
            criterion("Fails to name a dose.", "c1"),
            criterion("Is helpful.", "c2"),
            criterion("Is helpful!", "c3"),
            prompt_id=prompt_id,
        )
        for prompt_id in ("q", "p")
    ]
    found = [(f.prompt_id, f.cid, f.kind) for f in lint_rubrics(iter(rubrics))]
    of_one = [
        *[("c3", "duplicate"), ("c2", "vague"), ("c3", "vague")],
        ("c1", "polarity_doubt"),
    ]
    assert found == [(prompt_id, *finding) for prompt_id in ("q", "p") for finding in of_one]


# ----------------------------------------------------------------------------
# The rubric as a whole


def test_texts_that_differ_by_case_and_punctuation_are_duplicates() -> None:
    rubric = texts_of("Names a dose.", "Names a doctor.", "  names a DOSE", "Names a dose!")
    assert findings_of(rubric, "duplicate") == [
        ("c3", "the same as 'c1'"),
        ("c4", "the same as 'c1'"),
        ("c4", "the same as 'c3'"),
    ]
    assert findings_of(rubric, "near_duplicate") == []


def test_duplicates_of_two_rubrics_are_none() -> None:
    assert lint_rubrics([texts_of("Names a dose."), texts_of("Names a dose.")]) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # The same fact earned once and lost once.
        (
            "Recommends rinsing the burn under cool running water for ten minutes.",
            "Fails to recommend rinsing the burn under cool running water for ten minutes.",
        ),
        (
            "Mentions that unopened yoghurt keeps in the fridge past its date.",
            "States that unopened yoghurts keep in the fridge past their dates.",
        ),
        # 4 of 5 content words: rent, deposit, returned, landlord; weeks.
        (
            "Explains that the rent deposit is returned by the landlord.",
            "Explains that the rent deposit is returned by the landlord within weeks.",
        ),
    ],
)
def test_criteria_about_the_same_thing_are_near_duplicates(first: str, second: str) -> None:
    ((cid, detail),) = findings_of(texts_of(first, second), "near_duplicate")
    assert cid == "c2"
    assert "with 'c1'" in detail


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Numbers decide.
        (
            "Advises to keep the cast dry for the first 2 days.",
            "Advises to keep the cast dry for the first 9 days.",
        ),
        # Too short to tell.
        ("Mentions fever.", "Asks about fever."),
        # 4 of 6 is below 70 %: tax, deadline, freelancers, region; online, poster.
        (
            "States the tax deadline of freelancers in the region, online.",
            "States the tax deadline of freelancers in the region, by poster.",
        ),
    ],
)
def test_criteria_about_different_things_are_not(first: str, second: str) -> None:
    assert findings_of(texts_of(first, second), "near_duplicate") == []


def test_a_criterion_with_more_than_half_of_the_weight_is_found() -> None:
    def rubric(*weights: float) -> Rubric:
        return rubric_of(*(criterion(f"Names {w}.", f"c{w}", w) for w in weights))

    assert findings_of(rubric(7, 2, 3), "weights") == [
        ("c7", "weight 7 of 12 is 58% of the rubric")
    ]
    assert findings_of(rubric(6, 2, 4), "weights") == []  # half is not more than half
    assert findings_of(rubric(9, 1), "weights") == []


def test_equal_weights_are_no_finding_however_many() -> None:
    rubric = rubric_of(*(criterion(f"Names {i}.", f"c{i}") for i in range(12)))
    assert lint_rubrics([rubric]) == []


def test_more_than_40_criteria_are_too_many() -> None:
    def rubric(count: int) -> Rubric:
        return rubric_of(*(criterion(f"Names {i}.", f"c{i}") for i in range(count)))

    assert findings_of(rubric(41), "too_many") == [(None, "41 criteria, want 40")]
    assert findings_of(rubric(40), "too_many") == []


# ----------------------------------------------------------------------------
# One text


@pytest.mark.parametrize(
    "text",
    [
        "Names the dose and recommends a doctor.",
        "Says what to eat and then explains why.",
        "Names the dose but does not mention the interval.",
        "Gives the price as well as the delivery time.",
        "Lists eggs, flour, and milk.",
        "Lists eggs, flour and milk",
        "Explains the causes, including dust, smoke, and pollen.",
        "Gives the dose; gives the interval.",
        "Gives the dose. The response should name a doctor. It must ask for the age.",
        "Step 1: Is it true? If not, fail. Step 2: Is it short? If not, fail.",
    ],
)
def test_several_demands_in_one_are_stacked(text: str) -> None:
    assert len(findings_of(texts_of(text), "stacked")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Names a fruit, such as apples, pears, and plums.",
        "Names at least two of eggs, flour, and milk.",
        "Names a fruit (apples, pears, and plums count).",
        "Recommends one of aspirin, ibuprofen, and paracetamol.",
        "Names a drug for pain, fever, or cramps.",
        "Explains the signs and symptoms of measles.",
        'Says "stop, drop, and roll".',
        "Advises calling the bank, which can block the card and refund the money.",
        "Does not mention the price.",
    ],
)
def test_examples_alternatives_and_pairs_are_not(text: str) -> None:
    assert findings_of(texts_of(text), "stacked") == []


@pytest.mark.parametrize(
    "text",
    [
        "Gives a good answer.",
        "The response is helpful and appropriate.",
        "Provides a high-quality, thorough explanation.",
        "Uses a suitable tone.",
        "Is clear, concise and well-structured overall.",
    ],
)
def test_a_quality_without_anything_to_check_is_vague(text: str) -> None:
    assert len(findings_of(texts_of(text), "vague")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Gives a good reason for the delay.",
        "Is concise: at most 100 words.",
        'Says "well done" to the user.',
        "Names a dose.",
        "Explains vaccines appropriately for a child.",
    ],
)
def test_a_quality_of_something_is_not(text: str) -> None:
    assert findings_of(texts_of(text), "vague") == []


@pytest.mark.parametrize(
    "text",
    [
        "Meets the previous criterion for adults, too.",
        "Same as criterion 3, for children.",
        "Names the foods listed above.",
        "Gives the dose, as above.",
        "Follows the rubric.",
        "Agrees with the reference answer.",
        "Is at least as long as the ideal response.",
        "Reaches the correct answer.",
    ],
)
def test_what_a_judge_does_not_see_is_outside(text: str) -> None:
    assert len(findings_of(texts_of(text), "outside_reference")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Names a fever above 38 degrees.",
        "If no dose is given, this criterion is not met.",
        "The model response names a dose.",
        "Corrects what the assistant said in its previous answer.",
        "Refers to the criteria of the DSM-5.",
    ],
)
def test_what_a_judge_does_see_is_not(text: str) -> None:
    assert findings_of(texts_of(text), "outside_reference") == []


def test_with_the_prompts_a_reference_and_an_earlier_turn_are_looked_for() -> None:
    def details(text: str, of: PromptRecord) -> list[str]:
        return [f.detail for f in lint_rubrics([texts_of(text)], {"p": of})]

    agrees = "Agrees with the reference answer."
    assert details(agrees, record("Hi")) == ["'the reference answer': say what is in it"]
    (detail,) = details(agrees, record("Hi", reference="Hello"))
    assert "judge.llm.show_reference" in detail
    corrects = "Corrects its previous answer."
    assert details(corrects, record("Hi")) == [
        "'previous answer': the conversation has one message only"
    ]
    assert details(corrects, record("Hi", "No", "Sure?")) == []


@pytest.mark.parametrize(
    ("text", "polarity"),
    [
        ("Fails to name a dose.", 1),
        ("Does not mention a doctor.", 1),
        ("The response omits the price.", 1),
        ("Incorrectly states that garlic cures colds.", 1),
        ("Pitfall Criteria: Doesn't warn of the interaction.", 1),
        ("Avoids jargon.", -1),
        ("Correctly adds the two amounts.", -1),
        ("The answer should name a doctor.", -1),
    ],
)
def test_wording_against_the_polarity_is_doubted(text: str, polarity: Polarity) -> None:
    rubric = rubric_of(criterion("Names a dose.", "c0"), criterion(text, polarity=polarity))
    ((cid, detail),) = findings_of(rubric, "polarity_doubt")
    assert cid == "c1"
    assert f"but its polarity is {polarity}" in detail
    assert rubric.criteria[1].polarity == polarity


@pytest.mark.parametrize(
    ("text", "polarity"),
    [
        ("Fails to name a dose.", -1),
        ("Does not mention a doctor.", -1),
        ("Does not scold the user.", 1),
        ("Avoids jargon.", 1),
        ("Correctly adds the two amounts.", 1),
        ("Explains why the plan fails to pay off.", 1),
        ("Should not be longer than a page.", -1),
        ("Recommends doubling the dose.", -1),
    ],
)
def test_wording_with_the_polarity_is_not(text: str, polarity: Polarity) -> None:
    rubric = rubric_of(criterion("Names a dose.", "c0"), criterion(text, polarity=polarity))
    assert findings_of(rubric, "polarity_doubt") == []


def test_a_text_over_the_limit_is_too_long() -> None:
    assert findings_of(texts_of("x" * (MAX_CHARS + 1)), "too_long") == [
        ("c1", f"{MAX_CHARS + 1} characters, want {MAX_CHARS}")
    ]
    assert findings_of(texts_of("x" * MAX_CHARS), "too_long") == []


def test_the_text_of_a_rule_need_not_be_fit_for_a_judge() -> None:
    rule = Criterion(
        cid="c1", text="Good, see criterion 2; short.", weight=1.0, rule=WordCount(max=9)
    )
    assert lint_rubrics([rubric_of(rule)]) == []


def test_a_finding_is_a_value() -> None:
    (finding,) = lint_rubrics([texts_of("Is helpful.")])
    assert finding == Finding(
        prompt_id="p", cid="c1", kind="vague", detail="helpful: of what, and seen by what?"
    )
