"""What we call in vLLM, DeepSpeed and OpenRLHF exists in the versions installed here.

Most of this only runs on GPUs, so it is held against signatures and data classes:
a release that renames something fails here and not on a cluster.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum
from deepspeed.runtime.zero.offload_states import (
    offload_optimizer_states,
    reload_optimizer_states,
)
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from vllm import SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer import base as vllm_base
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.ipc_engine import (
    IPCTrainerInitInfo,
    IPCWeightTransferInitInfo,
)
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLWeightTransferInitInfo,
)
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from rubric_rl.algorithms.openrlhf_losses import PolicyLoss, aggregate_loss, compute_approx_kl
from rubric_rl.config.judge import HostedJudgeConfig
from rubric_rl.judging.hosted import ServerSpec, server_arguments
from rubric_rl.rollout.engine import EngineSpec, bucket_update_info
from rubric_rl.rollout.vllm_engine import engine_arguments
from rubric_rl.runtime.weight_sync import RayFleetClient
from rubric_rl.weight_sync import vllm_plugin
from rubric_rl.weight_sync.spec import SenderSpec
from rubric_rl.weight_sync.vllm_receiver import ObjectStoreWeightTransferEngine
from rubric_rl.weight_sync.vllm_sender import LearnerWeightSource, init_info


def engine_spec(**overrides: Any) -> EngineSpec:
    """An engine on one GPU of its own."""
    settings: dict[str, Any] = {
        "model_path": "some/model",
        "stop_token_ids": (2,),
        "trust_remote_code": False,
        "dtype": "bfloat16",
        "max_model_tokens": 3584,
        "tensor_parallel_size": 1,
        "max_concurrent_samples": 64,
        "gpu_memory_utilization": 0.6,
        "kv_cache_gib": 2.0,
        "enforce_eager": False,
        "deterministic": True,
        "weight_transport": "nccl",
        "sleep_mode": False,
        "seed": 0,
        "device": "gpu",
        "num_threads": 1,
    }
    return EngineSpec(**{**settings, **overrides})


SPECS = {
    "disaggregated": engine_spec(),
    "disaggregated, tensor parallel": engine_spec(tensor_parallel_size=2),
    "colocated": engine_spec(sleep_mode=True, weight_transport="ipc"),
    "colocated, tensor parallel": engine_spec(
        sleep_mode=True, weight_transport="ipc", tensor_parallel_size=2
    ),
    "cpu": engine_spec(device="cpu", dtype="float32", weight_transport="object_store"),
}


def accepts(function: Any, *args: object, **kwargs: object) -> None:
    """Fails with a TypeError unless the signature takes these arguments."""
    inspect.signature(function).bind(*args, **kwargs)


# ----------------------------------------------------------------------------
# vLLM: the engine


@pytest.mark.parametrize("name", SPECS)
def test_engine_arguments_are_fields_of_vllms_arguments(name: str) -> None:
    arguments = engine_arguments(SPECS[name])
    fields = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert arguments.keys() <= fields
    assert "weight_transfer_config" in fields
    assert arguments["distributed_executor_backend"] == (
        "mp" if SPECS[name].tensor_parallel_size == 2 else "uni"
    )


def test_sleep_mode_is_on_for_colocated_engines_only() -> None:
    assert engine_arguments(SPECS["colocated"])["enable_sleep_mode"]
    assert not engine_arguments(SPECS["disaggregated"])["enable_sleep_mode"]


@pytest.mark.parametrize("backend", ["nccl", "ipc", "object_store"])
def test_each_transport_is_a_backend_of_vllm(backend: str) -> None:
    vllm_plugin.register()
    assert WeightTransferConfig(backend=backend).backend == backend
    assert backend in WeightTransferEngineFactory._registry


SELF = object()
REQUEST = vllm_base.WeightTransferInitRequest({})
UPDATE = vllm_base.WeightTransferUpdateRequest({})
CALLS: list[tuple[str, tuple[object, ...], dict[str, object]]] = [
    ("pause_generation", (), {"mode": "keep", "clear_cache": False}),
    ("resume_generation", (), {}),
    ("get_num_unfinished_requests", (), {}),
    ("generate", (TokensPrompt(prompt_token_ids=[1]), SamplingParams(), "rollout-1"), {}),
    ("init_weight_transfer_engine", (REQUEST,), {}),
    ("start_weight_update", (), {}),
    ("update_weights", (UPDATE,), {}),
    ("finish_weight_update", (), {"weight_version": "3"}),
    ("update_weight_version", ("0",), {}),
    ("get_weight_version", (), {}),
    ("reset_prefix_cache", (), {}),
    ("wake_up", (), {"tags": ["weights"]}),
    ("sleep", (), {"level": 2, "mode": "wait"}),
    ("shutdown", (), {}),
]


@pytest.mark.parametrize(("method", "args", "kwargs"), CALLS, ids=[call[0] for call in CALLS])
def test_async_llm_has_the_methods_that_the_engine_calls(
    method: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    accepts(getattr(AsyncLLM, method), SELF, *args, **kwargs)


def test_sampling_parameters_are_those_that_requests_set() -> None:
    params = SamplingParams(
        temperature=0.7,
        max_tokens=5,
        seed=3,
        stop_token_ids=[2],
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    assert params.logprobs == 0 and params.seed == 3


# ----------------------------------------------------------------------------
# vLLM: the object-store transport


def test_vllm_finds_our_transport_by_its_entry_point() -> None:
    points = importlib.metadata.entry_points(
        group="vllm.general_plugins", name="rubric_rl_weight_sync"
    )
    assert [point.load() for point in points] == [vllm_plugin.register]


def test_registering_twice_is_the_same_as_once() -> None:
    vllm_plugin.register()
    vllm_plugin.register()
    loaded = WeightTransferEngineFactory._registry["object_store"]()
    assert loaded is ObjectStoreWeightTransferEngine


def test_the_object_store_engine_implements_all_that_vllm_asks_for(tmp_path: Any) -> None:
    assert not inspect.isabstract(ObjectStoreWeightTransferEngine)
    update = ObjectStoreWeightTransferEngine.update_info_cls(**bucket_update_info(tmp_path / "b"))
    assert update.path == str(tmp_path / "b")


# ----------------------------------------------------------------------------
# vLLM: nccl and ipc


def sender(transport: Any, rank: int = 0) -> SenderSpec:
    """Two engines of two processes each."""
    return SenderSpec(
        transport=transport,
        rank=rank,
        master_address="10.0.0.1",
        master_port=29500,
        num_engine_processes=4,
    )


def fleet(processes_per_engine: int) -> RayFleetClient:
    return RayFleetClient(
        {}, processes_per_engine=processes_per_engine, log_dir="logs", timeout_s=1.0
    )


def test_the_nccl_group_is_learner_rank_0_and_every_engine_process() -> None:
    info = init_info(sender("nccl"))
    assert isinstance(info, NCCLTrainerInitInfo)
    assert (info.world_size, info.packed, info.is_sender) == (5, True, True)
    assert (info.master_address, info.master_port) == ("10.0.0.1", 29500)
    assert not init_info(sender("nccl", rank=1)).is_sender


def test_ipc_sends_packed_buckets() -> None:
    info = init_info(sender("ipc"))
    assert isinstance(info, IPCTrainerInitInfo)
    assert (info.packed, info.is_sender) == (True, True)


@pytest.mark.parametrize("transport", ["nccl", "ipc"])
def test_vllm_has_a_trainer_side_for_each_transport(transport: str) -> None:
    backend = init_info(sender(transport)).backend
    engine = WeightTransferTrainerFactory._registry[backend]()
    accepts(engine.trainer_init, init_info(sender(transport)), client=fleet(1), source=SELF)


def test_the_fleet_client_is_what_vllms_trainer_side_talks_to() -> None:
    assert isinstance(fleet(1), vllm_base.VLLMWeightSyncClient)


def test_engine_processes_take_distinct_ranks_that_fill_the_nccl_group() -> None:
    # What vLLM's sender hands to the client: rank_offset 1, after the learner's rank 0. A
    # process of an engine adds its own rank in the engine, 0 or 1:
    #   engine 0: 1 + 0, 1 + 1     engine 1: 3 + 0, 3 + 1
    sent = dataclasses.asdict(
        NCCLWeightTransferInitInfo(
            master_address="10.0.0.1", master_port=29500, rank_offset=1, world_size=5
        )
    )
    client = fleet(processes_per_engine=2)
    infos = [NCCLWeightTransferInitInfo(**client._for_engine(sent, index)) for index in (0, 1)]
    assert [info.rank_offset for info in infos] == [1, 3]
    ranks = [0] + [info.rank_offset + process for info in infos for process in (0, 1)]
    assert ranks == list(range(infos[0].world_size))
    assert sent["rank_offset"] == 1


def test_ipc_gives_every_engine_the_same() -> None:
    sent = dataclasses.asdict(IPCWeightTransferInitInfo(packed=True))
    assert fleet(2)._for_engine(sent, 1) == sent


class Owner:
    """Weights in two buckets that share one buffer, as gathered ones do."""

    def __init__(self) -> None:
        self.buffer = torch.zeros(2, 3)

    def named_weights(self, bucket_bytes: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
        assert bucket_bytes > 0
        for number, name in enumerate(("first", "second")):
            self.buffer.fill_(number + 1)
            yield [(name, self.buffer)]

    def weight_shapes(self) -> list[tuple[str, str, tuple[int, ...]]]:
        return [("first", "float32", (2, 3)), ("second", "float32", (2, 3))]


def test_what_the_weight_source_announces_is_what_it_yields() -> None:
    source = LearnerWeightSource(Owner())
    for _ in range(2):  # each sync iterates anew
        pairs = list(source)
        assert [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in pairs] == [
            (meta.name, meta.dtype, meta.shape) for meta in source.metadata()
        ]
        # Tensors stay valid after their bucket: vLLM packs several buckets together.
        assert [tensor.unique().tolist() for _, tensor in pairs] == [[1.0], [2.0]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weight_source_knows_the_types_of_a_learner(dtype: str) -> None:
    owner = Owner()
    owner.weight_shapes = lambda: [("w", dtype, (1,))]
    assert LearnerWeightSource(owner).metadata()[0].dtype == getattr(torch, dtype)


# ----------------------------------------------------------------------------
# DeepSpeed


@pytest.mark.parametrize("owner", [DeepSpeedEngine, DeepSpeedZeroOptimizer_Stage3])
def test_deepspeed_offloads_and_reloads_as_the_learner_asks(owner: type[Any]) -> None:
    states = [OffloadStateTypeEnum.lp_grads, OffloadStateTypeEnum.contiguous_grad_buffer]
    accepts(owner.offload_states, SELF, include=states)
    accepts(owner.reload_states, SELF)


def test_torchs_adam_state_can_leave_a_device_and_come_back() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    before = {k: v.clone() for k, v in optimizer.state[parameter].items()}
    offload_optimizer_states(optimizer, torch.device("cpu"))
    reload_optimizer_states(optimizer, torch.device("cpu"))
    assert all(torch.equal(optimizer.state[parameter][k], v) for k, v in before.items())
    # `meta` stands for a device that the state is not on.
    offload_optimizer_states(optimizer, torch.device("meta"))
    assert {v.device.type for v in optimizer.state[parameter].values()} == {"meta"}


# ----------------------------------------------------------------------------
# OpenRLHF

TOTALS = {"dp_size": 2, "batch_num_tokens": 10, "global_batch_size": 4}


def test_openrlhf_takes_the_clip_range_and_the_global_totals() -> None:
    accepts(PolicyLoss, clip_eps_low=0.2, clip_eps_high=0.3, token_level_loss=True)
    accepts(PolicyLoss.forward, SELF, SELF, SELF, SELF, action_mask=SELF, **TOTALS)
    accepts(aggregate_loss, SELF, SELF, token_level_loss=True, **TOTALS)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_openrlhf_knows_each_kl_estimator(estimator: str) -> None:
    log_probs = torch.tensor([0.0])
    assert compute_approx_kl(log_probs, log_probs, kl_estimator=estimator).item() == 0


# ----------------------------------------------------------------------------
# The judge's servers


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_vllms_server_takes_the_arguments_of_a_hosted_judge(device: Any) -> None:
    hosted = HostedJudgeConfig(
        tensor_parallel_size=2, dtype="bfloat16", max_model_tokens=4096, max_concurrent=7
    )
    spec = ServerSpec(
        model_path="/models/judge",
        served_name="judge",
        hosted=hosted.model_copy(update={"enforce_eager": True}),
        device=device,
        host="127.0.0.1",
        port=8123,
        num_threads=2,
    )
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(server_arguments(spec))
    assert (parsed.model, parsed.served_model_name) == ("/models/judge", ["judge"])
    assert (parsed.host, parsed.port) == ("127.0.0.1", 8123)
    assert (parsed.max_model_len, parsed.max_num_seqs, parsed.dtype) == (4096, 7, "bfloat16")
    assert (parsed.tensor_parallel_size, parsed.enforce_eager) == (2, True)
    assert parsed.enable_chunked_prefill is (False if device == "cpu" else None)
