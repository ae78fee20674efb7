"""What each fault of a judge's endpoint becomes: the whole stack against a server that misbehaves.

Every row goes through client, caller, budget, parser and judge. No row may yield a score for
something that wasn't judged, lose a criterion or count one twice, and every request that the
server sees is in the usage.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig, LlmJudgeConfig
from rubric_rl.types import Criterion, Judgement, VerdictValue

CRITERIA = tuple(
    Criterion(cid=f"c{i}", text=f"Advises thing {i}.", weight=float(i)) for i in (1, 2, 3)
)
CIDS = ["c1", "c2", "c3"]
_SLOW_S = 0.4
# A busy machine must not make a healthy server seem to hang.
_TIMEOUT_S = 15.0
_SHORT_TIMEOUT_S = 1.5


@dataclass
class FaultyServer:
    """Plays one fault for its first `times` requests, and judges well afterwards."""

    fault: str = "none"
    times: int = 0
    url: str = ""
    requests: list[float] = field(default_factory=list)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(time.monotonic())
        prompt = (await request.json())["messages"][-1]["content"]
        fault = self.fault if len(self.requests) <= self.times else "none"
        nonce = re.findall(r"Nonce: (\w+)", prompt)[-1]
        asked = re.findall(r'^\{"id": "([^"]+)"', prompt, re.MULTILINE)
        if fault in _BROKEN:
            return await _BROKEN[fault](request)
        if fault == "slow":
            await asyncio.sleep(_SLOW_S)
        text, finish, model = _reply(fault, nonce, asked)
        return web.json_response(_completion(text, finish, model))


def _completion(text: str, finish: str = "stop", model: str = "judge-1") -> dict:
    message = {"role": "assistant", "content": text}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def _reply(fault: str, nonce: str, asked: list[str]) -> tuple[str, str, str]:
    """Text, finish reason and model of a reply; the fault concerns the first criterion asked."""
    entries = [{"id": cid, "reason": "because", "nonce": nonce, "verdict": "met"} for cid in asked]
    first = entries[0]
    if fault in ("yes.", "Yes", "MET", "met.", ""):
        first["verdict"] = fault
    changes = {
        "true": lambda: first.update(verdict=True),
        "1": lambda: first.update(verdict=1),
        "null": lambda: first.update(verdict=None),
        "missing id": lambda: entries.pop(0),
        "duplicate id": lambda: entries.append(dict(first)),
        "contradicting id": lambda: entries.append(first | {"verdict": "unmet"}),
        "extra id": lambda: entries.append(first | {"id": "c99"}),
        "id in capitals": lambda: first.update(id=first["id"].upper()),
        "no verdicts": lambda: entries.clear(),
    }
    if fault in changes:
        changes[fault]()
    body = json.dumps(
        {"nonce": nonce[::-1] if fault == "wrong nonce" else nonce} | {"verdicts": entries}
    )
    if fault == "no nonce":
        body = json.dumps({"verdicts": entries})
    if fault == "prose around":
        body = f"Here you are:\n```json\n{body}\n```\nGlad to help {{}}."
    if fault == "unclosed thinking":
        body = f"<think>Let me see. {body}"
    if fault == "closed thinking":
        body = f"<think>Perhaps {{}}?</think>{body}"
    if fault == "truncated JSON":
        body = body[: len(body) // 2]
    if fault == "empty":
        body = ""
    finish = "length" if fault == "cut by length" else "stop"
    return body, finish, "judge-2" if fault == "model swapped" else "judge-1"


async def _fail(status: int, **headers: str) -> web.StreamResponse:
    error = {"error": {"message": "no"}}
    return web.json_response(error, status=status, headers=headers)


async def _hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30.0)
    raise AssertionError("the client waited too long")


async def _reset(request: web.Request) -> web.StreamResponse:
    """Half an answer, and the connection is gone."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [{"mess')
    assert request.transport is not None
    request.transport.abort()
    return response


async def _no_body(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=200, body=b"")


async def _html(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=200, text="<html>login</html>", content_type="text/html")


