"""Fixtures that tests of the commands use too."""

from __future__ import annotations

import pytest

from ..commands.conftest import model_server  # noqa: F401


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("URL", "API_KEY", "RUBRICS", "JUDGE", "UNSCORED"):
        monkeypatch.delenv(f"RUBRIC_RL_{name}", raising=False)
