"""`learner.dtype=auto` becomes a type that the hardware has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rubric_rl.config.compose import compose
from rubric_rl.config.number_type import with_number_type

OLD = "processor\t: 0\nflags\t\t: fpu avx avx2 fma\n"
NEW = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
LISTED_ELSEWHERE = "processor\t: 0\nflags\t\t: fpu avx2\nvmx flags\t: amx_bf16\n"


@pytest.mark.parametrize(
    ("device", "cpuinfo", "expected"),
    [
        ("cpu", OLD, "float32"),
        ("cpu", NEW, "bfloat16"),
        ("cpu", LISTED_ELSEWHERE, "float32"),
        ("cpu", None, "float32"),
        ("gpu", OLD, "bfloat16"),
    ],
)
def test_the_type_is_the_hardwares(
    tmp_path: Path, device: str, cpuinfo: str | None, expected: str
) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo, encoding="utf-8")
    received = {"learner": {"dtype": "auto", "packing": True}, "cluster": {"device": device}}
    found: Any = with_number_type(received, path)
    assert found["learner"] == {"packing": True, "dtype": expected}
    assert found["cluster"] == {"device": device}


@pytest.mark.parametrize(
    "received", [{}, {"learner": {}}, {"learner": 3}, {"learner": {"dtype": "float16"}}]
)
def test_what_is_named_or_wrong_is_left_to_the_schema(received: dict[str, object]) -> None:
    assert with_number_type(received) == received


def test_auto_is_resolved_when_a_configuration_is_composed() -> None:
    base = ["experiment=quickstart_cpu", "learner.dtype=auto"]
    assert compose(base).learner.dtype in ("float32", "bfloat16")
    gpu = ["experiment=paper_health", "data.path=x", "learner.dtype=auto"]
    assert compose(gpu).learner.dtype == "bfloat16"