_BROKEN = {
    "429": lambda _: _fail(429),
    "429 with Retry-After": lambda _: _fail(429, **{"Retry-After": "0.2"}),
    "400": lambda _: _fail(400),
    "401": lambda _: _fail(401),
    "500": lambda _: _fail(500),
    "hang": _hang,
    "reset in mid-body": _reset,
    "no body": _no_body,
    "html": _html,
}


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FaultyServer]]:
    """Three servers on ports of their own, on one thread."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    faulty = [FaultyServer() for _ in range(3)]

    async def start(server: FaultyServer) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", server.chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    runners = [
        asyncio.run_coroutine_threadsafe(start(server), loop).result(10) for server in faulty
    ]
    yield faulty
    for runner in runners:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def config_of(servers: list[FaultyServer], **values: object) -> LlmJudgeConfig:
    first, *further = servers
    fields = {
        "base_url": first.url,
        "extra_endpoints": [{"base_url": server.url} for server in further],
        "model": "judge-1",
        "timeout_s": _SHORT_TIMEOUT_S if "hang" in {s.fault for s in servers} else _TIMEOUT_S,
        "max_retries": 1,
        "max_asks": 2,
    }
    return LlmJudgeConfig.model_validate(fields | values)


def judge(judge_stack, config: LlmJudgeConfig, requests: list, **stack: object) -> list[Judgement]:
    async def run() -> list[Judgement]:
        stack.setdefault("budget", JudgeBudgetConfig(deadline_s=60.0))
        async with judge_stack(config, contract="json_object", **stack) as rubric_judge:
            return list(await asyncio.gather(*(rubric_judge.judge(r) for r in requests)))

    return asyncio.run(run())


def outcome(judgement: Judgement) -> list[str]:
    assert [verdict.cid for verdict in judgement.verdicts] == CIDS
    return [str(verdict.cause or verdict.value) for verdict in judgement.verdicts]


# Fault -> outcome of c1, of c2 and c3, requests and retries while it lasts. Two asks of up to two
# attempts each: a failed attempt is retried, a bad reply is asked again for what is missing.
TABLE = {
    "none": ("met", "met", 1, 0),
    "slow": ("met", "met", 1, 0),
    "prose around": ("met", "met", 1, 0),
    "closed thinking": ("met", "met", 1, 0),
    "extra id": ("met", "met", 1, 0),
    "429": ("rate_limited", "rate_limited", 2, 1),
    "429 with Retry-After": ("rate_limited", "rate_limited", 2, 1),
    "500": ("transport", "transport", 2, 1),
    "hang": ("timeout", "timeout", 2, 1),
    "reset in mid-body": ("transport", "transport", 2, 1),
    "no body": ("transport", "transport", 2, 1),
    "html": ("transport", "transport", 2, 1),
    "400": ("refused_request", "refused_request", 1, 0),
    "401": ("refused_request", "refused_request", 1, 0),
    "model swapped": ("wrong_judge", "wrong_judge", 2, 1),
    "empty": ("unparseable", "unparseable", 2, 0),
    "truncated JSON": ("unparseable", "unparseable", 2, 0),
    "cut by length": ("truncated", "truncated", 2, 0),
    "unclosed thinking": ("unparseable", "unparseable", 2, 0),
    "wrong nonce": ("wrong_nonce", "wrong_nonce", 2, 0),
    "no nonce": ("wrong_nonce", "wrong_nonce", 2, 0),
    "missing id": ("missing", "met", 2, 0),
    "no verdicts": ("missing", "missing", 2, 0),
    "id in capitals": ("missing", "met", 2, 0),
    "duplicate id": ("duplicate", "met", 2, 0),
    "contradicting id": ("duplicate", "met", 2, 0),
    "yes.": ("out_of_choice", "met", 2, 0),
    "Yes": ("out_of_choice", "met", 2, 0),
    "MET": ("out_of_choice", "met", 2, 0),
    "met.": ("out_of_choice", "met", 2, 0),
    "": ("out_of_choice", "met", 2, 0),
    "true": ("out_of_choice", "met", 2, 0),
    "1": ("out_of_choice", "met", 2, 0),
    "null": ("out_of_choice", "met", 2, 0),
}


@pytest.mark.parametrize("fault", list(TABLE), ids=lambda fault: fault or "blank")
def test_a_fault_that_lasts_is_unknown_with_its_cause(judge_stack, servers, judge_request, fault):
    server = servers[0]
    server.fault, server.times = fault, 99
    health = JudgeHealthConfig(open_s=0.05)  # a wrong model opens its endpoint at once
    [judgement] = judge(judge_stack, config_of([server]), [judge_request(*CRITERIA)], health=health)
    first, others, requests, retries = TABLE[fault]
    assert outcome(judgement) == [first, others, others]
    assert (len(server.requests), judgement.usage.retries) == (requests, retries)
    assert judgement.usage.calls == requests


@pytest.mark.parametrize(
    "fault", [fault for fault in TABLE if fault not in ("400", "401")], ids=lambda f: f or "blank"
)
def test_a_fault_that_passes_costs_a_request_and_no_verdict(
    judge_stack, servers, judge_request, fault
):
    server = servers[0]
    server.fault, server.times = fault, 1
    health = JudgeHealthConfig(open_s=0.05)
    [judgement] = judge(judge_stack, config_of([server]), [judge_request(*CRITERIA)], health=health)
    assert outcome(judgement) == ["met", "met", "met"]
    assert judgement.usage.calls == len(server.requests) == TABLE[fault][2]


def test_a_server_that_says_how_long_to_wait_is_left_alone_for_so_long(
    judge_stack, servers, judge_request
):
    server = servers[0]
    server.fault, server.times = "429 with Retry-After", 1
    judge(judge_stack, config_of([server]), [judge_request(*CRITERIA)])
    first, second = server.requests
    assert second - first >= 0.2  # the stack's own wait is a millisecond


@pytest.mark.parametrize("fault", ["500", "hang", "model swapped", "401", "429"])
def test_with_one_of_three_endpoints_dead_every_sample_is_judged_once(
    judge_stack, servers, judge_request, fault
):
    servers[1].fault, servers[1].times = fault, 10**6
    requests = [judge_request(*CRITERIA, answer=f"Answer {i}.") for i in range(60)]
    config = config_of(servers, max_retries=4)
    judgements = judge(judge_stack, config, requests)
    assert all(outcome(judgement) == ["met", "met", "met"] for judgement in judgements)
    seen = sum(len(server.requests) for server in servers)
    assert sum(j.usage.calls for j in judgements) == seen
    assert sum(j.usage.retries for j in judgements) == len(servers[1].requests) == seen - 60


def test_with_nobody_at_one_of_three_addresses_every_sample_is_judged_once(
    judge_stack, servers, judge_request
):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        nobody = FaultyServer(url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        config = config_of([servers[0], nobody, servers[2]], max_retries=4)
        requests = [judge_request(*CRITERIA, answer=f"Answer {i}.") for i in range(60)]
        judgements = judge(judge_stack, config, requests)
    assert all(outcome(judgement) == ["met", "met", "met"] for judgement in judgements)
    assert len(servers[0].requests) + len(servers[2].requests) == 60
    retries = sum(j.usage.retries for j in judgements)
    assert retries > 0
    assert sum(j.usage.calls for j in judgements) == 60 + retries


def test_a_dead_endpoint_is_left_alone_after_a_few_failures(judge_stack, servers, judge_request):
    servers[1].fault, servers[1].times = "500", 10**6
    requests = [judge_request(*CRITERIA, answer=f"Answer {i}.") for i in range(200)]
    budget = JudgeBudgetConfig(max_concurrency=6, deadline_s=60.0)
    judgements = judge(judge_stack, config_of(servers, max_retries=4), requests, budget=budget)
    assert all(VerdictValue.UNKNOWN not in {v.value for v in j.verdicts} for j in judgements)
    # Five in a row open it; a few more were out at that moment.
    assert len(servers[1].requests) <= 5 + 6
