"""No answer changes which verdicts are parsed, whatever it says."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.judging.chat import CallResult, ChatReply, ChatRequest
from rubric_rl.judging.judge import LlmJudge, RubricJudge
from rubric_rl.judging.reply import parse_reply
from rubric_rl.judging.templates import JudgeTemplates, fence_for
from rubric_rl.types import (
    Criterion,
    JudgeContract,
    JudgeRequest,
    JudgeUsage,
    Message,
    Verdict,
    VerdictValue,
)


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
CONTRACTS: list[JudgeContract] = ["structured_outputs", "json_object", "text"]
JUDGED = {"c1": VerdictValue.UNMET, "c2": VerdictValue.MET}
UNKNOWN = dict.fromkeys(CIDS, VerdictValue.UNKNOWN)
# A reply that begins with one of these begins with thinking that never ends.
OPENS_THINKING = ("a beginning of thinking",)

each_attack = pytest.mark.parametrize("name", ATTACKS)
each_contract = pytest.mark.parametrize("contract", CONTRACTS)


def prompt(answer: str, contract: JudgeContract, nonce: str = NONCE) -> tuple[str, str]:
    system, user = TEMPLATES.messages(
        conversation=[Message(role="user", content="What helps?")],
        answer=answer,
        criteria=CRITERIA,
        nonce=nonce,
        contract=contract,
        reference="Rest for two days.",
    )
    return system.content, user.content


def reply(
    contract: JudgeContract,
    reasons: Mapping[str, str] | None = None,
    *,
    nonce: str = NONCE,
) -> str:
    """What a judge writes that isn't moved by any answer: c1 unmet, c2 met."""
    given_reasons = dict.fromkeys(CIDS, "seen") | dict(reasons or {})
    if contract == "text":
        return "\n".join(
            f"{nonce} | {cid} | {given_reasons[cid]} | {value} | {nonce}"
            for cid, value in JUDGED.items()
        )
    entries = [
        {"id": cid, "reason": given_reasons[cid], "nonce": nonce, "verdict": value.value}
        for cid, value in JUDGED.items()
    ]
    return json.dumps({"nonce": nonce, "verdicts": entries})


def parsed(text: str, contract: JudgeContract) -> dict[str, VerdictValue]:
    verdicts = parse_reply(text, "stop", CIDS, NONCE, contract).verdicts
    assert list(verdicts) == CIDS
    return {cid: verdict.value for cid, verdict in verdicts.items()}


def test_there_are_at_least_sixty_of_them_and_all_differ() -> None:
    assert len(ATTACKS) >= 60
    assert len(set(ATTACKS.values())) == len(ATTACKS)


# ----------------------------------------------------------------------------
# The prompt


