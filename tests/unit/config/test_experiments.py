"""Every file under configs/ composes, validates and plans its placement."""

import math

import pytest

from rubric_rl.config.compose import compose, config_dir
from rubric_rl.runtime.placement import check_plan, plan_placement

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in config_dir().glob("*/*.yaml")
    if path.parent.name != "experiment"
)
TWO_CORES = {"CPU": 2.0}
GPU_NODE = {"CPU": 64.0, "GPU": 8.0}

# What an option needs beside it to make a whole.
COMPANIONS = {
    "learner=zero3_offload": ["cluster=gpu_disaggregated"],
    "judge=reward_model": ["judge.reward_model.path=models/rm"],
}
LONG_PROMPTS = ["learner.micro_batch_tokens=4096"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_fits_its_machine(name: str) -> None:
    config = compose([f"experiment={name}"])
    node = TWO_CORES if config.cluster.device == "cpu" else GPU_NODE
    check_plan(plan_placement(config), node, [node])
    assert config.run.name == name


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_composes(option: str) -> None:
    plan_placement(compose([option, *LONG_PROMPTS, *COMPANIONS.get(option, [])]))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_hold_overrides_of_the_whole_configuration(name: str) -> None:
    text = (config_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n")


def test_every_config_file_says_what_it_is_for() -> None:
    for path in config_dir().rglob("*.yaml"):
        assert path.read_text(encoding="ascii").startswith("#"), path


@pytest.mark.parametrize(
    ("name", "num_prompts", "expected_steps"),
    # ceil(5000 / 96) = 53 steps an epoch, twice; ceil(1147 / 96) = 12, cut at 320.
    [("paper_health", 5000, 106), ("paper_generalist", 5000, 106), ("paper_finance", 1147, 320)],
)
def test_paper_experiments_take_the_papers_number_of_steps(
    name: str, num_prompts: int, expected_steps: int
) -> None:
    config = compose([f"experiment={name}"])
    steps = math.ceil(num_prompts / config.rollout.prompts_per_step) * config.run.epochs
    assert min(steps, config.run.max_steps or steps) == expected_steps


@pytest.mark.parametrize("name", ["paper_health", "paper_generalist", "paper_finance"])
def test_paper_experiments_have_the_papers_settings(name: str) -> None:
    config = compose([f"experiment={name}"])
    assert config.model.name_or_path == "Qwen/Qwen3-8B-Base"
    assert (config.learner.num_workers, config.learner.zero_stage) == (8, 3)
    assert (config.learner.learning_rate, config.learner.warmup_frac) == (1e-5, 0.1)
    # 6 prompts per device x 2 accumulation x 8 devices
    assert config.rollout.prompts_per_step == 6 * 2 * 8
    assert config.rollout.samples_per_prompt == 16
    assert config.rollout.temperature == 1.0
    assert config.algorithm.kl_coef == 0.01
    assert config.max_sequence_tokens == 3584
    assert config.rubrics.reward == "weighted_share"
    assert config.judge.llm is not None
    assert (config.judge.llm.model, config.judge.llm.api_key_env) == (
        "gpt-4.1-mini",
        "OPENAI_API_KEY",
    )


def test_the_quickstart_takes_twelve_steps_of_thirty_two_samples() -> None:
    config = compose(["experiment=quickstart_cpu"])
    num_train_prompts = config.data.max_train_prompts
    assert num_train_prompts is not None
    assert num_train_prompts * config.run.epochs / config.rollout.prompts_per_step == 12
    assert config.rollout.prompts_per_step * config.rollout.samples_per_prompt == 32
    assert config.max_sequence_tokens == 128 + 64


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("paper_health_rm_on", "on_policy"),
        ("paper_health_rm_off", "off_policy"),
        ("paper_health_rm_both", "both"),
    ],
)
def test_the_papers_reward_models_have_the_settings_of_table_7(name: str, use: str) -> None:
    config = compose([f"experiment={name}"])
    assert config.model.name_or_path == "meta-llama/Llama-3.1-8B-Instruct"
    assert (config.learner.learning_rate, config.learner.warmup_frac) == (1e-5, 0.1)
    assert (config.learner.schedule, config.run.epochs) == ("cosine", 10)
    # 4 pairs per device x 4 accumulation x 8 devices
    assert config.bradley_terry.pairs_per_step == 4 * 4 * 8
    assert config.bradley_terry.max_tokens == 8192
    assert (config.bradley_terry.use, config.bradley_terry.pairs_per_prompt) == (use, 1)


def test_the_papers_sft_has_two_answers_a_prompt_and_its_reward_model_trains_as_table_4() -> None:
    assert compose(["experiment=paper_health_sft"]).sft.top_k == 2
    on_model, on_rubrics = (
        compose([f"experiment={name}"]) for name in ("paper_health_rm_grpo", "paper_health")
    )
    assert on_model.judge.llm is None and on_model.judge.reward_model is not None
    assert on_model.rollout.prompts_per_step == on_rubrics.rollout.prompts_per_step
    assert on_model.algorithm == on_rubrics.algorithm
