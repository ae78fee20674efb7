"""What makes two configurations one run: the settings that decide what it computes."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from rubric_rl.config.schema import Config
from rubric_rl.errors import RunFolderError

_IDENTITY_SECTIONS = (
    "model",
    "learner",
    "rollout",
    "judge",
    "rubrics",
    "refinement",
    "algorithm",
    "data",
)
_IDENTITY_RUN_KEYS = ("seed", "epochs", "max_steps")

# How a chat model is reached and what one call may take. A reply that is cut or late is a
# failure and never a verdict, so the limits on it decide how much is judged, not how.
_OF_A_CHAT_MODEL = (
    *("base_url", "api_key_env", "extra_endpoints", "usd_per_million_", "hosted."),
    *("timeout_s", "max_retries", "max_reply_tokens"),
)
# How something is reached, what it may take and cost, and when to give up, not what it is: a
# judge comes back at another address, a run moves to another machine, gets more time, memory
# or money, and goes on as it was.
_NOT_IDENTITY = (
    *(f"judge.llm.{key}" for key in _OF_A_CHAT_MODEL),
    *(f"refinement.proposer.llm.{key}" for key in _OF_A_CHAT_MODEL),
    *(f"gold.llm.{key}" for key in _OF_A_CHAT_MODEL),
    "gold.stop_",
    *("judge.budget.", "judge.health.", "judge.cache."),
    *("judge.num_workers", "judge.max_in_flight_per_worker"),
    *("rollout.kv_cache_gib", "rollout.gpu_memory_utilization", "rollout.num_threads"),
    *("rollout.max_concurrent_samples", "rollout.enforce_eager"),
    # The gradient does not depend on the ranks, and a checkpoint is converted for others.
    *("learner.num_workers", "learner.num_threads", "model.cache_dir"),
    *("rubrics.max_unscored_frac", "rubrics.unscored_window_steps"),
    "algorithm.max_refill_prompts",
    *("refinement.prompts_in_flight", "refinement.max_failed_frac"),
)


def identity(config: Config) -> dict[str, JsonValue]:
    """The settings that decide what a run computes, by dotted key, as JSON values."""
    values = config.model_dump(mode="json")
    names = [*_IDENTITY_SECTIONS]
    # Of the baselines only what is trained: a run on rubrics has nothing of them.
    names += ["sft"] if config.sft.path is not None else []
    names += ["bradley_terry"] if config.bradley_terry.path is not None else []
    sections = {name: values[name] for name in names}
    run = {key: values["run"][key] for key in _IDENTITY_RUN_KEYS}
    # Left out where there is none: runs of versions without it go on.
    gold = {"gold": values["gold"]} if config.gold.enabled else {}
    return _without_operation(_flatten({**sections, **gold, "run": run}, prefix=""))


def check_identity(stored: Mapping[str, JsonValue], config: Config) -> None:
    """Raises RunFolderError with every difference between the run that is stored and `config`."""
    current = identity(config)
    # A run of an older version may have stored more.
    there = _without_operation(stored)
    keys = sorted(key for key in there.keys() | current.keys() if _differs(there, current, key))
    if keys:
        lines = [f"  {key}: {_shown(there, key)} there, {_shown(current, key)} now" for key in keys]
        raise RunFolderError(
            f"run.dir={config.run.dir!r} holds a run of another configuration:\n"
            + "\n".join(lines)
            + "\nSet these as they are there to go on with it, or set another run.dir"
        )


def _without_operation(flat: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {key: value for key, value in flat.items() if not key.startswith(_NOT_IDENTITY)}


def _flatten(values: Mapping[str, JsonValue], prefix: str) -> dict[str, JsonValue]:
    flat: dict[str, JsonValue] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, prefix=f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _differs(a: Mapping[str, JsonValue], b: Mapping[str, JsonValue], key: str) -> bool:
    return (key in a) != (key in b) or a[key] != b[key]


def _shown(values: Mapping[str, JsonValue], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "not set"
