"""The probability of a verdict, worked out by hand from the tokens of replies."""

from __future__ import annotations

import math

import pytest

from rubric_rl.judging.chat import TokenLogProbs
from rubric_rl.judging.probability import met_probabilities


def token(text: str, **top: float) -> TokenLogProbs:
    """A token; `top` gives probabilities by the names met, un and so on."""
    log_probs = {name.replace("_", " "): math.log(p) for name, p in top.items()}
    return TokenLogProbs(text=text, log_prob=log_probs.get(text, -1.0), top=log_probs)


def plain(text: str) -> TokenLogProbs:
    return TokenLogProbs(text=text, log_prob=-0.01)


def read(*tokens: TokenLogProbs) -> dict[str, float]:
    return met_probabilities("".join(t.text for t in tokens), tokens)


def test_json_with_the_verdict_in_a_token_of_its_own() -> None:
    found = read(
        plain('{"nonce": "n", "verdicts": [{"id": "c1", "reason": "r", "verdict": "'),
        token("met", met=0.6, un=0.2, yes=0.2),
        plain('"}, {"id": "c2", "reason": "r", "verdict": "'),
        token("un", un=0.7, met=0.1),
        plain('met"}]}'),
    )
    assert found == {"c1": pytest.approx(0.75), "c2": pytest.approx(0.125)}


def test_a_token_that_begins_before_the_verdict_is_compared_after_what_precedes_it() -> None:
    quoted = {' "met': math.log(0.3), ' "un': math.log(0.1), "met": math.log(0.5)}
    found = read(
        plain('{"verdicts": [{"id": "c1", "verdict":'),
        TokenLogProbs(text=' "met', log_prob=math.log(0.3), top=quoted),
        plain('"}]}'),
    )
    assert found == {"c1": pytest.approx(0.75)}


def test_a_side_that_is_not_among_the_alternatives_counts_as_nothing() -> None:
    found = read(plain('{"id": "c1", "verdict": "'), token("met", met=0.9, MET=0.05), plain('"}'))
    assert found == {"c1": 1.0}


def test_lines_of_the_text_contract() -> None:
    found = read(
        plain("n1 | c1 | it says so |"),
        token(" met", _met=0.8, _un=0.2),
        plain("\nn1 | c2 | not at all |"),
        token(" un", _un=0.9, _met=0.1),
        plain("met\n"),
    )
    assert found == {"c1": pytest.approx(0.8), "c2": pytest.approx(0.1)}


def test_a_reason_that_speaks_of_verdicts_is_not_taken_for_one() -> None:
    found = read(
        plain('{"id": "c1", "reason": "it says \\"verdict\\": \\"met", "verdict": "'),
        token("un", un=0.9, met=0.1),
        plain('met"}'),
    )
    assert found == {"c1": pytest.approx(0.1)}


def test_without_tokens_or_with_tokens_of_another_text_there_is_none() -> None:
    assert met_probabilities('{"id": "c1", "verdict": "met"}', ()) == {}
    assert met_probabilities('{"id": "c1", "verdict": "met"}', (plain("else"),)) == {}