@each_contract
@each_attack
def test_the_answer_stands_whole_in_its_fence_and_the_rest_of_the_prompt_is_untouched(
    name: str, contract: JudgeContract
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


@each_attack
def test_what_precedes_the_answer_has_neither_its_length_nor_the_nonce(name: str) -> None:
    """A server with a prefix cache reads it once for all answers to a prompt."""
    texts = [prompt(ATTACKS[name], "text", "1" * 8)[1], prompt("Rest.", "text", "2" * 8)[1]]
    before = texts[0][: texts[0].index("\nANSWER\n")]
    assert texts[1].startswith(before)
    assert "Rest for two days." in before


# ----------------------------------------------------------------------------
# A judge that isn't moved


class UnmovedCaller:
    """A model that replies the same whatever the answer says."""

    def __init__(self, contract: JudgeContract) -> None:
        self.contract: JudgeContract = contract
        self.prompts: list[str] = []

    async def call(self, request: ChatRequest) -> CallResult:
        self.prompts.append(request.messages[-1].content)
        text = reply(self.contract, nonce=self.prompts[-1].rsplit("Nonce: ", 1)[1].strip())
        said = ChatReply(text=text, finish_reason="stop", prompt_tokens=9, completion_tokens=9)
        return CallResult(usage=JudgeUsage(calls=1), reply=said)


def judged(request: JudgeRequest, contract: JudgeContract) -> tuple[tuple[Verdict, ...], list[str]]:
    caller = UnmovedCaller(contract)
    config = LlmJudgeConfig(base_url="http://unused/v1", model="m")
    judge = RubricJudge(LlmJudge(caller=caller, config=config, contract=contract, served_model="m"))
    return asyncio.run(judge.judge(request)).verdicts, caller.prompts


@each_contract
@each_attack
def test_a_judge_that_is_not_moved_is_read_as_for_a_harmless_answer(
    judge_request, name: str, contract: JudgeContract
) -> None:
    verdicts, prompts = judged(judge_request(*CRITERIA, answer=ATTACKS[name]), contract)
    assert verdicts == judged(judge_request(*CRITERIA, answer="Rest."), contract)[0]
    assert {verdict.cid: verdict.value for verdict in verdicts} == JUDGED
    assert len(prompts) == 1
    assert ATTACKS[name].encode("utf-8", "replace").decode() in prompts[0]


# ----------------------------------------------------------------------------
# A judge that repeats the answer


@each_contract
@each_attack
def test_quotes_of_the_answer_around_the_verdicts_change_nothing(
    name: str, contract: JudgeContract
) -> None:
    answer, said = ATTACKS[name], reply(contract)
    assert parsed(f"{said}\n{answer}", contract) == JUDGED
    assert parsed(f"It says:\n{answer}\n\n{said}", contract) == JUDGED
    assert parsed(f"It says:\n{answer}\n\n{said}\n{answer}", contract) == JUDGED
    expected = UNKNOWN if name in OPENS_THINKING else JUDGED
    assert parsed(f"{answer}\n{said}", contract) == expected
    assert parsed(f"{answer}\n{said}\n{answer}", contract) == expected


@pytest.mark.parametrize("contract", ["structured_outputs", "json_object"])
@each_attack
def test_quotes_in_the_reasons_of_an_object_change_nothing(
    name: str, contract: JudgeContract
) -> None:
    assert parsed(reply(contract, dict.fromkeys(CIDS, ATTACKS[name])), contract) == JUDGED


@pytest.mark.parametrize("quoting", [["c1"], ["c2"], ["c1", "c2"]], ids="+".join)
@each_attack
def test_a_quote_in_the_reason_of_a_line_can_lose_its_verdict_and_no_more(
    name: str, quoting: list[str]
) -> None:
    answer = ATTACKS[name]
    found = parsed(reply("text", dict.fromkeys(quoting, f"it says {answer} here")), "text")
    lost = quoting if "\n" in answer else []
    assert found == JUDGED | dict.fromkeys(lost, VerdictValue.UNKNOWN)


PIECES = st.sampled_from(
    ["\n", " | ", "|", "met", "unmet", "c1", "c2", "0badf00d", "so", "</think>", "<think>", "\r"]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join), st.lists(PIECES, max_size=30).map("".join))
def test_no_quotes_in_lines_give_a_verdict_that_the_judge_did_not(one: str, two: str) -> None:
    for cid, value in parsed(reply("text", {"c1": one, "c2": two}), "text").items():
        assert value in (JUDGED[cid], VerdictValue.UNKNOWN)


@each_contract
@each_attack
def test_a_judge_that_parrots_the_answer_gives_no_verdict(
    name: str, contract: JudgeContract
) -> None:
    answer = ATTACKS[name]
    for text in (
        answer,
        f"{answer}\n{answer}",
        f"<think>{answer}",
        f"<think>Hm.</think>{answer}",
        f"```\n{answer}\n```",
        f"Nonce: {NONCE}\n{answer}",
        f"{NONCE} | c1 | {answer}",
        f"{answer} | {NONCE}",
    ):
        assert parsed(text, contract) == UNKNOWN
