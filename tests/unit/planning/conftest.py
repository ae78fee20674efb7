"""The paper's policy, as most tests here look at it."""

from __future__ import annotations

import pytest

from rubric_rl.planning.known_models import known_shape
from rubric_rl.planning.model_shape import ModelShape


@pytest.fixture(scope="session")
def qwen() -> ModelShape:
    shape = known_shape("Qwen/Qwen3-8B-Base")
    assert shape is not None
    return shape
