"""What DeepSpeed's own parser makes of our configuration, and the warm-up."""

from __future__ import annotations

from typing import Any

import pytest
from deepspeed.runtime.config import DeepSpeedConfig

from rubric_rl.config.schema import LearnerConfig
from rubric_rl.learner.deepspeed_config import deepspeed_config, reference_deepspeed_config
from rubric_rl.learner.policy import schedule_factor


def parsed(device_type: str = "cpu", **overrides: Any) -> DeepSpeedConfig:
    return DeepSpeedConfig(deepspeed_config(LearnerConfig(**overrides), device_type))


def parsed_reference(**overrides: Any) -> DeepSpeedConfig:
    return DeepSpeedConfig(reference_deepspeed_config(LearnerConfig(**overrides)))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_zero_stage_reaches_deepspeed(stage: int) -> None:
    assert parsed(zero_stage=stage).zero_config.stage == stage


def test_the_learner_owns_the_accumulation_boundary() -> None:
    config = parsed()
    assert config.managed_gradient_accumulation is False
    # Else DeepSpeed would divide the loss once more.
    assert config.gradient_accumulation_steps == 1


def test_gradients_are_clipped_to_the_configured_norm() -> None:
    assert parsed(max_grad_norm=0.3).gradient_clipping == 0.3


@pytest.mark.parametrize(("dtype", "enabled"), [("float32", False), ("bfloat16", True)])
def test_bfloat16_is_on_when_it_is_the_learners_type(dtype: str, enabled: bool) -> None:
    assert parsed(dtype=dtype).bfloat16_config.enabled is enabled
    assert parsed_reference(dtype=dtype).bfloat16_config.enabled is enabled


def test_the_optimizer_is_offloaded_only_when_asked_for() -> None:
    assert parsed().zero_config.offload_optimizer is None
    offload = parsed("cuda", offload_optimizer=True).zero_config.offload_optimizer
    assert offload is not None and offload.device == "cpu"


@pytest.mark.parametrize(("device_type", "sequential"), [("cpu", True), ("cuda", False)])
def test_gloo_gathers_one_parameter_after_the_other(device_type: str, sequential: bool) -> None:
    assert parsed(device_type, zero_stage=3).zero_config.allgather_sequential is sequential


def test_the_reference_is_sharded_by_stage_3_whatever_it_takes() -> None:
    assert parsed_reference().zero_config.stage == 3


def test_warm_up_rises_linearly_from_its_first_share_and_stays_at_one() -> None:
    # 4 steps of warm-up: 1/4, 2/4, 3/4, 1, 1
    assert [schedule_factor(step, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert schedule_factor(0, 0) == 1.0
