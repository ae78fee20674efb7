"""The debugging engine against a full forward pass of the same tiny model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import save_file

from rubric_rl.rollout.engine import EngineSpec, bucket_update_info
from rubric_rl.rollout.transformers_engine import TransformersEngine
from rubric_rl.types import RolloutRequest, Sample

from ..tiny_llama import tiny_llama, tiny_tokenizer

T = TypeVar("T")

TIMEOUT_S = 60
BATCH_SIZE = 2
STOP = 2
# float32, once with a cache and padding and once without.
ATOL = 1e-5
PROMPTS = ((5, 9, 40), (7,), (11, 12, 13, 14, 15, 60, 61), (20, 21), (90, 3, 8, 4))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model")
    tiny_llama(seed=1).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return str(directory)


def make_engine(model_path: str, *, stop_token_ids: tuple[int, ...] = (STOP,)) -> Any:
    return TransformersEngine(
        EngineSpec(
            model_path=model_path,
            stop_token_ids=stop_token_ids,
            trust_remote_code=False,
            dtype="float32",
            max_model_tokens=64,
            tensor_parallel_size=1,
            max_concurrent_samples=BATCH_SIZE,
            gpu_memory_utilization=0.5,
            kv_cache_gib=1.0,
            enforce_eager=True,
            deterministic=True,
            weight_transport="object_store",
            sleep_mode=False,
            seed=0,
            device="cpu",
            num_threads=1,
        )
    )


def requests(*, temperature: float = 1.0, max_new_tokens: int = 9) -> list[RolloutRequest]:
    """Five prompts of different lengths: three batches, the last of one row."""
    return [
        RolloutRequest(
            prompt_id=f"p{index}",
            sample_index=index,
            token_ids=token_ids,
            seed=100 + index,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
        )
        for index, token_ids in enumerate(PROMPTS)
    ]


def in_time(work: Callable[[], Awaitable[T]]) -> T:
    async def within() -> T:
        async with asyncio.timeout(TIMEOUT_S):
            return await work()

    return asyncio.run(within())


async def collect(engine: Any, wanted: Sequence[RolloutRequest]) -> list[Sample]:
    samples = [sample async for sample in engine.generate(wanted)]
    return sorted(samples, key=lambda s: s.sample_index)


def generate(engine: Any, wanted: Sequence[RolloutRequest]) -> list[Sample]:
    return in_time(lambda: collect(engine, wanted))


def full_pass(model: torch.nn.Module, sample: Sample, temperature: float) -> list[float]:
    """Log-probs of the completion from one pass over the sequence alone, without a cache."""
    ids = torch.tensor([[*sample.prompt_token_ids, *sample.completion_token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    log_probs = torch.log_softmax(logits.float() / temperature, dim=-1)
    start = len(sample.prompt_token_ids)
    return [
        float(log_probs[start + offset - 1, token])
        for offset, token in enumerate(sample.completion_token_ids)
    ]


# ----------------------------------------------------------------------------
# Samples


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_a_full_forward_pass(model_path: str, temperature: float) -> None:
    wanted = requests(temperature=temperature)
    samples = generate(make_engine(model_path), wanted)
    assert [s.prompt_token_ids for s in samples] == list(PROMPTS)
    model = tiny_llama(seed=1)
    for sample in samples:
        expected = full_pass(model, sample, temperature)
        assert sample.log_probs == pytest.approx(expected, abs=ATOL)
        assert full_pass(model, sample, 2 * temperature) != pytest.approx(expected, abs=1e-2)


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours(model_path: str) -> None:
    engine = make_engine(model_path)
    together = generate(engine, requests())
    for request, sample in zip(requests(), together, strict=True):
        (alone,) = generate(engine, [request])
        assert alone.completion_token_ids == sample.completion_token_ids
    reseeded = generate(engine, [replace(r, seed=r.seed + 1000) for r in requests()])
    assert [s.completion_token_ids for s in reseeded] != [s.completion_token_ids for s in together]


def test_a_completion_ends_with_its_first_stop_token_or_at_its_length(model_path: str) -> None:
    free = generate(make_engine(model_path, stop_token_ids=()), requests())
    assert {(len(s.completion_token_ids), s.finish_reason) for s in free} == {(9, "length")}
    # A token in the middle of one completion becomes a stop token: what came before it stays.
    stop = free[2].completion_token_ids[4]
    stopped = generate(make_engine(model_path, stop_token_ids=(stop,)), requests())
    for before, after in zip(free, stopped, strict=True):
        ids = before.completion_token_ids
        length = ids.index(stop) + 1 if stop in ids else len(ids)
        assert after.completion_token_ids == ids[:length]
        assert after.finish_reason == ("stop" if stop in ids else "length")
        assert len(after.log_probs) == len(after.loss_mask) == length
    assert stopped[2].finish_reason == "stop"


# ----------------------------------------------------------------------------
# Weights


def test_loaded_weights_are_served_under_their_version(model_path: str, tmp_path: Path) -> None:
    engine = make_engine(model_path)
    first = generate(engine, requests())
    other = tiny_llama(seed=8)
    weights = {name: p.detach().clone() for name, p in other.named_parameters()}
    names = sorted(weights)
    for half, chosen in enumerate((names[::2], names[1::2])):
        save_file({name: weights[name] for name in chosen}, tmp_path / f"{half}.safetensors")

    async def load_and_generate() -> list[Sample]:
        await engine.start_weight_update()
        for half in range(2):
            await engine.update_weights(bucket_update_info(tmp_path / f"{half}.safetensors"))
        await engine.finish_weight_update(4)
        assert await engine.policy_version() == 4
        return await collect(engine, requests())

    second = in_time(load_and_generate)
    assert {s.policy_version for s in first} == {0}
    assert {s.policy_version for s in second} == {4}
    for sample in second:
        assert sample.log_probs == pytest.approx(full_pass(other, sample, 1.0), abs=ATOL)


# ----------------------------------------------------------------------------
# A generation that is given up


class Gate:
    """Holds the generating thread inside its second forward pass, until it is opened."""

    def __init__(self, engine: Any) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.num_passes = 0
        engine._model.register_forward_pre_hook(self._hold)

    def _hold(self, *_: object) -> None:
        self.num_passes += 1
        if self.num_passes == 2:
            self.reached.set()
            assert self.open.wait(TIMEOUT_S)


def test_a_cancelled_generation_keeps_the_lock_until_its_thread_has_ended(model_path: str) -> None:
    engine = make_engine(model_path)
    gate = Gate(engine)

    async def cancel_and_load() -> tuple[int, int]:
        generation = asyncio.create_task(collect(engine, requests(max_new_tokens=30)))
        await asyncio.to_thread(gate.reached.wait, TIMEOUT_S)
        generation.cancel()
        update = asyncio.create_task(engine.start_weight_update())
        try:
            # Turns of the loop enough to hand over a lock that is free.
            for _ in range(20):
                await asyncio.sleep(0)
            assert not update.done()
        finally:
            gate.open.set()
        await update
        passes_at_lock = gate.num_passes
        with pytest.raises(asyncio.CancelledError):
            await generation
        await engine.finish_weight_update(1)
        return passes_at_lock, gate.num_passes

    at_lock, at_end = in_time(cancel_and_load)
    assert at_lock == at_end
    # It stopped at the next token: 30 tokens in three batches would be 90 passes.
    assert at_end <= 3


def test_a_stream_that_is_closed_early_frees_the_engine(model_path: str) -> None:
    engine = make_engine(model_path)

    async def take_one_then_all() -> list[Sample]:
        async with aclosing(engine.generate(requests())) as stream:
            await anext(stream)
        return await collect(engine, requests())

    assert len(in_time(take_one_then_all)) == len(PROMPTS)


def test_an_error_of_the_model_reaches_the_caller(model_path: str) -> None:
    engine = make_engine(model_path)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    engine._model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(engine, requests())
