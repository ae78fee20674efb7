"""The reward server over HTTP: what it answers, and what it refuses."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from rubric_rl.integrations.server import ServerLimits

from .judges import HALF_KNOWN, UNSCORED, ReadingJudge, prompt, serving_rewards, wait_until


class Reply(NamedTuple):
    status: int
    body: Any
    headers: Any


def ask(url: str, body: object = None, *, key: str | None = None) -> Reply:
    """POST a body as JSON, or GET without one."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            text, status, headers = reply.read(), reply.status, reply.headers
    except urllib.error.HTTPError as err:
        with err:
            text, status, headers = err.read(), err.code, err.headers
    is_json = headers.get("Content-Type", "").startswith("application/json")
    return Reply(status, json.loads(text) if is_json else text.decode(), headers)


def score(url: str, *responses: str, **more: object) -> Reply:
    answers = [{"prompt_id": "p1", "response": response} for response in responses]
    return ask(f"{url}/v1/score", {"answers": answers, **more})


def test_each_answer_gets_its_reward_coverage_and_verdicts() -> None:
    with serving_rewards() as url:
        reply = score(url, "A", "B", "A B", HALF_KNOWN, "")
    results = reply.body["results"]
    # Weights 3 and 1; with B UNKNOWN the reward is over A alone, at a coverage of 3/4.
    assert [r["reward"] for r in results] == [0.75, 0.25, 1.0, 1.0, 0.0]
    assert [r["coverage"] for r in results] == [1.0, 1.0, 1.0, 0.75, 1.0]
    assert all(r["unscored"] is None for r in results)
    assert [v["verdict"] for v in results[3]["verdicts"]] == ["met", "unknown"]
    assert results[3]["verdicts"][1]["cause"] == "timeout"


def test_an_answer_that_cant_be_scored_has_a_reason_and_no_number() -> None:
    with serving_rewards() as url:
        first, second = score(url, UNSCORED, "A", verdicts=False).body["results"]
    assert first["reward"] is None
    assert first["unscored"].startswith("judged weight 0.25, rubrics.min_coverage=0.5")
    assert "a (timeout)" in first["unscored"]
    assert second["reward"] == 0.75
    assert "verdicts" not in second


