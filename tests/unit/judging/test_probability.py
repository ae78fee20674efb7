"""The probability of a verdict, worked out by hand from the tokens of replies."""

from __future__ import annotations

import json
import math

import pytest

from rubric_rl.judging.chat import ChatReply, TokenLogProbs
from rubric_rl.judging.probability import met_probabilities
from rubric_rl.judging.reply import ParsedReply, parse_reply
from rubric_rl.types import JudgeContract

NONCE = "5eed1234"
CIDS = ("c1", "c2")
END = TokenLogProbs(text="<|im_end|>", log_prob=-0.01, top={"<|im_end|>": -0.01, "\n": -5.0})


def token(text: str, p: float | None = None, **top: float) -> TokenLogProbs:
    """A token; `top` gives probabilities by text, with `_` for a space and `Q` for a quote."""
    listed = {n.replace("_", " ").replace("Q", '"'): math.log(p) for n, p in top.items()}
    log_prob = listed[text] if p is None else math.log(p)
    return TokenLogProbs(text=text, log_prob=log_prob, top=listed)


def plain(text: str) -> TokenLogProbs:
    return TokenLogProbs(text=text, log_prob=-0.01, top={text: -0.01, "?": -5.0})


def read(
    *tokens: TokenLogProbs, text: str | None = None, contract: JudgeContract = "json_object"
) -> dict[str, float]:
    """Of a reply with these tokens and this text, or the text that they spell."""
    spelled = "".join(t.text for t in tokens)
    reply = ChatReply(
        text=spelled if text is None else text,
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=len(tokens),
        tokens=tokens,
    )

    def parse(said: str) -> ParsedReply:
        return parse_reply(said, "stop", CIDS, NONCE, contract)

    return met_probabilities(reply, parse(reply.text), parse)


OPEN = f'{{"nonce": "{NONCE}", "verdicts": ['
C1 = f'{{"id": "c1", "reason": "r", "nonce": "{NONCE}", "verdict": "'
C2 = f'{{"id": "c2", "reason": "r", "nonce": "{NONCE}", "verdict": "'


# ----------------------------------------------------------------------------
# Where words begin and tokens don't


def test_a_verdict_in_a_token_of_its_own() -> None:
    found = read(
        plain(OPEN + C1),
        token("met", met=0.6, un=0.2, yes=0.2),
        plain('"}, ' + C2),
        token("un", un=0.7, met=0.1),
        plain('met"}]}'),
    )
    # 0.6 / (0.6 + 0.2), and 0.1 / (0.1 + 0.7)
    assert found == {"c1": pytest.approx(0.75), "c2": pytest.approx(0.125)}


def test_a_verdict_in_one_token_with_its_quotes() -> None:
    found = read(
        plain(OPEN + C1[:-2]),
        token(' "met"}', **{"_Qmet": 0.3, "_Qun": 0.2, "Qunmet": 0.1, "met": 0.1, '_Qmet"}': 0.3}),
        plain("]}"),
    )
    # met: 0.3 + 0.3, unmet: 0.2 + 0.1; a bare met is no JSON
    assert found == {"c1": pytest.approx(0.6 / 0.9)}


def test_a_verdict_letter_by_letter() -> None:
    found = read(
        plain(OPEN + C1),
        token("u", u=0.5, m=0.25, me=0.15, un=0.1),
        *(token(letter, p=0.99) for letter in "nmet"),
        plain('"}]}'),
    )
    assert found == {"c1": pytest.approx(0.4)}


def test_a_word_that_only_begins_alike_speaks_for_neither_side() -> None:
    found = read(
        plain(OPEN + C1),
        token("met", met=0.4, un=0.1, metric=0.3, unsure=0.1, MET=0.1),
        plain('"}]}'),
    )
    assert found == {"c1": pytest.approx(0.8)}


def test_an_alternative_that_starts_in_the_token_before_counts() -> None:
    found = read(
        plain(OPEN + C1[:-2]),
        token(' "', **{"_Q": 0.5, "_Qmet": 0.4, "Q": 0.1}),
        token("un", un=0.8, met=0.2),
        plain('met"}]}'),
    )
    # met: 0.4 + 0.5 * 0.2, unmet: 0.5 * 0.8
    assert found == {"c1": pytest.approx(0.5 / 0.9)}


def test_lines_of_the_text_contract() -> None:
    found = read(
        plain(f"{NONCE} | c1 | it says so |"),
        token(" met", _met=0.8, _un=0.1, un=0.1),
        plain(f" | {NONCE}\n{NONCE} | c2 | not met | "),
        token("un", un=0.9, met=0.1),
        plain(f"met | {NONCE}"),
        contract="text",
    )
    assert found == {"c1": pytest.approx(0.8), "c2": pytest.approx(0.1)}


