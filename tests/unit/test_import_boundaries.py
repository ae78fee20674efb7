"""Which package may import which, read from the source and tried in a fresh process."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rubric_rl

PACKAGE = Path(rubric_rl.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

FOUNDATION = {"types", "errors", "config"}
SECOND = {"algorithms", "rubrics", "data", "observability"}
THEORY = {"theory", "plots"}
THIRD = {"judging", "learner", "rollout", "weight_sync"}

# Parts of the package that each part may import, beside itself.
ALLOWED = {
    "__init__": set[str](),
    "types": {"errors"},
    "errors": set[str](),
    "config": FOUNDATION,
    **dict.fromkeys(SECOND, FOUNDATION | SECOND),
    "observability": FOUNDATION | SECOND | {"refinement"},
    "refinement": FOUNDATION | SECOND,
    **dict.fromkeys(THIRD, FOUNDATION | SECOND | THIRD | {"refinement"}),
    "theory": {"errors"},
    "lab": FOUNDATION | SECOND | {"refinement"},
    "plots": {"theory", "evaluation", "lab"},
    "evaluation": FOUNDATION | SECOND | {"judging", "refinement"},
    "paper_tables": FOUNDATION | SECOND | {"evaluation", "judging", "refinement"},
    "controller": FOUNDATION | SECOND | {"refinement"},
    "run_report": FOUNDATION | SECOND | {"controller", "evaluation", "refinement"},
    "baselines": FOUNDATION | SECOND | {"controller", "learner", "refinement"},
    "runtime": FOUNDATION | SECOND | THIRD | {"baselines", "controller", "refinement"},
    "planning": FOUNDATION | {"controller", "judging"},
    "doctor": FOUNDATION | {"observability"},
    "train": FOUNDATION | SECOND | THIRD | {"controller", "runtime", "cli"},
    "commands": FOUNDATION
    | SECOND
    | THIRD
    | THEORY
    | {"baselines", "controller", "doctor", "evaluation", "lab", "paper_tables", "planning"}
    | {"refinement", "run_report", "runtime"},
    "integrations": FOUNDATION | SECOND | {"judging", "commands"},
    "cli": {"__init__", "errors", "train", "commands", "integrations", "observability"},
}
# A criterion carries its rule, so the nouns need this one module. A run that ends by the
# decline of gold goes by the rule that reports go by.
EXCEPTIONS = {
    ("types", "rubric_rl.rubrics.rules"),
    ("controller", "rubric_rl.evaluation.overoptimisation"),
}

# Third-party packages that only these parts may import, wherever the import stands.
ONLY_IN = {
    "ray": {"runtime"},
    "wandb": {"observability"},
    "wandb_workspaces": {"observability"},
    "tensorboard": {"observability"},
    "deepspeed": {"learner"},
    "vllm": {"rollout", "weight_sync"},
    "matplotlib": {"plots"},
    "fastapi": {"integrations"},
    "starlette": {"integrations"},
    "uvicorn": {"integrations"},
    "prometheus_client": {"integrations"},
}

HEAVY = ("torch", "ray", "vllm", "deepspeed", "wandb", "transformers", "tensorboard")


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth; `from a import b` gives `a.b` too."""
    package = _module(path) if path.name == "__init__.py" else _module(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _our_parts(path: Path) -> set[str]:
    """Parts of the package that a file imports, exceptions and itself left out."""
    names = [name.split(".") for name in _imports(path) if name.startswith("rubric_rl.")]
    excepted = {module for part, module in EXCEPTIONS if part == _part(path)}
    return {
        parts[1]
        for parts in names
        if not any(f"{'.'.join(parts)}.".startswith(f"{module}.") for module in excepted)
        and not parts[1].startswith("__")
    } - {_part(path)}


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_a_part_imports_only_from_the_layers_below(path: Path) -> None:
    part = _part(path)
    assert part in ALLOWED, f"give the new part {part!r} its place in ALLOWED"
    assert _our_parts(path) - ALLOWED[part] == set()


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_engines_are_imported_only_by_the_parts_that_wrap_them(path: Path) -> None:
    imported = {name.split(".")[0] for name in _imports(path)}
    strays = {name for name in imported & set(ONLY_IN) if _part(path) not in ONLY_IN[name]}
    assert strays == set()


def _heavy_after(statement: str) -> str:
    code = f"import sys\n{statement}\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "rubric_rl.controller.interfaces",
        "rubric_rl.config.compose",
        "rubric_rl.runtime.placement",
        "rubric_rl.commands.report",
        "rubric_rl.integrations.serve",
        "rubric_rl.integrations.local_rewards",
        "rubric_rl.commands.plan",
    ],
)
def test_importing_the_light_modules_brings_in_no_engine(module: str) -> None:
    assert _heavy_after(f"import {module}") == "[]"


@pytest.mark.parametrize("part", ["controller", "baselines"])
def test_importing_the_whole_controller_brings_in_no_engine(part: str) -> None:
    modules = [_module(path) for path in FILES if _part(path) == part]
    assert _heavy_after("\n".join(f"import {module}" for module in modules)) == "[]"


def test_a_stray_import_would_be_found() -> None:
    assert _heavy_after("import wandb") == "['wandb']"
