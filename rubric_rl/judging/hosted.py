"""A vLLM server of the run's own, as a judge that speaks OpenAI's protocol.

The server is vLLM's, in a process of its own, so that a judge hosted here and
one hosted elsewhere are asked in the same way. It ends with its parent, and asks for
a key that only this run knows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rubric_rl.config.judge import HostedJudgeConfig
from rubric_rl.errors import WorkerDiedError, WorkerTimeoutError
from rubric_rl.judging.server_guard import guarded

KEY_ENV = "RUBRIC_RL_HOSTED_JUDGE_KEY"
"""Environment variable that carries the key of the run's own servers."""

_MODULE = "vllm.entrypoints.openai.api_server"
_POLL_S = 0.5
_STOP_S = 30.0
# Prompt tokens that go through the model at once on CPU.
_CPU_PREFILL_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One server: the model, its settings, and where it listens."""

    model_path: str
    served_name: str
    hosted: HostedJudgeConfig
    device: Literal["cpu", "gpu"]
    host: str
    port: int
    num_threads: int
    """CPU threads of the model; of no meaning on GPU."""

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"


def served_name(model: str) -> str:
    """The name that a hosted model answers to: of a directory its last part."""
    return Path(model).name if Path(model).is_dir() else model


def server_arguments(spec: ServerSpec) -> list[str]:
    """Command-line arguments of vLLM's OpenAI server."""
    hosted = spec.hosted
    arguments = {
        "--model": spec.model_path,
        "--served-model-name": spec.served_name,
        "--host": spec.host,
        "--port": str(spec.port),
        "--dtype": hosted.dtype,
        "--max-model-len": str(hosted.max_model_tokens),
        "--max-num-seqs": str(hosted.max_concurrent),
        "--tensor-parallel-size": str(hosted.tensor_parallel_size),
        "--generation-config": "vllm",
    }
    if spec.device == "gpu":
        arguments["--gpu-memory-utilization"] = str(hosted.gpu_memory_utilization)
    else:
        # A seeded request whose prefill is chunked ends vLLM on CPU.
        arguments["--max-num-batched-tokens"] = str(
            max(_CPU_PREFILL_TOKENS, hosted.max_model_tokens)
        )
    words = [word for pair in arguments.items() for word in pair]
    if spec.device == "cpu":
        words.append("--no-enable-chunked-prefill")
    if hosted.enforce_eager:
        words.append("--enforce-eager")
    return words


def server_environment(spec: ServerSpec, key: str) -> dict[str, str]:
    """Environment variables of the server, beside those of this process."""
    environment = {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1"}
    if spec.device == "cpu":
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(spec.hosted.kv_cache_gib))),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(spec.num_threads),
        }
    return environment


class VllmServer:
    """The server's process. Everything it prints goes where this process prints."""

    def __init__(self, spec: ServerSpec, key: str) -> None:
        """Start it; `wait` returns when it answers."""
        self._spec = spec
        self._process = subprocess.Popen(
            guarded([sys.executable, "-m", _MODULE, *server_arguments(spec)]),
            env=os.environ | server_environment(spec, key),
            stdin=subprocess.PIPE,
        )

    def wait(self, timeout_s: float) -> str:
        """Return the address once the server answers.

        Raises:
            WorkerDiedError: the process ended; its log says why.
            WorkerTimeoutError: it doesn't answer in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self._is_healthy():
            code = self._process.poll()
            if code is not None:
                raise WorkerDiedError(
                    f"the judge server for {self._spec.served_name!r} ended with code {code} "
                    "before it answered: look into its log (often the model's files, memory, or "
                    "judge.llm.hosted.max_model_tokens beyond what the model takes)"
                )
            if time.monotonic() > deadline:
                self.stop()
                raise WorkerTimeoutError(
                    f"the judge server for {self._spec.served_name!r} gave no answer in "
                    f"{timeout_s:.0f} s (cluster.start_timeout_s)"
                )
            time.sleep(_POLL_S)
        return self._spec.base_url

    def stop(self) -> None:
        """End the server and the processes that it started; they have some seconds to do so."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(_STOP_S)

    def _is_healthy(self) -> bool:
        url = f"http://{self._spec.host}:{self._spec.port}/health"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False
