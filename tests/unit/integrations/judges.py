"""Prompts, a judge that reads its verdicts off the answer, and a server around them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from rubric_rl.config.schema import RubricsConfig
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.integrations.scorer import Scorer
from rubric_rl.integrations.serve import server_config
from rubric_rl.integrations.server import ServerLimits, create_app
from rubric_rl.types import (
    Criterion,
    FailureCause,
    Judgement,
    JudgeRequest,
    JudgeUsage,
    Message,
    PromptRecord,
    Rubric,
    Verdict,
    VerdictValue,
)

HALF_KNOWN = "A?"
"""A is MET and B, a quarter of the weight, is UNKNOWN: enough to be scored."""
UNSCORED = "?"
"""A, three quarters of the weight, is UNKNOWN."""


def prompt(prompt_id: str, *turns: str) -> LoadedPrompt:
    """Criteria A and B, of weight 3 and 1: meeting A alone is worth 0.75."""
    record = PromptRecord(
        prompt_id=prompt_id,
        messages=tuple(
            Message(role="assistant" if index % 2 else "user", content=turn)
            for index, turn in enumerate(turns or (f"Question {prompt_id}?",))
        ),
        domain="test",
        source="test",
        row_hash="0" * 64,
    )
    criteria = tuple(
        Criterion(cid=cid, text=cid.upper(), weight=weight) for cid, weight in (("a", 3), ("b", 1))
    )
    rubric = Rubric(prompt_id=prompt_id, version=0, criteria=criteria)
    return LoadedPrompt(record=record, rubric=rubric, split=None)


PROMPTS = {prompt_id: prompt(prompt_id) for prompt_id in ("p1", "p2")}


class ReadingJudge:
    """A criterion is MET if its letter is in the answer; see HALF_KNOWN and UNSCORED."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.held = threading.Event()
        """While it is set, answers with `hold` in them wait."""

    async def judge(self, request: JudgeRequest) -> Judgement:
        text = request.sample.text
        self.asked.append(text)
        while "hold" in text and self.held.is_set():
            await asyncio.sleep(0.005)
        unknown = {HALF_KNOWN: {"b"}, UNSCORED: {"a"}}.get(text, set[str]())
        return Judgement(
            rubric_id=request.rubric.rubric_id,
            rubric_version=0,
            judge_id="reading",
            template_hash="",
            mode="all",
            verdicts=tuple(_verdict(c, text, c.cid in unknown) for c in request.rubric.criteria),
            usage=JudgeUsage(calls=2, prompt_tokens=10, completion_tokens=5, cost_usd=0.25),
            latency_s=0.01,
        )


def _verdict(criterion: Criterion, text: str, unknown: bool) -> Verdict:
    if unknown:
        return Verdict(
            cid=criterion.cid,
            value=VerdictValue.UNKNOWN,
            reason="no reply",
            cause=FailureCause.TIMEOUT,
        )
    value = VerdictValue.MET if criterion.text in text else VerdictValue.UNMET
    return Verdict(cid=criterion.cid, value=value, reason="read \ud800")


def scorer(
    judge: ReadingJudge | None = None, prompts: Mapping[str, LoadedPrompt] = PROMPTS
) -> Scorer:
    return Scorer(judge or ReadingJudge(), prompts, RubricsConfig(), max_in_flight=8)


@contextmanager
def serving_rewards(
    judge: ReadingJudge | None = None,
    *,
    prompts: Mapping[str, LoadedPrompt] = PROMPTS,
    limits: ServerLimits | None = None,
    api_key: str | None = None,
) -> Iterator[str]:
    """The address of a reward server on a local port, in a thread of its own."""
    limits = limits or ServerLimits()
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(scorer(judge, prompts), limits, api_key=api_key)
    server = uvicorn.Server(server_config(app, limits))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def wait_until(condition: object) -> None:
    """Poll a callable for up to 10 s."""
    assert callable(condition)
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def write_prompts(path: Path, ids: Sequence[str] = ("p1", "p2"), *, rules: bool = True) -> Path:
    """A rubrics file with the criteria A and B of `prompt`, by rules or for an LLM judge."""
    rows = []
    for prompt_id in ids:
        criteria = [
            {"id": cid, "text": f"Says {cid.upper()}.", "weight": weight}
            | ({"rule": {"rule": "regex", "pattern": cid.upper()}} if rules else {})
            for cid, weight in (("a", 3), ("b", 1))
        ]
        rows.append(
            {
                "id": prompt_id,
                "domain": "test",
                "messages": [{"role": "user", "content": f"Question {prompt_id}?"}],
                "rubric": {"criteria": criteria},
            }
        )
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path
