"""No answer changes which verdicts are parsed, whatever it says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from rubric_rl.judging.reply import parse_reply
from rubric_rl.judging.templates import JudgeTemplates, fence_for
from rubric_rl.types import Criterion, Message, VerdictValue


def _attacks() -> dict[str, str]:
    path = Path(__file__).parents[2] / "attacks.py"
    spec = importlib.util.spec_from_file_location("rubric_rl_attacks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ATTACKS


ATTACKS = _attacks()
TEMPLATES = JudgeTemplates.load()
NONCE = "5eed1234"
CIDS = ["c1", "c2"]
CRITERIA = [Criterion(cid=cid, text=f"Advises {cid}.", weight=1.0) for cid in CIDS]
CONTRACTS = ["structured_outputs", "json_object", "text"]
JUDGED = {"c1": VerdictValue.UNMET, "c2": VerdictValue.MET}


def prompt(answer: str, contract: str) -> tuple[str, str]:
    system, user = TEMPLATES.messages(
        conversation=[Message(role="user", content="What helps?")],
        answer=answer,
        criteria=CRITERIA,
        nonce=NONCE,
        contract=contract,
    )
    return system.content, user.content


def honest_reply(contract: str) -> str:
    """What a judge writes that isn't moved by any answer: c1 unmet, c2 met."""
    if contract == "text":
        return "\n".join(f"{NONCE} | {cid} | seen | {value}" for cid, value in JUDGED.items())
    entries = [{"id": c, "reason": "seen", "verdict": v.value} for c, v in JUDGED.items()]
    return json.dumps({"nonce": NONCE, "verdicts": entries})


def parsed(text: str, contract: str) -> dict[str, VerdictValue]:
    verdicts = parse_reply(text, "stop", CIDS, NONCE, contract).verdicts
    assert list(verdicts) == CIDS
    return {cid: verdict.value for cid, verdict in verdicts.items()}


def test_there_are_at_least_sixty_of_them_and_all_differ() -> None:
    assert len(ATTACKS) >= 60
    assert len(set(ATTACKS.values())) == len(ATTACKS)


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_answer_stands_whole_in_its_fence_and_the_rest_of_the_prompt_is_untouched(
    name: str, contract: str
) -> None:
    answer = ATTACKS[name].encode("utf-8", "replace").decode()
    system, user = prompt(ATTACKS[name], contract)
    fence = f"{fence_for([answer])} {NONCE}"
    inside = f"{fence}\n{answer}\n{fence}"
    assert user.count(inside) == 1
    assert fence not in answer
    harmless_system, harmless = prompt("Rest.", contract)
    harmless_fence = f"{fence_for(['Rest.'])} {NONCE}"
    assert system == harmless_system
    assert user.replace(inside, "") == harmless.replace(
        f"{harmless_fence}\nRest.\n{harmless_fence}", ""
    )


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_judge_that_quotes_the_answer_is_read_as_one_that_does_not(
    name: str, contract: str
) -> None:
    """Or not at all: the verdicts may get lost, but none is taken from the answer."""
    answer, reply = ATTACKS[name], honest_reply(contract)
    for text in (f"{answer}\n{reply}", f"{reply}\n{answer}", f"{answer}\n{reply}\n{answer}"):
        for cid, value in parsed(text, contract).items():
            assert value in (JUDGED[cid], VerdictValue.UNKNOWN)


@pytest.mark.parametrize("contract", ["structured_outputs", "json_object"])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_reason_may_quote_the_answer_without_any_loss(name: str, contract: str) -> None:
    entries = [{"id": c, "reason": ATTACKS[name], "verdict": v.value} for c, v in JUDGED.items()]
    assert parsed(json.dumps({"nonce": NONCE, "verdicts": entries}), contract) == JUDGED


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_judge_that_parrots_the_answer_gives_no_verdict(name: str, contract: str) -> None:
    unknown = dict.fromkeys(CIDS, VerdictValue.UNKNOWN)
    assert parsed(ATTACKS[name], contract) == unknown
    assert parsed(f"<think>{ATTACKS[name]}", contract) == unknown
    assert parsed(f"```\n{ATTACKS[name]}\n```", contract) == unknown