def test_a_conversation_names_its_prompt() -> None:
    prompts = {"long": prompt("long", "Hi", "Hello", "And now?")}
    turns = [{"role": m.role, "content": m.content} for m in prompts["long"].record.messages]
    with serving_rewards(prompts=prompts) as url:
        found = ask(f"{url}/v1/score", {"answers": [{"messages": turns, "response": "A"}]})
        other = ask(f"{url}/v1/score", {"answers": [{"messages": turns[2:], "response": "A"}]})
    assert found.body["results"][0]["prompt_id"] == "long"
    assert other.status == 422
    assert "exactly the conversation" in other.body["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"answers": [{"prompt_id": "p9", "response": "A"}]}, "'p9' is not among the 2 prompts"),
        ({"answers": []}, "body.answers: List should have at least 1 item"),
        ({"answers": [{"prompt_id": "p1"}]}, "body.answers.0.response: Field required"),
        ({"answers": [{"prompt_id": "p1", "response": "A", "id": 3}]}, "body.answers.0.id: Extra"),
        ({"answers": [{"messages": [{"role": "tool"}], "response": ""}]}, "unknown role 'tool'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_words(body: object, words: str) -> None:
    judge = ReadingJudge()
    with serving_rewards(judge) as url:
        reply = ask(f"{url}/v1/score", body)
    assert reply.status == 422
    assert words in reply.body["error"]
    assert judge.asked == []


def test_openrlhfs_batch_is_answered_in_its_order() -> None:
    body = {"query": ["Q?A</s>", "Q?B</s>"], "prompts": ["Q?", "Q?"], "labels": ["p1", "p2"]}
    with serving_rewards() as url:
        reply = ask(f"{url}/get_reward", body)
    assert reply.body == {
        "rewards": [0.75, 0.25],
        "scores": [0.75, 0.25],
        "extra_logs": {"rubric_coverage": [1.0, 1.0], "rubric_unscored": [0.0, 0.0]},
    }


def test_openrlhf_gets_an_error_or_nan_for_a_missing_reward_and_never_a_score() -> None:
    body = {"query": ["Q?A", f"Q?{UNSCORED}"], "prompts": ["Q?", "Q?"], "labels": ["p1", "p1"]}
    with serving_rewards() as url:
        refused = ask(f"{url}/get_reward", body)
    assert refused.status == 503
    assert "1 of 2 answers have no reward" in refused.body["error"]
    with serving_rewards(limits=ServerLimits(unscored="nan")) as url:
        rewards = ask(f"{url}/get_reward", body).body["rewards"]
    assert rewards[0] == 0.75
    assert math.isnan(rewards[1])


def test_nobody_without_the_key_gets_in_but_a_health_probe() -> None:
    with serving_rewards(api_key="s3cret") as url:
        body = {"answers": [{"prompt_id": "p1", "response": "A"}]}
        replies = [ask(f"{url}/v1/score", body, key=key) for key in (None, "s3cre", "s3cret")]
        assert [reply.status for reply in replies] == [401, 401, 200]
        assert ask(f"{url}/metrics").status == 401
        assert ask(f"{url}/openapi.json").status == 401
        assert ask(f"{url}/health").body["status"] == "ok"
    assert "s3cret" not in json.dumps([reply.body for reply in replies])


def test_what_is_too_large_is_refused_before_it_is_judged() -> None:
    judge = ReadingJudge()
    with serving_rewards(judge, limits=ServerLimits(max_answers=2, max_body_bytes=400)) as url:
        many = score(url, "A", "A", "A")
        long = score(url, "A" * 400)
        assert score(url, "A", "B").status == 200
    assert (many.status, long.status) == (413, 413)
    assert "got 3 answers, at most 2" in many.body["error"]
    assert "at most 400 are read" in long.body["error"]
    assert judge.asked == ["A", "B"]


def test_a_full_queue_sends_away_and_takes_in_again() -> None:
    judge = ReadingJudge()
    judge.held.set()
    with (
        serving_rewards(judge, limits=ServerLimits(max_pending=3)) as url,
        ThreadPoolExecutor() as pool,
    ):
        waiting = pool.submit(score, url, "hold A", "hold B")
        wait_until(lambda: len(judge.asked) == 2)
        refused = score(url, "A", "A")
        fits = score(url, "A")
        judge.held.clear()
        taken = waiting.result()
        assert score(url, "A", "A").status == 200
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert "2 answers wait or are judged, and 2 more" in refused.body["error"]
    assert (fits.status, taken.status) == (200, 200)


def test_a_request_that_takes_too_long_says_which_answers_were_not_judged() -> None:
    judge = ReadingJudge()
    judge.held.set()
    with serving_rewards(judge, limits=ServerLimits(timeout_s=0.2)) as url:
        late, early = score(url, "hold A", "A").body["results"]
        assert ask(f"{url}/health").body["pending_answers"] == 0
    assert (late["reward"], early["reward"]) == (None, 0.75)
    assert late["unscored"] == "not judged within the time limit of the request"


def test_a_stop_answers_what_was_taken_in() -> None:
    judge = ReadingJudge()
    judge.held.set()
    with ThreadPoolExecutor() as pool:
        with serving_rewards(judge) as url:
            waiting = pool.submit(score, url, "hold A")
            wait_until(lambda: judge.asked)
            pool.submit(lambda: (wait_until(lambda: _refuses(url)), judge.held.clear()))
        assert waiting.result().body["results"][0]["reward"] == 0.75


def _refuses(url: str) -> bool:
    try:
        ask(f"{url}/health")
    except OSError:
        return True
    return False


def test_metrics_count_requests_answers_and_what_judging_took() -> None:
    with serving_rewards() as url:
        score(url, "A", UNSCORED, HALF_KNOWN)
        ask(f"{url}/made/up")
        text = ask(f"{url}/metrics").body
    counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    wanted = {
        'rubric_rl_requests_total{path="/v1/score",status="200"}': 1,
        'rubric_rl_requests_total{path="other",status="404"}': 1,
        'rubric_rl_answers_total{outcome="scored"}': 2,
        'rubric_rl_answers_total{outcome="unscored"}': 1,
        'rubric_rl_unknown_verdicts_total{cause="timeout"}': 2,
        "rubric_rl_reward_count": 2,
        "rubric_rl_reward_sum": 1.75,
        "rubric_rl_judge_calls_total": 6,
        "rubric_rl_judge_tokens_total": 45,
        "rubric_rl_judge_cost_usd_total": 0.75,
        "rubric_rl_pending_answers": 0,
    }
    assert {name: float(counts[name]) for name in wanted} == wanted