# ----------------------------------------------------------------------------
# Which of the reply's words are verdicts


def test_verdicts_that_are_quoted_are_not_the_judges() -> None:
    quoted = C1 + 'met"}]}'
    found = read(
        plain(f'It says {{"nonce": "0badf00d", "verdicts": [{C1}'),
        token("met", met=0.99, un=0.01),
        plain('"}]}. ' + OPEN + C1.replace('"r"', json.dumps(quoted))),
        token("un", un=0.9, met=0.1),
        plain('met"}]} It says ' + C1),
        token("met", met=0.98, un=0.02),
        plain('"}.'),
    )
    assert found == {"c1": pytest.approx(0.1)}


def test_what_is_no_verdict_has_no_probability_and_hides_no_other() -> None:
    found = read(
        plain(OPEN + C1),
        token("Yes", Yes=0.9, met=0.1),
        plain('"}, ' + C2),
        token("met", met=0.8, un=0.2),
        plain('"}]}'),
    )
    assert found == {"c2": pytest.approx(0.8)}


# ----------------------------------------------------------------------------
# Tokens that spell more or other than the text

VERDICT = (plain(OPEN + C1), token("un", un=0.75, met=0.25), plain('met"}]}'))
TEXT = "".join(t.text for t in VERDICT)


@pytest.mark.parametrize(
    "tokens",
    [
        (*VERDICT, END),
        (plain("<think>"), plain(C1 + "met"), plain("</think>\n"), *VERDICT, END),
        (plain("\n"), *VERDICT, plain("\n"), END),
    ],
    ids=["the end of the turn", "thinking that the server took out", "white space at the ends"],
)
def test_tokens_around_the_text_do_no_harm(tokens: tuple[TokenLogProbs, ...]) -> None:
    assert read(*tokens, text=TEXT) == {"c1": pytest.approx(0.25)}


def test_a_character_split_over_two_tokens_does_no_harm() -> None:
    before, after = TEXT.split('"r"')
    halves = (plain(f'{before}"'), plain("\ufffd"), plain("\ufffd"), plain(f'"{after[:-9]}'))
    assert after.endswith('"unmet"}]}')
    tokens = (*halves, *VERDICT[1:], END)
    assert read(*tokens, text=TEXT.replace('"r"', '"\u5fd8"')) == {"c1": pytest.approx(0.25)}


def test_tokens_that_leave_out_spaces_do_no_harm() -> None:
    tokens = (plain(f"{NONCE}|c1|says|no|"), token("un", un=0.75, met=0.25), plain(f"met|{NONCE}"))
    text = f"{NONCE} | c1 | says | no | unmet | {NONCE}"
    assert read(*tokens, END, text=text, contract="text") == {"c1": pytest.approx(0.25)}


def test_tokens_of_another_reply_say_nothing_of_this_one() -> None:
    assert read(*VERDICT, text=TEXT.replace("unmet", "met")) == {}
    assert read(plain("else"), text=TEXT) == {}
    assert read(text=TEXT) == {}
    assert read(END, text="") == {}


# ----------------------------------------------------------------------------
# What the alternatives leave open


def verdict_with(chosen: TokenLogProbs) -> dict[str, float]:
    return read(plain(OPEN + C1), chosen, plain('"}]}'))


def test_a_side_that_cannot_matter_counts_as_nothing() -> None:
    # No token that isn't listed is likelier than the 0.01 listed last.
    assert verdict_with(token("met", met=0.9, MET=0.02, yes=0.01)) == {"c1": 1.0}
    assert verdict_with(token("met", p=0.97)) == {"c1": 1.0}


def test_a_side_that_could_matter_leaves_no_probability() -> None:
    assert verdict_with(token("met", p=0.55)) == {}
    assert verdict_with(token("met", met=0.2, Met=0.2, yes=0.2, true=0.2)) == {}
    assert verdict_with(TokenLogProbs(text="met", log_prob=-0.7)) == {}


def test_an_alternative_that_could_become_either_leaves_no_probability() -> None:
    tokens = (plain(OPEN + C1[:-2]), token(' "met', **{"_Qmet": 0.7, "_Q": 0.3}), plain('"}]}'))
    assert read(*tokens) == {}


@pytest.mark.parametrize("log_prob", [math.nan, -math.inf, -9999.0, 1e6])
def test_what_is_no_log_prob_never_raises(log_prob: float) -> None:
    broken = TokenLogProbs(text="met", log_prob=log_prob, top={"un": log_prob})
    share = verdict_with(broken)
    assert share in ({}, {"c1": 0.5})
