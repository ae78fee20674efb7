"""The READMEs tell what is true: tables, settings, metrics, files and code."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from rubric_rl.cli import _COMMANDS, main
from rubric_rl.config.compose import compose, config_dir, groups
from rubric_rl.config.guide import field_guide, with_field_guide
from rubric_rl.config.problems import known_keys
from rubric_rl.config.schema import Config
from rubric_rl.errors import DataError
from rubric_rl.observability.metrics import METRICS, NAMES, markdown_table
from rubric_rl.types import FailureCause

from ..readmes import READMES, ROOT, blocks, inline, name_of, text_of

PACKAGES = ROOT / "rubric_rl"
ROOT_README = text_of(ROOT / "README.md")
PLANNING = PACKAGES / "planning" / "README.md"

each_readme = pytest.mark.parametrize("path", READMES, ids=name_of)

_KEYS = "|".join(Config.model_fields)
_SETTING = re.compile(rf"((?:{_KEYS})(?:\.\w+)+)(?:=(\S+))?")
_CHOICE = re.compile(rf"\+?({'|'.join(groups())})=(\w+)")
_METRIC = re.compile(rf"(?:{'|'.join(sorted({m.name.split('/')[0] for m in METRICS}))})/\w+(/\w+)?")


# ----------------------------------------------------------------------------
# Tables made from the code


def test_the_metrics_table_is_the_list_of_metrics():
    assert markdown_table().strip() in text_of(PACKAGES / "observability" / "README.md")


def test_the_table_of_settings_is_the_schema():
    """If it isn't: python -m rubric_rl.config.guide rubric_rl/config/README.md."""
    text = text_of(PACKAGES / "config" / "README.md")
    assert with_field_guide(text) == text


def test_every_setting_has_a_row_with_its_meaning():
    guide = field_guide().replace("[]", "")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| .* \| (.*) \|$", guide, re.MULTILINE))
    # Chat models are described once.
    shown = {key.replace("gold.llm.", "judge.llm.") for key in known_keys()}
    shown = {key.replace("refinement.proposer.llm.", "judge.llm.") for key in shown}
    assert {key for key in shown if not rows.get(key)} == set()


def test_a_row_tells_what_is_allowed_and_the_default():
    guide = field_guide()
    assert "| `run.epochs` | whole number >= 1 | `1` | Passes over the training prompts. |" in guide
    assert "| `run.dir` | text | required | " in guide
    assert "| `learner.warmup_frac` | number >= 0 and <= 1 | `0.1` | " in guide
    assert "| `learner.zero_stage` | `1`, `2`, `3` | `2` | " in guide
    assert "| `run.max_steps` | whole number >= 1, or null | `null` | " in guide


def test_a_document_without_the_marks_is_refused():
    with pytest.raises(DataError, match="begin"):
        with_field_guide("# Configuration\n")


# ----------------------------------------------------------------------------
# What is named exists


def _settings(path: Path) -> list[tuple[str, str | None]]:
    found = [m for word in inline(path) if (m := _SETTING.fullmatch(word))]
    return [(m[1], m[2]) for m in found if not m[1].endswith(".py")]


def _fits(key: str, text: str) -> bool:
    """Whether a value may stand at a key, by the field alone."""
    model: type = Config
    *sections, name = key.split(".")
    for section in sections:
        model = _section(model, section)
    field = model.model_fields[name]
    value = {"true": True, "false": False, "null": None}.get(text, text)
    try:
        number = json.loads(text) if re.fullmatch(r"-?[\d.e+-]+", text) else value
        TypeAdapter(field.annotation).validate_python(number)
    except ValueError:
        return False
    return True


def _section(model: type, name: str) -> type:
    annotation = model.model_fields[name].annotation
    parts = (annotation, *getattr(annotation, "__args__", ()))
    return next(part for part in parts if hasattr(part, "model_fields"))


