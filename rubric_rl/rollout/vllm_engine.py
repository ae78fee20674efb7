"""vLLM's AsyncLLM as a rollout engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from rubric_rl.rollout.engine import EngineSpec
from rubric_rl.types import FinishReason, RolloutRequest, Sample

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.logprobs import Logprob
    from vllm.v1.engine.async_llm import AsyncLLM


# Prompt tokens that go through the model at once on CPU.
_PREFILL_TOKENS = 2048


def engine_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Keyword arguments of vLLM's `AsyncEngineArgs`, weight transfer apart."""
    arguments: dict[str, Any] = {
        "model": spec.model_path,
        "trust_remote_code": spec.trust_remote_code,
        "dtype": spec.dtype,
        "max_model_len": spec.max_model_tokens,
        "max_num_seqs": spec.max_concurrent_samples,
        "tensor_parallel_size": spec.tensor_parallel_size,
        # One device needs no worker process beside the engine's own.
        "distributed_executor_backend": "mp" if spec.tensor_parallel_size > 1 else "uni",
        "enforce_eager": spec.enforce_eager,
        # Log-probs after temperature, of the distribution that was sampled from.
        "logprobs_mode": "processed_logprobs",
        # Sampling defaults come from the request, not from the model's folder.
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "seed": spec.seed,
        "disable_log_stats": True,
    }
    if spec.device == "cpu":
        # A chunked prefill makes vLLM rewind the request's random generator, which
        # a CPU generator can't do: the engine would die on the first seeded request.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(_PREFILL_TOKENS, spec.max_model_tokens)
    else:
        arguments["gpu_memory_utilization"] = spec.gpu_memory_utilization
        arguments["enable_sleep_mode"] = spec.sleep_mode
    return arguments


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Environment variables that must be set before vLLM is imported."""
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    if spec.device == "cpu":
        environment |= {
            # Lets the engine's process run the model itself (`uni`): on CPU vLLM would
            # otherwise start one more process, which costs another import of vLLM.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(spec.kv_cache_gib))),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(spec.num_threads),
            "RUBRIC_RL_SEEDED_SAMPLING": "inverse_cdf",  # see `seeded_sampling`
        }
    if spec.weight_transport == "ipc":
        # CUDA IPC handles cross to the engine's process pickled.
        environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    return environment


class VllmEngine:
    """One AsyncLLM. Create it with `await VllmEngine.create(spec)`."""

    def __init__(self, spec: EngineSpec, llm: AsyncLLM) -> None:
        self._spec = spec
        self._llm = llm
        self._num_requests = 0
        self._asleep = False

    @classmethod
    async def create(cls, spec: EngineSpec) -> VllmEngine:
        """Load the model and wait until the engine answers."""
        os.environ.update(engine_environment(spec))
        from vllm.config import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(
            **engine_arguments(spec),
            weight_transfer_config=WeightTransferConfig(backend=spec.weight_transport),
        )
        llm = AsyncLLM.from_engine_args(arguments)
        await llm.update_weight_version("0")
        return cls(spec, llm)

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sample]:
        """See `RolloutEngine.generate`."""
        policy_version = await self.policy_version()
        queue: asyncio.Queue[Sample] = asyncio.Queue()

        async def run(request: RolloutRequest, request_id: str) -> None:
            await queue.put(await self._complete(request, request_id, policy_version))

        if self._spec.deterministic:
            await self._llm.pause_generation(mode="keep", clear_cache=False)
        tasks: list[asyncio.Task[None]] = []
        for request in requests:
            self._num_requests += 1
            tasks.append(asyncio.create_task(run(request, f"rollout-{self._num_requests}")))
        try:
            if self._spec.deterministic:
                await self._all_queued(tasks)
                await self._llm.resume_generation()
            for _ in requests:
                yield await self._next(queue, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._spec.deterministic and await self._llm.is_paused():
                await self._llm.resume_generation()  # cancelled or failed before it was

    async def _all_queued(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        # Each task sends its request in its first slices of the loop; the engine
        # takes them in order, so the resume that follows is seen after all of them.
        while self._llm.get_num_unfinished_requests() < len(tasks):
            for task in tasks:
                if task.done():
                    task.result()  # a request that was refused is raised, not waited for
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)

    @staticmethod
    async def _next(queue: asyncio.Queue[Sample], tasks: list[asyncio.Task[None]]) -> Sample:
        """The next finished sample, or the exception of a task that failed."""
        getter = asyncio.create_task(queue.get())
        pending = {task for task in tasks if not task.done()}
        while not getter.done():
            done, _ = await asyncio.wait({getter, *pending}, return_when=asyncio.FIRST_COMPLETED)
            for task in done & pending:
                pending.discard(task)
                if (error := task.exception()) is not None:
                    getter.cancel()
                    raise error
        return getter.result()

    async def _complete(
        self, request: RolloutRequest, request_id: str, policy_version: int
    ) -> Sample:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=request.temperature,
            max_tokens=request.max_new_tokens,
            seed=request.seed,
            stop_token_ids=list(self._spec.stop_token_ids),
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=list(request.token_ids))
        outputs = [o async for o in self._llm.generate(prompt, params, request_id)]
        assert len(outputs) == 1 and outputs[0].finished, "FINAL_ONLY yields the whole once"
        return _to_sample(request, outputs[0], policy_version)

    # ------------------------------------------------------------------------
    # Weights

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))

    async def start_weight_update(self) -> None:
        await self._llm.pause_generation(mode="wait", clear_cache=False)
        if self._asleep:
            await self._llm.wake_up(tags=["weights"])
        await self._llm.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.update_weights(WeightTransferUpdateRequest(update_info))

    async def finish_weight_update(self, policy_version: int) -> None:
        await self._llm.finish_weight_update(weight_version=str(policy_version))
        if self._asleep:
            await self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        if not await self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: stale prefixes would be used")
        await self._llm.resume_generation()

    async def policy_version(self) -> int:
        return int(await self._llm.get_weight_version())

    async def sleep(self) -> None:
        if self._spec.sleep_mode and not self._asleep:
            # Level 2 drops the weights too: the next weight sync brings all of them.
            await self._llm.sleep(level=2, mode="wait")
            self._asleep = True

    def close(self) -> None:
        self._llm.shutdown()


def _to_sample(request: RolloutRequest, output: RequestOutput, policy_version: int) -> Sample:
    completion = output.outputs[0]
    token_ids = tuple(completion.token_ids)
    positions = cast("list[dict[int, Logprob]]", completion.logprobs)
    log_probs = tuple(
        position[token_id].logprob for position, token_id in zip(positions, token_ids, strict=True)
    )
    return Sample(
        prompt_id=request.prompt_id,
        sample_index=request.sample_index,
        prompt_token_ids=request.token_ids,
        completion_token_ids=token_ids,
        log_probs=log_probs,
        loss_mask=(1,) * len(token_ids),
        text=completion.text,
        finish_reason=_finish_reason(request, completion.finish_reason),
        seed=request.seed,
        policy_version=policy_version,
    )


def _finish_reason(request: RolloutRequest, reason: str | None) -> FinishReason:
    """An aborted or failed request is no completion that was cut: it must not be trained on."""
    if reason == "stop" or reason == "length":
        return reason
    raise RuntimeError(
        f"vLLM ended sample {request.sample_index} of prompt {request.prompt_id!r} with {reason!r}"
    )
