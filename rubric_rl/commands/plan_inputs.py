"""What `rubric-rl plan` finds out: the model's shape, figures of the prompts, the cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.config.schema import Config
from rubric_rl.data.prompt_set import BUILTIN_PREFIX, RawPromptSet, load_prompt_set
from rubric_rl.errors import ConfigError, ModelError
from rubric_rl.judging.grading import Answer
from rubric_rl.judging.grading_plan import plan_grading
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.planning.hardware import Cluster, cluster_of_ray
from rubric_rl.planning.known_models import known_names, known_shape
from rubric_rl.planning.model_shape import ModelShape, read_shape
from rubric_rl.planning.workload import JudgeCalls, PromptFigures
from rubric_rl.types import Criterion, Message, PromptRecord, Rubric

# English prose, as the plan of `rubric-rl judge` takes it.
_CHARS_PER_TOKEN = 3.5
# Of a file that isn't there: the paper's sizes (section 4.2) and rubrics of its length.
_PAPER_TRAIN, _PAPER_EVAL = 5000, 1000
_CRITERIA, _CRITERION_CHARS = 10, 100
_CHAT_TEMPLATE_TOKENS = 16
# Prompts whose judge calls are worked out; more change a mean little.
_MOST_RENDERED = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenFigures:
    """What the command line says of the prompts; None: what the file says, or the paper."""

    num_train: int | None = None
    num_eval: int | None = None
    num_criteria: int | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None


def find_shape(name: str, model_config: Path | None) -> ModelShape:
    """A model's shape: of the file that is given, its folder, our table, or the hub.

    Raises:
        ModelError: it is nowhere.
    """
    if model_config is not None:
        return read_shape(model_config)
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return read_shape(folder / "config.json")
    known = known_shape(name)
    return _shape_from_hub(name) if known is None else known


def _shape_from_hub(name: str) -> ModelShape:
    """Downloads the model's config.json, a few hundred bytes, or finds it in the hub's cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    faults = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)
    try:
        return read_shape(Path(hf_hub_download(name, "config.json", etag_timeout=10.0)))
    except faults as err:
        raise ModelError(
            f"the shape of model.name_or_path={name!r} is not known: it is no directory with a "
            f"config.json and the hub doesn't give it ({type(err).__name__}). Give --model-config "
            f"FILE, or plan with one of {', '.join(known_names())}"
        ) from err


def prompt_figures(config: Config, given: GivenFigures) -> PromptFigures:
    """Of the data file where it is there, else of prompts like the paper's; what is given counts.

    Raises:
        DataError: the file is there and can't be used.
    """
    path = config.data.path
    if path.startswith(BUILTIN_PREFIX) or Path(path).exists():
        return _of_file(config, load_prompt_set(config.data), given)
    return _of_paper(config, given)


def _of_file(config: Config, raw: RawPromptSet, given: GivenFigures) -> PromptFigures:
    records = raw.train
    mean = sum(_num_tokens(record) for record in records) / len(records)
    completion = given.completion_tokens or float(config.rollout.max_new_tokens)
    answers = [
        _answer(record, raw.rubrics.of(record.prompt_id), completion)
        for record in records[:_MOST_RENDERED]
    ]
    return PromptFigures(
        num_train=given.num_train or len(raw.train),
        num_eval=len(raw.eval) if given.num_eval is None else given.num_eval,
        prompt_tokens=given.prompt_tokens or min(round(mean), config.data.max_prompt_tokens),
        completion_tokens=completion,
        per_sample=_judging(config.judge.llm, answers),
        source=f"{raw.path}; lengths by {_CHARS_PER_TOKEN:g} characters a token",
    )


def _of_paper(config: Config, given: GivenFigures) -> PromptFigures:
    prompt = given.prompt_tokens or float(config.data.max_prompt_tokens)
    completion = given.completion_tokens or float(config.rollout.max_new_tokens)
    num_criteria = given.num_criteria or _CRITERIA
    answer = _answer(_record(int(prompt * _CHARS_PER_TOKEN)), _rubric(num_criteria), completion)
    num_train = given.num_train or _PAPER_TRAIN
    limit = config.data.max_train_prompts
    return PromptFigures(
        num_train=num_train if limit is None else min(num_train, limit),
        num_eval=_PAPER_EVAL if given.num_eval is None else given.num_eval,
        prompt_tokens=prompt,
        completion_tokens=completion,
        per_sample=_judging(config.judge.llm, [answer]),
        source=(
            f"data.path={config.data.path!r} is not there: sizes of the paper unless given, "
            f"{num_criteria} criteria a prompt, the longest prompts and completions unless given"
        ),
    )


def _num_tokens(record: PromptRecord) -> float:
    chars = sum(len(message.content) for message in record.messages)
    return chars / _CHARS_PER_TOKEN + _CHAT_TEMPLATE_TOKENS


def _record(num_chars: int) -> PromptRecord:
    return PromptRecord(
        prompt_id="planned",
        messages=(Message(role="user", content="x" * num_chars),),
        domain="",
        source="",
        row_hash="",
    )


def _rubric(num_criteria: int) -> Rubric:
    criteria = tuple(
        Criterion(cid=f"c{number}", text="x" * _CRITERION_CHARS, weight=1.0)
        for number in range(1, num_criteria + 1)
    )
    return Rubric(prompt_id="planned", version=0, criteria=criteria)


def _answer(record: PromptRecord, rubric: Rubric, completion_tokens: float) -> Answer:
    return Answer(
        row_id=record.prompt_id,
        record=record,
        rubric=rubric,
        response="x" * int(completion_tokens * _CHARS_PER_TOKEN),
    )


def _judging(llm: LlmJudgeConfig | None, answers: Sequence[Answer]) -> JudgeCalls:
    """Mean over the answers; each as if its criteria were judged for the first time."""
    plan = plan_grading(
        answers, llm, JudgeTemplates.load(None if llm is None else llm.template_dir)
    )
    total = JudgeCalls(
        calls=plan.num_calls,
        prompt_tokens=plan.prompt_tokens,
        reply_tokens=plan.completion_tokens,
        usd=plan.cost_usd,
    )
    return total.times(1 / len(answers))


def joined_cluster(config: Config) -> Cluster | None:
    """The running cluster of RAY_ADDRESS or cluster.address; None if neither names one.

    Raises:
        ClusterError: nothing answers there.
    """
    address = os.environ.get("RAY_ADDRESS") if config.cluster.address == "auto" else None
    address = address or config.cluster.address
    if address in ("auto", "local"):
        return None
    from rubric_rl.runtime.cluster import node_resources, ray_cluster

    with ray_cluster(config.cluster):
        nodes = node_resources()
    if not nodes:
        raise ConfigError(f"the cluster at {address} has no live node: start one, or describe it")
    return cluster_of_ray(nodes, address)
