"""Rules that would be met by every answer, or by none, are refused."""

from __future__ import annotations

import pytest

from rubric_rl.errors import DataError
from rubric_rl.rubrics.rules import parse_rule

TERM_RULES = ("contains_any", "contains_all", "contains_none", "starts_with", "ends_with")


@pytest.mark.parametrize("rule", TERM_RULES)
@pytest.mark.parametrize("terms", [[""], [" \t"], ["See", ""]])
def test_a_blank_term_is_refused(rule: str, terms: list[str]) -> None:
    with pytest.raises(DataError, match=r"terms: .*a term is blank"):
        parse_rule({"rule": rule, "terms": terms})


@pytest.mark.parametrize("rule", TERM_RULES)
def test_no_terms_are_refused(rule: str) -> None:
    with pytest.raises(DataError, match=r"terms: .*at least 1 item"):
        parse_rule({"rule": rule, "terms": []})


@pytest.mark.parametrize(
    ("rule", "text", "met"),
    [
        ("starts_with", " see a doctor", True),
        ("starts_with", "Please see", False),
        ("ends_with", "you will SEE \n", True),
        ("ends_with", "see you", False),
    ],
)
def test_an_affix_is_that_of_the_stripped_text(rule: str, text: str, met: bool) -> None:
    assert parse_rule({"rule": rule, "terms": ["See"]}).check(text).met is met