@each_readme
def test_every_setting_in_backquotes_exists(path: Path):
    prefixes = {key[:i] for key in known_keys() for i, c in enumerate(key) if c == "."}
    named = {key for key, _ in _settings(path)}
    assert named - set(known_keys()) - prefixes == set()


@each_readme
def test_every_value_in_backquotes_is_allowed(path: Path):
    wrong = [
        f"{key}={value}" for key, value in _settings(path) if value and not _is_allowed(key, value)
    ]
    assert wrong == []


def _is_allowed(key: str, value: str) -> bool:
    placeholder = value.isupper() or value.startswith("[") or value == "..."
    # Replaced by what the hardware has before the schema sees it.
    is_composed = (key, value) == ("learner.dtype", "auto")
    return placeholder or is_composed or _fits(key, value)


@each_readme
def test_every_option_of_a_group_exists(path: Path):
    chosen = [m.groups() for word in inline(path) if (m := _CHOICE.fullmatch(word))]
    missing = [
        f"{group}={option}"
        for group, option in chosen
        if not (config_dir() / group / f"{option}.yaml").is_file()
    ]
    # What a reader adds by the worked example.
    assert set(missing) <= ({"algorithm=median"} if path.parent.name == "algorithms" else set())


@each_readme
def test_every_metric_in_backquotes_is_logged(path: Path):
    named = {word for word in inline(path) if _METRIC.fullmatch(word)}
    folders = {word for word in named if (ROOT / word).exists()}
    assert named - folders - NAMES == set()


@each_readme
def test_every_command_in_backquotes_exists(path: Path):
    named = {word.split()[1] for word in inline(path) if word.startswith("rubric-rl ")}
    assert {word for word in named if word.islower()} - set(_COMMANDS) == set()


@each_readme
def test_every_link_leads_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        name, _, heading = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        if heading:
            assert heading in _anchors(file), target


def _anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_message_of_the_troubleshooting_is_one_of_ours():
    (readme,) = [path for path in READMES if path.parent.name == "doctor"]
    symptoms = re.findall(r"^\| `([^`]* [^`]*)` \|", text_of(readme), re.MULTILINE)
    sources = [*PACKAGES.rglob("*.py"), *(ROOT / "launch").glob("*.sh")]
    said = "\n".join(text_of(path) for path in sources)
    parts = [part for symptom in symptoms for part in symptom.split("...") if part.strip()]
    assert len(symptoms) >= 4
    assert [part for part in parts if part not in said] == []


