"""Shared by the end-to-end tests: the converted small model."""

from pathlib import Path

import pytest

from rubric_rl.data.small_model import prepare_small_model


@pytest.fixture(scope="session")
def small_model_dir() -> Path:
    return prepare_small_model()
