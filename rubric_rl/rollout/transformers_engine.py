"""A small rollout engine on transformers, for debugging and fast tests.

Slow and simple: batches of requests, one token at a time, each row with a
random generator of its own so that a sample depends on its seed and not on its
neighbours.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from rubric_rl.rollout.engine import EngineSpec
from rubric_rl.types import FinishReason, RolloutRequest, Sample

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(slots=True)
class _Row:
    """One completion in progress."""

    request: RolloutRequest
    generator: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class TransformersEngine:
    """See `RolloutEngine`."""

    def __init__(self, spec: EngineSpec) -> None:
        self._device = torch.device("cuda" if spec.device == "gpu" else "cpu")
        self._batch_size = spec.max_concurrent_samples
        self._tokenizer = AutoTokenizer.from_pretrained(
            spec.model_path, trust_remote_code=spec.trust_remote_code
        )
        self._model = AutoModelForCausalLM.from_pretrained(
            spec.model_path,
            dtype=_DTYPES[spec.dtype],
            trust_remote_code=spec.trust_remote_code,
        )
        nn.Module.to(self._model, self._device)
        self._model.eval()
        self._stop_token_ids = frozenset(spec.stop_token_ids)
        self._policy_version = 0
        self._lock = asyncio.Lock()

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sample]:
        """See `RolloutEngine.generate`. One that is given up ends before the lock is free:
        weights must not change under a thread that still computes with them."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Sample | None] = asyncio.Queue()
        given_up = threading.Event()

        def emit(sample: Sample) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, sample)

        async with self._lock:
            # A future, not a task: cancelling a task would end the wait and not the thread.
            worker = loop.run_in_executor(None, self._run, requests, emit, given_up)
            worker.add_done_callback(lambda _: queue.put_nowait(None))
            try:
                while (sample := await queue.get()) is not None:
                    yield sample
            finally:
                given_up.set()
                await asyncio.wait({worker})
            worker.result()  # raises what the thread raised

    def _run(
        self,
        requests: Sequence[RolloutRequest],
        emit: Callable[[Sample], None],
        given_up: threading.Event,
    ) -> None:
        for start in range(0, len(requests), self._batch_size):
            if not given_up.is_set():
                self._run_batch(requests[start : start + self._batch_size], emit, given_up)

    @torch.inference_mode()
    def _run_batch(
        self,
        requests: Sequence[RolloutRequest],
        emit: Callable[[Sample], None],
        given_up: threading.Event,
    ) -> None:
        rows = [_Row(r, torch.Generator().manual_seed(r.seed)) for r in requests]
        longest = max(len(r.token_ids) for r in requests)
        pads = [longest - len(r.token_ids) for r in requests]
        ids = torch.tensor(
            [[0] * p + list(r.token_ids) for p, r in zip(pads, requests, strict=True)]
        ).to(self._device)
        mask = torch.tensor([[0] * p + [1] * (longest - p) for p in pads]).to(self._device)
        cache = None
        while any(row.finish_reason is None for row in rows) and not given_up.is_set():
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=1,
                use_cache=True,
            )
            cache = out.past_key_values
            ids = self._sample_next(rows, out.logits[:, -1].float().cpu(), emit).to(self._device)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)

    def _sample_next(
        self, rows: Sequence[_Row], logits_BV: Tensor, emit: Callable[[Sample], None]
    ) -> Tensor:
        """Draw the next token of each unfinished row; [B, 1], zeros for finished ones."""
        next_ids: list[int] = []
        for row, logits_V in zip(rows, logits_BV, strict=True):
            if row.finish_reason is not None:
                next_ids.append(0)
                continue
            log_probs_V = torch.log_softmax(logits_V / row.request.temperature, dim=-1)
            token_id = int(torch.multinomial(log_probs_V.exp(), 1, generator=row.generator))
            row.token_ids.append(token_id)
            row.log_probs.append(float(log_probs_V[token_id]))
            next_ids.append(token_id)
            if token_id in self._stop_token_ids:
                row.finish_reason = "stop"
            elif len(row.token_ids) >= row.request.max_new_tokens:
                row.finish_reason = "length"
            if row.finish_reason is not None:
                emit(self._to_sample(row, row.finish_reason))
        return torch.tensor(next_ids).unsqueeze(1)

    def _to_sample(self, row: _Row, finish_reason: FinishReason) -> Sample:
        return Sample(
            prompt_id=row.request.prompt_id,
            sample_index=row.request.sample_index,
            prompt_token_ids=row.request.token_ids,
            completion_token_ids=tuple(row.token_ids),
            log_probs=tuple(row.log_probs),
            loss_mask=(1,) * len(row.token_ids),
            text=self._tokenizer.decode(row.token_ids, skip_special_tokens=True),
            finish_reason=finish_reason,
            seed=row.request.seed,
            policy_version=self._policy_version,
        )

    # ------------------------------------------------------------------------
    # Weights

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """The object-store transport has nothing to set up."""

    async def start_weight_update(self) -> None:
        await self._lock.acquire()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        parameters = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, tensor in load_file(update_info["path"]).items():
                parameters[name].copy_(tensor)

    async def finish_weight_update(self, policy_version: int) -> None:
        self._policy_version = policy_version
        self._lock.release()

    async def policy_version(self) -> int:
        return self._policy_version

    async def sleep(self) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Nothing to close."""