def test_every_cause_of_an_unknown_verdict_has_a_remedy():
    (readme,) = [path for path in READMES if path.parent.name == "doctor"]
    table = text_of(readme).partition("### Verdicts that are UNKNOWN")[2]
    first_cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    named = [cause for cell in first_cells for cause in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(cause.value for cause in FailureCause)


@each_readme
def test_a_readme_is_plain_text(path: Path):
    assert text_of(path).isascii()


def test_every_package_readme_can_be_reached_from_the_root():
    unreached = [name_of(p) for p in READMES if f"]({name_of(p)})" not in ROOT_README]
    assert unreached == ["README.md"]


def test_the_tree_of_files_is_that_of_the_checkout():
    (tree,) = [block for block in blocks(ROOT / "README.md", "") if "rubric_rl/\n" in block]
    folder, named = ROOT, set[Path]()
    for line in tree.splitlines():
        names = re.match(r"( {0,2})([\w./]+(?:, [\w./]+)*)(?=\s|$)", line)
        if names is None:
            continue  # the rest of a remark
        base = folder if names[1] else ROOT
        named |= {base / name for name in names[2].split(", ")}
        folder = folder if names[1] else ROOT / names[2]
    assert {path for path in named if not path.exists()} == set()
    packages = {path.parent for path in PACKAGES.glob("*/__init__.py")}
    assert packages - named == set()


# ----------------------------------------------------------------------------
# Worked examples


@each_readme
def test_python_runs(path: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for body in blocks(path, "python"):
        if "import GRPOTrainer" in body:  # TRL is not installed: what is ours of it
            body = "\n".join(re.findall(r"^from rubric_rl.*$", body, re.MULTILINE))
            assert body
        exec(compile(body, name_of(path), "exec"), {"__name__": "example"})


def test_the_prompts_of_the_example_have_no_fault(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (body,) = blocks(PACKAGES / "data" / "README.md", "python")
    exec(body, {"__name__": "example"})
    assert main(["rubrics", "lint", "prompts.jsonl"]) == 0
    assert main(["rubrics", "show", "prompts.jsonl", "sleep-1"]) == 0


def test_a_judge_of_ones_own_grades(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for package in ("data", "judging"):
        example: dict = {"__name__": "example"}
        (body,) = blocks(PACKAGES / package / "README.md", "python")
        exec(body, example)
    answers = ["Avoid screens before bed. It advises.", "I don't know."]
    rows = [{"id": f"a{i}", "prompt_id": "sleep-1", "response": a} for i, a in enumerate(answers)]
    Path("answers.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with ThreadingHTTPServer(("127.0.0.1", 0), example["Judge"]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = ["judge", "answers.jsonl", "--rubrics", "prompts.jsonl", "--out", "own.jsonl"]
        words += ["judge=openai", "judge.llm.model=own", "judge.llm.api_key_env=null"]
        assert main([*words, f"judge.llm.base_url=http://127.0.0.1:{server.server_port}/v1"]) == 0
        server.shutdown()
    graded = [json.loads(line) for line in Path("own.jsonl").read_text("utf-8").splitlines()]
    found = {row["row_id"]: [v["verdict"] for v in row["verdicts"]] for row in graded}
    # "advises" and "screens" are equally long: the first is looked for.
    assert found == {"a0": ["met", "unmet", "met"], "a1": ["unmet", "unmet", "met"]}


def test_an_algorithm_of_ones_own_can_be_chosen(tmp_path: Path):
    (patch,) = blocks(PACKAGES / "algorithms" / "README.md", "diff")
    for name in ("rubric_rl", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "-"], input=patch, cwd=tmp_path, text=True, check=True)
    code = (
        "from rubric_rl.config.compose import compose\n"
        "from rubric_rl.algorithms.advantages import ADVANTAGES, median_advantages\n"
        "config = compose(['experiment=quickstart_cpu', 'algorithm=median'])\n"
        "assert config.algorithm.advantage in ADVANTAGES\n"
        "print(median_advantages([0.0, 0.5, 1.0]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[-0.5, 0.0, 0.5]\n", done.stderr


def _scaling() -> list[tuple[list[str], str]]:
    rows = re.findall(r"^\| (`[^|]*`|none[^|]*) \| (\d+) \|$", text_of(PLANNING), re.MULTILINE)
    return [(cell.strip("`").split() if cell[0] == "`" else [], s) for cell, s in rows]


@pytest.mark.parametrize(("words", "seconds"), _scaling(), ids=lambda v: " ".join(v)[-60:])
def test_a_line_of_the_scaling_guide_is_what_plan_says(words: list[str], seconds: str, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with redirect_stdout(io.StringIO()) as out:
        assert main(["plan", "experiment=paper_health", "--gpu", "h100", *words]) == 0
    assert f"time of a step: {seconds} s" in out.getvalue()


def test_the_scaling_guide_has_lines():
    assert len(_scaling()) >= 5


def test_every_algorithm_has_a_row():
    named = re.findall(r"^\| `(\w+)` \|", text_of(PACKAGES / "algorithms" / "README.md"), re.M)
    assert sorted(named) == sorted(
        path.stem for path in (config_dir() / "algorithm").glob("*.yaml")
    )
    assert all(compose([f"algorithm={name}", "learner.micro_batch_tokens=4096"]) for name in named)
