"""From command-line overrides to a validated configuration.

    configs/*.yaml + overrides --Hydra--> plain dict --pydantic--> Config

Any field of the schema may be overridden, whether a YAML file mentions it or
not, so the YAML files need not repeat defaults. Everything that can be wrong
becomes a `ConfigError` in words; what pydantic finds is listed all at once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from rubric_rl.config.number_type import with_number_type
from rubric_rl.config.problems import describe, nearest
from rubric_rl.config.schema import Config
from rubric_rl.errors import ConfigError

_ROOT = "train"
# A folder of the user's own with more options for the groups; the rest of
# Hydra's settings steer its launcher, which is not used.
_SEARCH_PATH = "hydra.searchpath"


def compose(overrides: Sequence[str]) -> Config:
    """The configuration that `overrides` describe, as in `["experiment=x", "run.seed=3"]`.

    Raises:
        ConfigError: every problem found, one a line.
    """
    composed = _composed([_prepared(override) for override in _parsed(overrides)])
    received = with_number_type(composed)
    try:
        return Config.model_validate(received)
    except ValidationError as err:
        raise ConfigError(_listed(describe(err))) from err


def to_yaml(config: Config) -> str:
    """The configuration as YAML, in the schema's order."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=4096
    )


def config_dir() -> Path:
    """The folder of YAML files: inside the package when installed, else the checkout's."""
    package = Path(__file__).parents[1]
    for folder in (package / "_configs", package.parent / "configs"):
        if (folder / f"{_ROOT}.yaml").is_file():
            return folder
    raise ConfigError(
        f"no {_ROOT}.yaml in {package / '_configs'} or {package.parent / 'configs'}: "
        "install rubric-rl anew, or run it from a whole checkout"
    )


def groups() -> list[str]:
    """Names of the config groups: the folders beside the root file."""
    return sorted(path.name for path in config_dir().iterdir() if path.is_dir())


def _parsed(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed: list[Override] = []
    for override in overrides:
        try:
            parsed.append(parser.parse_override(override))
        except HydraException as err:
            raise ConfigError(
                f"override {override!r} can't be read: write key=value as in run.seed=3, and "
                "quote a value with special characters twice in a shell, key='\"a, b = c\"'"
            ) from err
    return parsed


def _prepared(override: Override) -> str:
    """The override as Hydra shall see it: values are set whether or not a YAML has them."""
    line, key = override.input_line, override.key_or_group
    assert line is not None
    if override.is_sweep_override():
        raise ConfigError(
            f"override {line!r} gives several values and a run takes one: choose one, or quote a "
            f"value that has a comma twice in a shell, {key}='\"a,b\"'"
        )
    if key.startswith("hydra.") and key != _SEARCH_PATH:
        raise ConfigError(
            f"override {line!r} has no effect: of Hydra's own settings only {_SEARCH_PATH} is "
            "used, and the run folder is run.dir"
        )
    if key in groups():
        return _group_choice(override)
    if key == _SEARCH_PATH or override.is_delete():
        return line
    if "." not in key and key not in Config.model_fields:
        raise ConfigError(_unknown_root(key))
    return f"++{line.lstrip('+')}"


def _group_choice(override: Override) -> str:
    line, key = override.input_line, override.key_or_group
    assert line is not None
    if not (override.is_delete() or isinstance(override.value(), str)):
        options = ", ".join(sorted(path.stem for path in (config_dir() / key).glob("*.yaml")))
        raise ConfigError(
            f"override {line!r} is not an option: choose {key} from {options}; a single value has "
            "a dotted key, as in learner.dtype=bfloat16"
        )
    return line.lstrip("+")


def _unknown_root(key: str) -> str:
    roots = sorted({*groups(), *Config.model_fields})
    guess = nearest(key, roots)
    hint = f"did you mean {guess}?" if guess else f"there are {', '.join(roots)}"
    return f"{key} is not a known config group or section: {hint}"


def _composed(overrides: list[str]) -> object:
    with (
        _hydra_errors_in_words(),
        initialize_config_dir(
            config_dir=str(config_dir()), job_name="rubric-rl", version_base="1.3"
        ),
    ):
        composed = hydra_compose(_ROOT, overrides=overrides)
        _check_resume(composed)
        return OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)


def _check_resume(composed: DictConfig) -> None:
    """A folder with the time in its name is new in each run: there is nothing to resume."""
    settings = OmegaConf.to_container(composed, resolve=False)
    match settings:
        case {"run": {"resume": "auto", "dir": str(folder)}} if "${now:" in folder:
            raise ConfigError(
                f"run.resume=auto looks for a checkpoint in run.dir, but run.dir={folder!r} is a "
                "new folder in each run: set run.dir to the folder of the run to go on with"
            )
        case _:
            return


@contextmanager
def _hydra_errors_in_words() -> Generator[None]:
    try:
        yield
    except MissingConfigException as err:
        raise ConfigError(_missing_option(err)) from err
    except OmegaConfBaseException as err:
        where = f"{err.full_key}: " if err.full_key else ""
        raise ConfigError(f"{where}{_first_line(err)}") from err
    except HydraException as err:
        raise ConfigError(f"the configuration doesn't compose: {_first_line(err)}") from err
    except yaml.YAMLError as err:
        raise ConfigError(f"a config file is not valid YAML: {err}") from err


def _missing_option(err: MissingConfigException) -> str:
    group, _, option = (err.missing_cfg_file or "").rpartition("/")
    if not err.options:
        return f"the configuration doesn't compose: {_first_line(err)}"
    return f"{group}={option} is not an option: choose {group} from {', '.join(err.options)}"


def _first_line(err: BaseException) -> str:
    """Hydra wraps OmegaConf's errors in an empty one and appends hints on its own syntax."""
    text = str(err).strip()
    if text:
        return text.split("\n", maxsplit=1)[0]
    return _first_line(err.__cause__) if err.__cause__ else type(err).__name__


def _listed(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    lines = "".join(f"\n  - {problem}" for problem in problems)
    return f"{len(problems)} problems in the configuration:{lines}"
