"""Overrides in, a validated configuration or an error in words out."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rubric_rl
from rubric_rl.config.compose import compose, config_dir, to_yaml
from rubric_rl.config.schema import Config
from rubric_rl.errors import ConfigError


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return str(caught.value)


# ----------------------------------------------------------------------------
# What may be overridden


def test_no_override_gives_a_valid_configuration() -> None:
    assert compose([]).model.name_or_path == "builtin:smollm2"


def test_a_field_that_no_yaml_mentions_is_overridden_without_a_plus() -> None:
    assert compose(["learner.weight_decay=0.1"]).learner.weight_decay == 0.1


def test_a_plus_before_a_value_or_a_group_changes_nothing() -> None:
    config = compose(["+run.seed=3", "++run.epochs=2", "+experiment=quickstart_cpu"])
    assert (config.run.seed, config.run.epochs, config.run.name) == (3, 2, "quickstart_cpu")


def test_a_section_that_is_null_is_filled_by_its_values() -> None:
    llm = compose(["judge.llm.base_url=http://localhost:8000/v1", "judge.llm.model=m"]).judge.llm
    assert llm is not None
    assert (llm.base_url, llm.model, llm.api_key_env) == ("http://localhost:8000/v1", "m", None)


def test_a_whole_section_may_be_given_at_once() -> None:
    assert compose(["run={seed: 4, epochs: 2}"]).run.seed == 4


def test_values_win_over_the_experiment_and_the_experiment_over_groups() -> None:
    config = compose(["rollout.samples_per_prompt=3", "experiment=paper_health"])
    assert config.rollout.samples_per_prompt == 3
    assert config.model.name_or_path == "Qwen/Qwen3-8B-Base"


def test_a_group_choice_wins_over_the_experiment() -> None:
    assert compose(["experiment=paper_health", "model=smollm2"]).model.name_or_path == (
        "builtin:smollm2"
    )


def test_the_run_folder_is_named_after_the_run_and_the_time() -> None:
    folder = compose(["run.name=abc"]).run.dir
    assert Path(folder).parent == Path("runs")
    assert folder.startswith("runs/abc-2")
    assert "$" not in folder


def test_a_folder_of_ones_own_adds_experiments(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nrun: {name: mine}\n")
    assert compose([f"hydra.searchpath=[{tmp_path}]", "experiment=mine"]).run.name == "mine"


# ----------------------------------------------------------------------------
# Unknown keys


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "learner.lerning_rate=1",
            "learner.lerning_rate is not a known key: did you mean learner.learning_rate?",
        ),
        (
            "lerner.learning_rate=1",
            "lerner.learning_rate is not a known key: did you mean learner.learning_rate?",
        ),
        (
            "rollout.kl_coef=1",
            "rollout.kl_coef is not a known key: did you mean algorithm.kl_coef?",
        ),
        (
            "logging.wandb.projekt=x",
            "logging.wandb.projekt is not a known key: did you mean logging.wandb.project?",
        ),
        (
            "logging.wandb.zzz=x",
            "logging.wandb.zzz is not a known key: "
            "logging.wandb takes mode, project, entity, rubric_artifacts, checkpoint_artifacts",
        ),
        (
            "q.zzz=1",
            "q.zzz is not a known key: the sections are run, model, learner, rollout, judge, "
            "rubrics, refinement, algorithm, data, gold, sft, bradley_terry, cluster, logging",
        ),
        ("modle=smollm2", "modle is not a known config group or section: did you mean model?"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(override: str, expected: str) -> None:
    assert message(override) == expected


def test_a_key_that_is_unknown_in_a_yaml_file_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "mine.yaml").write_text("zero_stagee: 3\n")
    assert message(f"hydra.searchpath=[{tmp_path}]", "learner=mine") == (
        "learner.zero_stagee is not a known key: did you mean learner.zero_stage?"
    )


def test_the_value_of_an_unknown_key_is_not_repeated() -> None:
    text = message("judge=openai", "judge.llm.api_key=sk-secret")
    assert text == "judge.llm.api_key is not a known key: did you mean judge.llm.api_key_env?"


# ----------------------------------------------------------------------------
# Wrong values


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "learner.learning_rate=fast",
            "learner.learning_rate='fast' is not allowed: it must be a valid number, unable to "
            "parse string as a number",
        ),
        ("learner.zero_stage=4", "learner.zero_stage=4 is not allowed: it must be 1, 2 or 3"),
        (
            "learner.learning_rate=inf",
            "learner.learning_rate=inf is not allowed: it must be a finite number",
        ),
        (
            "rollout.samples_per_prompt=1",
            "rollout.samples_per_prompt=1 is not allowed: it must be greater than or equal to 2",
        ),
        (
            "rollout.num_workers=true",
            "rollout.num_workers=True is not allowed: it must be a value, not a flag",
        ),
        (
            "learner.zero_stage=true",
            "learner.zero_stage=True is not allowed: it must be a value, not a flag",
        ),
        (
            "run.name=2024",
            "run.name=2024 is not allowed: it must be text, which a shell takes as "
            "run.name='\"2024\"'",
        ),
        (
            "run.dir=''",
            "run.dir='' is not allowed: string should have at least 1 character",
        ),
        (
            "logging.wandb=yes",
            "logging.wandb='yes' is not allowed: it is a section of mode, project, "
            "entity, rubric_artifacts, checkpoint_artifacts",
        ),
        (
            "judge.llm.model=x",
            "judge.llm.backend='openai' needs judge.llm.base_url: give an address like "
            "http://localhost:8000/v1",
        ),
    ],
)
def test_a_wrong_value_says_what_was_received_and_what_is_allowed(
    override: str, expected: str
) -> None:
    assert message(override) == expected


def test_a_quoted_number_is_text() -> None:
    assert compose(['run.name="2024"']).run.name == "2024"


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(message(f"learner.dtype={'x' * 5000}")) < 300


def test_all_problems_are_listed_at_once() -> None:
    assert message("run.epochs=2.5", "learner.zero_stage=4", "data.pth=x") == (
        "3 problems in the configuration:\n"
        "  - run.epochs=2.5 is not allowed: it must be a valid integer, got a number with a "
        "fractional part\n"
        "  - learner.zero_stage=4 is not allowed: it must be 1, 2 or 3\n"
        "  - data.pth is not a known key: did you mean data.path?"
    )


# ----------------------------------------------------------------------------
# Hydra's own errors


def test_an_unknown_option_lists_the_options() -> None:
    assert message("model=gpt") == (
        "model=gpt is not an option: choose model from qwen3_8b_base, smollm2"
    )


@pytest.mark.parametrize("override", ["judge=null", "judge={llm: null}"])
def test_a_group_that_is_given_a_value_lists_the_options(override: str) -> None:
    assert message(override) == (
        f"override {override!r} is not an option: choose judge from likert, "
        "litellm, openai, reward_model, rules, vllm; "
        "a single value has a dotted key, as in learner.dtype=bfloat16"
    )


@pytest.mark.parametrize("override", ["foo", "run.dir=a=b", "run.seed=[1"])
def test_an_override_that_does_not_parse_is_repeated_with_the_syntax(override: str) -> None:
    assert message(override).startswith(f"override {override!r} can't be read: write key=value")


def test_several_values_for_one_key_are_refused() -> None:
    assert message("run.seed=1,2").startswith("override 'run.seed=1,2' gives several values")


def test_hydra_settings_without_effect_are_refused() -> None:
    assert message("hydra.run.dir=x").endswith("and the run folder is run.dir")


def test_a_reference_to_nothing_names_the_key_that_has_it() -> None:
    assert message("run.dir=${run.nam}") == "run.dir: Interpolation key 'run.nam' not found"


def test_a_deleted_value_that_was_not_there_is_refused() -> None:
    assert "'learner.weight_decay' does not exist" in message("~learner.weight_decay")


def test_a_file_that_is_not_yaml_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "broken.yaml").write_text("a: [1\n")
    text = message(f"hydra.searchpath=[{tmp_path}]", "model=broken")
    assert text.startswith("a config file is not valid YAML")
    assert "broken.yaml" in text


def test_resuming_into_a_folder_that_is_new_in_each_run_is_refused() -> None:
    assert message("run.resume=auto").startswith("run.resume=auto looks for a checkpoint")
    assert compose(["run.resume=auto", "run.dir=runs/x"]).run.resume == "auto"


# ----------------------------------------------------------------------------
# Output and packaging


def test_yaml_holds_every_value_in_the_order_of_the_schema() -> None:
    config = compose(["experiment=paper_health"])
    read = yaml.safe_load(to_yaml(config))
    assert Config.model_validate(read) == config
    assert list(read) == list(Config.model_fields)
    assert list(read["learner"]) == list(type(config.learner).model_fields)


def test_yaml_does_not_hold_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    text = to_yaml(compose(["experiment=paper_health"]))
    assert "OPENAI_API_KEY" in text
    assert "sk-secret-0123456789" not in text


def _installed_copy(folder: Path) -> Path:
    source = Path(rubric_rl.__file__).parent
    shutil.copytree(source, folder / "rubric_rl", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "rubric_rl"


def _printed_config(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rubric_rl.train", "--cfg", "job"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_an_installed_package_carries_its_config_files(tmp_path: Path) -> None:
    shutil.copytree(config_dir(), _installed_copy(tmp_path) / "_configs")
    result = _printed_config(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_package_without_config_files_says_so(tmp_path: Path) -> None:
    _installed_copy(tmp_path)
    result = _printed_config(tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: no train.yaml in ")
