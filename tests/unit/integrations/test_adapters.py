"""The reward functions, called as each trainer calls them, with both sources of rewards."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from rubric_rl.errors import (
    ConfigError,
    DataError,
    EndpointError,
    JudgeFailureError,
    WorkerTimeoutError,
)
from rubric_rl.integrations import verl
from rubric_rl.integrations.local_rewards import LocalRewards
from rubric_rl.integrations.openrlhf import reward_func
from rubric_rl.integrations.remote_rewards import RemoteRewards
from rubric_rl.integrations.scored_answers import ScoreRequest
from rubric_rl.integrations.server import ServerLimits
from rubric_rl.integrations.trl import rubric_reward

from ..commands.conftest import ModelServer
from .judges import UNSCORED, ReadingJudge, serving_rewards, wait_until, write_prompts


@pytest.fixture
def rubrics(tmp_path: Path) -> str:
    return str(write_prompts(tmp_path / "prompts.jsonl"))


def _requests(*responses: str) -> list[ScoreRequest]:
    return [ScoreRequest(response=response, prompt_id="p1") for response in responses]


# ----------------------------------------------------------------------------
# Sources


def test_rewards_judged_here_are_those_of_a_server(rubrics: str) -> None:
    requests = _requests("A", "B", "A B", "") * 10
    local = LocalRewards(rubrics, ["judge=rules"])
    here = local.score(requests)
    local.close()
    with serving_rewards() as url:
        assert RemoteRewards(url).score(requests) == here
    assert [answer.reward for answer in here[:4]] == [0.75, 0.25, 1.0, 0.0]


def test_an_llm_judge_that_failed_is_asked_again_for_what_is_missing_only(
    tmp_path: Path, model_server: ModelServer
) -> None:
    path = write_prompts(tmp_path / "prompts.jsonl", rules=False)
    overrides = [o for o in model_server.overrides if not o.startswith("refinement")]
    overrides += ["judge.llm.mode=each", "judge.llm.max_retries=0"]
    local = LocalRewards(str(path), overrides)
    model_server.fails = lambda body: "Says A." in str(body)
    (failed,) = local.score(_requests("x"))
    model_server.fails = lambda _: False
    (whole,) = local.score(_requests("x"))
    local.close()
    # Without A, a quarter of the weight is judged.
    assert (failed.reward, failed.coverage) == (None, 0.25)
    assert failed.unscored is not None
    assert "a (" in failed.unscored
    assert (whole.reward, whole.coverage) == (1.0, 1.0)
    # The verdict on B was kept.
    assert sorted(model_server.counts("verdict")) == [1, 1]


def test_a_source_that_cant_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    path = write_prompts(tmp_path / "prompts.jsonl", rules=False)
    judge = ["judge=openai", "judge.llm.model=m", "judge.llm.base_url=http://127.0.0.1:9/v1"]
    judge += ["judge.llm.api_key_env=null"]
    with pytest.raises(EndpointError, match="can't be used"):
        LocalRewards(str(path), judge)
    assert threading.active_count() == before


def test_a_server_that_is_full_is_waited_for_and_one_that_isnt_there_is_named() -> None:
    judge = ReadingJudge()
    judge.held.set()
    with (
        serving_rewards(judge, limits=ServerLimits(max_pending=16)) as url,
        ThreadPoolExecutor() as pool,
    ):
        # 16 answers go out at once, and the 17th has to wait for them.
        waiting = pool.submit(RemoteRewards(url).score, _requests(*["hold A"] * 16))
        wait_until(lambda: judge.asked)
        with pytest.raises(WorkerTimeoutError, match=r"no rewards in 0.5 s: 16 answers wait"):
            RemoteRewards(url, timeout_s=0.5).score(_requests("B"))
        patient = pool.submit(RemoteRewards(url).score, _requests("B"))
        judge.held.clear()
        assert [answer.reward for answer in waiting.result()] == [0.75] * 16
        assert patient.result()[0].reward == 0.25
    with pytest.raises(EndpointError, match=f"no answer from the reward server {url}/v1/score"):
        RemoteRewards(url, timeout_s=0.1).score(_requests("A"))


def test_a_key_in_an_address_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        RemoteRewards("http://user:s3cret@host:8900")
    assert "s3cret" not in str(refused.value)


def test_a_trainer_that_hydra_runs_keeps_its_own(rubrics: str) -> None:
    with initialize_config_dir(config_dir=str(Path(rubrics).parent), version_base="1.3"):
        trainers = GlobalHydra.instance().hydra
        LocalRewards(rubrics, ["judge=rules"]).close()
        assert GlobalHydra.instance().hydra is trainers


# ----------------------------------------------------------------------------
# Settings


def test_rewards_come_from_one_place(monkeypatch: pytest.MonkeyPatch, rubrics: str) -> None:
    with pytest.raises(ConfigError, match="got neither"):
        rubric_reward()
    with pytest.raises(ConfigError, match="got both"):
        rubric_reward(url="http://host", rubrics=rubrics)
    with pytest.raises(ConfigError, match="a judge of its own"):
        rubric_reward(url="http://host", judge=["judge=rules"])
    with pytest.raises(ConfigError, match="'nan' is nothing for TRL"):
        rubric_reward(rubrics=rubrics, unscored="nan")
    with pytest.raises(ConfigError, match="'none' is nothing for verl: take error or nan"):
        verl.compute_score(**ROW, solution_str="A", url="http://host", unscored="none")
    # An argument hides the variable.
    monkeypatch.setenv("RUBRIC_RL_URL", "http://nowhere")
    reward = rubric_reward(rubrics=rubrics, judge=["judge=rules"])
    assert reward(["Question p1?"], ["A"]) == [0.75]


# ----------------------------------------------------------------------------
# OpenRLHF


def test_openrlhfs_reward_function_takes_three_lists(
    monkeypatch: pytest.MonkeyPatch, rubrics: str
) -> None:
    monkeypatch.setenv("RUBRIC_RL_RUBRICS", rubrics)
    monkeypatch.setenv("RUBRIC_RL_JUDGE", "judge=rules rubrics.reward=weighted_share")
    reply = reward_func(["Q?A</s>", "Q?B"], ["Q?", "Q?"], ["p1", "p2"])
    assert reply["rewards"] == reply["scores"] == [0.75, 0.25]
    with pytest.raises(DataError, match="'p9' is not among"):
        reward_func(["Q?A"], ["Q?"], ["p9"])


# ----------------------------------------------------------------------------
# verl: keywords as its reward managers pass them


ROW = {"data_source": "test", "ground_truth": ""}
EXTRA = {"prompt_id": "p1", "num_turns": 2, "rollout_reward_scores": {}}


def test_verls_reward_managers_get_a_score_for_one_answer(rubrics: str) -> None:
    settings = {"rubrics": rubrics, "judge": ["judge=rules"]}
    one = verl.compute_score(**ROW, solution_str="A", extra_info=EXTRA, **settings)
    assert one == {"score": 0.75, "rubric_coverage": 1.0}
    # What a reward loop with a reward model hands on.
    router = {"reward_router_address": "host:1", "reward_model_tokenizer": None}
    two = verl.compute_score(**ROW, solution_str="B", extra_info=EXTRA, **router, **settings)
    assert two["score"] == 0.25


def test_verls_batch_manager_gets_a_score_for_each_answer() -> None:
    batch = {"data_sources": ["t"] * 3, "ground_truths": [""] * 3, "extra_infos": [EXTRA] * 3}
    answers = ["A", UNSCORED, "B"]
    with serving_rewards() as url:
        with pytest.raises(JudgeFailureError, match="1 of 3"):
            verl.compute_score_batch(solution_strs=answers, **batch, url=url)
        with_nan = verl.compute_score_batch(solution_strs=answers, **batch, url=url, unscored="nan")
        filled = verl.compute_score_batch(
            solution_strs=answers, **batch, url=url, unscored="group_mean"
        )
    assert math.isnan(with_nan[1]["score"] or 0.0)
    # The mean of 0.75 and 0.25; coverage still tells that it is no score.
    assert [row["score"] for row in filled] == [0.75, 0.5, 0.25]
    assert [row["rubric_coverage"] for row in filled] == [1.0, 0.25, 1.0]


def test_verls_row_must_name_its_prompt(rubrics: str) -> None:
    for extra_info in (None, {"index": 3}):
        with pytest.raises(DataError, match=r"extra_info.prompt_id is None"):
            verl.compute_score(**ROW, solution_str="A", extra_info=extra_info, rubrics=rubrics)


def test_a_misspelt_setting_of_verl_is_no_silent_default(rubrics: str) -> None:
    with pytest.raises(TypeError, match="rubric_file"):
        verl.compute_score(**ROW, solution_str="A", extra_info=EXTRA, rubric_file=rubrics)


# ----------------------------------------------------------------------------
# TRL: keywords as GRPOTrainer passes them


def test_trl_calls_with_prompts_completions_and_columns(rubrics: str) -> None:
    reward = rubric_reward(rubrics=rubrics, judge=["judge=rules"])
    assert reward.__name__ == "rubric_reward"
    conversations = [[{"role": "user", "content": f"Question {i}?"}] for i in ("p1", "p2")]
    completions = [[{"role": "assistant", "content": text}] for text in ("A", "B")]
    trainer = {"completion_ids": [[1], [2]], "trainer_state": None}
    by_id = reward(
        prompts=conversations, completions=completions, prompt_id=["p2", "p1"], **trainer
    )
    by_words = reward(prompts=conversations, completions=completions, **trainer)
    plain = reward(prompts=["Question p1?"], completions=["A B"], domain=["test"])
    assert (by_id, by_words, plain) == ([0.75, 0.25], [0.75, 0.25], [1.0])


def test_trl_gets_the_last_turn_of_several_and_an_error_without_any(rubrics: str) -> None:
    reward = rubric_reward(rubrics=rubrics, judge=["judge=rules"])
    turns = [("assistant", "A"), ("tool", "A"), ("assistant", "B")]
    completion = [{"role": role, "content": text} for role, text in turns]
    assert reward(["Question p1?"], [completion]) == [0.25]
    with pytest.raises(DataError, match="no text of the assistant"):
        reward(["Question p1?"], [completion[1:2]])


def test_trl_gets_none_for_an_answer_without_a_reward_if_it_leaves_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving_rewards() as url:
        asked = (["Question p1?"] * 2, ["A", UNSCORED])
        assert rubric_reward(url=url)(*asked) == [0.75, None]
        assert rubric_reward(url=url, unscored="group_mean")(*asked) == [0.75, 0.75]
        with pytest.raises(JudgeFailureError, match="1 of 2"):
            rubric_reward(url=url, unscored="error")(*asked)
    monkeypatch.setattr("rubric_rl.integrations.trl.version", lambda _: "1.5.0.dev0")
    with pytest.raises(ConfigError, match=r"TRL 1.5.0.dev0 may take the None"):
        rubric_reward(url=url)
    rubric_reward(url=url, unscored="error")
