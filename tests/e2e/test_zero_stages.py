"""One and two learner ranks on ZeRO 1, 2 and 3, with real DeepSpeed over gloo.

The same seven samples are learned from in a process alone and in two processes.
Loss, gradient norm, KL, entropy and weights must not depend on the number of ranks,
on the stage or on the micro-batches.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rubric_rl.learner.batch import build_micro_batch
from rubric_rl.learner.log_probs import completion_log_probs
from rubric_rl.learner.microbatches import plan_micro_batches
from rubric_rl.types import TrainSample

from ..tiny_llama import VOCAB_SIZE, tiny_llama, tiny_tokenizer

WORKER = Path(__file__).with_name("zero_worker.py")
STAGES = (1, 2, 3)
# float32; sums of 7 samples in another order.
RELATIVE = 1e-5
# AdamW's first steps are lr * sign(gradient): rounding in a gradient near zero is
# magnified, so weights are held to a small share of one step (1e-3).
WEIGHT_ATOL = 1e-6
TEMPERATURE = 0.8
MICRO_BATCH_TOKENS = 24
TIMEOUT_S = 500
COMPARED = ("loss", "grad_norm", "kl_ref", "entropy", "logprob_gap", "clip_frac", "num_tokens")

LEARNER = {
    "learning_rate": 1e-3,
    "warmup_frac": 0.4,
    "micro_batch_tokens": MICRO_BATCH_TOKENS,
    "logits_chunk_tokens": 5,  # of a dozen tokens: ranks differ in the number of chunks
    "max_grad_norm": 0.5,
    "weight_decay": 0.01,
}
ALGORITHM = {"kl_coef": 0.1, "kl_estimator": "k3"}
LORA = {"lora": {"rank": 4}}
WHOLE: dict[str, dict[str, Any]] = {
    **{f"stage{stage}": {"zero_stage": stage} for stage in STAGES},
    **{f"lora{stage}": {"zero_stage": stage, **LORA} for stage in STAGES},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "one_micro_batch1": {"zero_stage": 1, "micro_batch_tokens": 1000},
    "one_micro_batch2": {"zero_stage": 2, "micro_batch_tokens": 1000},
    "one_micro_batch3": {"zero_stage": 3, "micro_batch_tokens": 1000},
    "one_chunk1": {"zero_stage": 1, "logits_chunk_tokens": 1000},
    "one_chunk2": {"zero_stage": 2, "logits_chunk_tokens": 1000},
    "one_chunk3": {"zero_stage": 3, "logits_chunk_tokens": 1000},
    "whole_logits1": {"zero_stage": 1, "whole_logits": True},
    "whole_logits2": {"zero_stage": 2, "whole_logits": True},
    "whole_logits3": {"zero_stage": 3, "whole_logits": True},
    "packed1": {"zero_stage": 1, "packing": True, "micro_batch_tokens": 60},
    "packed2": {"zero_stage": 2, "packing": True, "micro_batch_tokens": 60},
    "packed3": {"zero_stage": 3, "packing": True, "micro_batch_tokens": 60},
    "packed_checkpointing3": {"zero_stage": 3, "packing": True, "gradient_checkpointing": True},
    "checkpointing2": {"zero_stage": 2, "gradient_checkpointing": True},
    "checkpointing3": {"zero_stage": 3, "gradient_checkpointing": True},
    **{f"actor{n}": {"zero_stage": n, "packing": True, "reference": "actor"} for n in STAGES},
}
MEMORY_SAVERS = list(VARIANTS)
# Of these, what trains adapters.
LORA_VARIANTS: dict[str, dict[str, Any]] = {
    **{f"lora_packed{n}": {"zero_stage": n, "packing": True, **LORA} for n in STAGES},
    "lora_checkpointing3": {"zero_stage": 3, "gradient_checkpointing": True, **LORA},
    "lora_copy2": {"zero_stage": 2, "reference": "copy", **LORA},
    "lora_copy3": {"zero_stage": 3, "reference": "copy", **LORA},
}
# What is another computation.
OTHERS: dict[str, dict[str, Any]] = {
    "bfloat16": {"zero_stage": 2, "dtype": "bfloat16"},
    **{f"entropy{n}": {"zero_stage": n, "algorithm": {"entropy_coef": 0.1}} for n in (2, 3)},
    "no_kl": {"zero_stage": 2, "algorithm": {"kl_coef": 0.0}},
    "no_reference": {"zero_stage": 2, "reference": "none", "algorithm": {"kl_coef": 0.0}},
}
# (prompt, completion) tokens: four long samples that fill a micro-batch each, and three
# shorter ones, the last two of one prompt. Rank 0 of two gets 4 samples, rank 1 gets 3 and
# an empty micro-batch.
LENGTHS = [(9, 13), (2, 3), (12, 9), (10, 11), (14, 7), (6, 14), (6, 12)]


def make_samples() -> list[TrainSample]:
    """Random tokens; rollout log-probs near the policy's, so that few ratios are clipped.

    Every third may be, never a whole sample: its tokens would have a gradient of rounding
    errors alone (of the KL, 0 at first), which AdamW magnifies into a step that differs.
    """
    rng = random.Random(11)
    model = tiny_llama(seed=5)
    samples: list[TrainSample] = []
    prompt: tuple[int, ...] = ()
    for index, (num_prompt, num_completion) in enumerate(LENGTHS):
        if index != len(LENGTHS) - 1:
            prompt = tuple(rng.randrange(VOCAB_SIZE) for _ in range(num_prompt))
        bare = TrainSample(
            prompt_token_ids=prompt,
            completion_token_ids=tuple(rng.randrange(VOCAB_SIZE) for _ in range(num_completion)),
            rollout_log_probs=(0.0,) * num_completion,
            loss_mask=(1,) * (num_completion - 1) + (index % 2,),
            advantage=rng.uniform(-2, 2),
        )
        batch = build_micro_batch([bare], torch.device("cpu"))
        with torch.no_grad():
            exact = completion_log_probs(model, batch, temperature=TEMPERATURE).log_probs[0]
        rollout = tuple(
            value + rng.uniform(-1, 1) * (0.3 if index % 3 == 0 else 0.15)
            for index, value in enumerate(exact.tolist())
        )
        samples.append(dataclasses.replace(bare, rollout_log_probs=rollout))
    return samples


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    directory: Path, job: dict[str, Any], num_ranks: int, worker: Path = WORKER
) -> list[subprocess.Popen[bytes]]:
    """Start the ranks of a job, whose files are in `directory`."""
    directory.mkdir()
    job = {**job, "num_ranks": num_ranks, "port": free_port(), "directory": str(directory)}
    path = directory / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    processes: list[subprocess.Popen[bytes]] = []
    for rank in range(num_ranks):
        with (directory / f"rank{rank}.log").open("wb") as log:
            command = [sys.executable, str(worker), str(path), str(rank)]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
    return processes


def wait_for(processes: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    try:
        codes = [process.wait(TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [log for code, log in zip(codes, logs, strict=True) if code != 0]
    assert not failed, "\n".join(log.read_text(errors="replace")[-6000:] for log in failed)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the ranks of one group found; `ranks[0]["stage2"]["updates"]` and so on."""

    directory: Path
    ranks: list[dict[str, Any]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    """By number of ranks. All three processes run side by side."""
    root = tmp_path_factory.mktemp("zero")
    tiny_llama(seed=5).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    job = {
        "model_path": str(root / "model"),
        "learner": LEARNER,
        "algorithm": ALGORITHM,
        "temperature": TEMPERATURE,
        "samples": [dataclasses.asdict(s) for s in make_samples()],
        "whole": WHOLE,
        "variants": {**VARIANTS, **LORA_VARIANTS, **OTHERS},
    }
    processes: list[subprocess.Popen[bytes]] = []
    logs: list[Path] = []
    for num_ranks in (1, 2):
        directory = root / f"ranks{num_ranks}"
        processes += start(directory, job, num_ranks)
        logs += [directory / f"rank{rank}.log" for rank in range(num_ranks)]
    wait_for(processes, logs)
    return {
        n: Run(
            directory=root / f"ranks{n}",
            ranks=[
                json.loads((root / f"ranks{n}" / f"rank{rank}.json").read_text())
                for rank in range(n)
            ],
        )
        for n in (1, 2)
    }


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in COMPARED:
        assert found[name] == pytest.approx(expected[name], rel=RELATIVE, abs=1e-8), name
    for name in found["numerics"].keys() - {"num_flop"}:
        expected_value = pytest.approx(expected["numerics"][name], rel=1e-4, abs=1e-6)
        assert found["numerics"][name] == expected_value, name


# ----------------------------------------------------------------------------


def test_the_batch_has_several_micro_batches_and_an_empty_one() -> None:
    # What the other tests rely on.
    plan = plan_micro_batches(LENGTHS, num_ranks=2, token_budget=MICRO_BATCH_TOKENS)
    assert len(plan[0]) >= 3
    assert () in plan[1]


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_same_steps_as_one(runs: dict[int, Run], stage: int) -> None:
    one = runs[1].ranks[0][f"stage{stage}"]["updates"]
    for rank in runs[2].ranks:
        for found, expected in zip(rank[f"stage{stage}"]["updates"], one, strict=True):
            close(found, expected)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("stage", [2, 3])
def test_the_stages_agree(runs: dict[int, Run], num_ranks: int, stage: int) -> None:
    first = runs[num_ranks].ranks[0]["stage1"]["updates"]
    for found, expected in zip(
        runs[num_ranks].ranks[0][f"stage{stage}"]["updates"], first, strict=True
    ):
        close(found, expected)


@pytest.mark.parametrize("stage", STAGES)
def test_weights_after_two_steps_are_the_same_everywhere(runs: dict[int, Run], stage: int) -> None:
    expected = load_file(runs[1].directory / "stage1.safetensors")
    initial = dict(tiny_llama(seed=5).named_parameters())
    assert expected.keys() == initial.keys()
    # A step is about lr = 1e-3 for each weight: it is seen, beside the tolerance.
    assert (expected["lm_head.weight"] - initial["lm_head.weight"]).abs().mean() > 3e-4
    for num_ranks in (1, 2):
        found = load_file(runs[num_ranks].directory / f"stage{stage}.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=WEIGHT_ATOL)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_weights_read_many_times_are_the_same_each_time(
    runs: dict[int, Run], num_ranks: int, name: str
) -> None:
    for rank in runs[num_ranks].ranks:
        assert rank[name]["reads_agree"]


@pytest.mark.parametrize("variant", MEMORY_SAVERS)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_what_saves_memory_changes_no_number(
    runs: dict[int, Run], num_ranks: int, variant: str
) -> None:
    # Many micro-batches instead of one, packed or padded, logits in chunks or whole,
    # recomputed activations, offloaded state.
    rank = runs[num_ranks].ranks[0]
    stage = VARIANTS[variant]["zero_stage"]
    for found, expected in zip(rank[variant], rank[f"stage{stage}"]["updates"], strict=True):
        close(found, expected)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("variant", [*(f"lora{stage}" for stage in STAGES), *LORA_VARIANTS])
def test_adapters_get_the_same_gradient_on_every_layout(
    runs: dict[int, Run], num_ranks: int, variant: str
) -> None:
    # Ranks, stages, packing; and the reference: a copy, or the policy with its adapters off.
    expected = runs[1].ranks[0]["lora1"]["updates"]
    found = runs[num_ranks].ranks[0][variant]
    for result, expected_result in zip(
        found if variant in LORA_VARIANTS else found["updates"], expected, strict=True
    ):
        close(result, expected_result)


def test_adapters_learn_and_leave_what_they_adapt_alone(runs: dict[int, Run]) -> None:
    initial = dict(tiny_llama(seed=5).named_parameters())
    first, second = runs[1].ranks[0]["lora1"]["updates"]
    assert first["kl_ref"] == pytest.approx(0, abs=1e-7)
    assert second["kl_ref"] > 1e-6
    for num_ranks in (1, 2):
        for stage in STAGES:
            merged = load_file(runs[num_ranks].directory / f"lora{stage}.safetensors")
            assert merged.keys() == initial.keys()
            for name, tensor in merged.items():
                changed = (tensor - initial[name]).abs().max().item()
                assert (changed > 1e-5) == name.endswith("_proj.weight"), name


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_entropy_bonus_is_the_same_on_every_layout_and_raises_the_entropy(
    runs: dict[int, Run], num_ranks: int
) -> None:
    rank = runs[num_ranks].ranks[0]
    for name in ("entropy2", "entropy3"):
        for found, expected in zip(rank[name], runs[1].ranks[0]["entropy2"], strict=True):
            close(found, expected)
    with_bonus, without = rank["entropy2"], rank["stage2"]["updates"]
    assert with_bonus[0]["loss"] == pytest.approx(
        without[0]["loss"] - 0.1 * without[0]["entropy"], rel=1e-4
    )
    assert with_bonus[1]["entropy"] > without[1]["entropy"]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_without_a_reference_the_update_is_that_without_a_kl(
    runs: dict[int, Run], num_ranks: int
) -> None:
    rank = runs[num_ranks].ranks[0]
    for found, expected in zip(rank["no_reference"], rank["no_kl"], strict=True):
        assert found["kl_ref"] is found["numerics"]["kl_ref_k1"] is None
        assert expected["kl_ref"] is not None
        for name in ("loss", "grad_norm", "entropy"):
            assert found[name] == expected[name]
        # A fourth of the arithmetic was the reference's.
        assert found["numerics"]["num_flop"] == 0.75 * expected["numerics"]["num_flop"]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_bfloat16_comes_close_to_float32(runs: dict[int, Run], num_ranks: int) -> None:
    # It has 8 bits of mantissa: a relative rounding of 2^-9 = 0.002 in each operation. The
    # second step starts elsewhere, since small changes of a weight round away.
    rank = runs[num_ranks].ranks[0]
    found, expected = rank["bfloat16"][0], rank["stage2"]["updates"][0]
    assert found["entropy"] == pytest.approx(expected["entropy"], rel=0.02)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.1)


def test_the_first_step_starts_at_the_reference_and_the_second_has_left_it(
    runs: dict[int, Run],
) -> None:
    first, second = runs[1].ranks[0]["stage1"]["updates"]
    assert first["kl_ref"] == pytest.approx(0, abs=1e-7)
    assert second["kl_ref"] > 1e-4
    assert [first["policy_version"], second["policy_version"]] == [1, 2]


def test_the_learning_rate_warms_up(runs: dict[int, Run]) -> None:
    # 0.4 of 10 planned steps: a quarter of 1e-3, then two quarters.
    updates = runs[2].ranks[1]["stage3"]["updates"]
    assert [u["learning_rate"] for u in updates] == pytest.approx([2.5e-4, 5e-4])


def test_tokens_are_counted_once(runs: dict[int, Run]) -> None:
    # The prompts have 59 tokens and the completions 69; an empty micro-batch counts none.
    assert runs[1].ranks[0]["stage2"]["updates"][0]["num_tokens"] == 128
    assert runs[2].ranks[1]["stage2"]["updates"][0]["num_tokens"] == 128


@pytest.mark.parametrize("stage", STAGES)
def test_log_probs_are_the_same_on_every_rank_and_stage(runs: dict[int, Run], stage: int) -> None:
    expected = runs[1].ranks[0]["stage1"]["log_probs"]
    for rank in (*runs[1].ranks, *runs[2].ranks):
        found = rank[f"stage{stage}"]["log_probs"]
        assert [len(row) for row in found] == [num for _, num in LENGTHS]
        for row, expected_row in zip(found, expected, strict=True):
            assert row == pytest.approx(expected_row, abs=1e-4)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_loaded_checkpoint_continues_bit_for_bit(
    runs: dict[int, Run], num_ranks: int, name: str
) -> None:
    for rank in runs[num_ranks].ranks:
        checkpoint = rank[name]["checkpoint"]
        undisturbed, same_learner, fresh_learner = checkpoint["results"]
        assert undisturbed["policy_version"] == 3
        assert same_learner == undisturbed
        assert fresh_learner == undisturbed
        assert checkpoint["versions"] == [2, 2]
        assert checkpoint["weights_equal"] == [True, True]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_exported_directory_is_a_model_with_the_same_weights(
    runs: dict[int, Run], num_ranks: int, name: str
) -> None:
    for rank in runs[num_ranks].ranks:
        export = rank[name]["export"]
        assert export.pop("num_files") > 1
        assert export == {"equal": True, "stop_token_ids": [2], "use_cache": True}
        assert rank[name]["shapes_agree"]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_loss_that_is_not_finite_stops_every_rank_before_the_step(
    runs: dict[int, Run], num_ranks: int, name: str
) -> None:
    for rank in runs[num_ranks].ranks:
        diverged = rank[name]["diverged"]
        assert "the loss of step 0 is nan" in diverged["error"]
        assert diverged["version_unchanged"]
        assert diverged["weights_unchanged"]


def test_the_policy_is_in_evaluation_mode_so_that_dropout_is_off(runs: dict[int, Run]) -> None:
    assert not any(runs[1].ranks[0][f"stage{stage}"]["training_mode"] for stage in STAGES)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_checkpoint_of_adapters_holds_nothing_else(
    runs: dict[int, Run], num_ranks: int, stage: int
) -> None:
    rank = runs[num_ranks].ranks[0]
    whole, adapters = (
        rank[f"{kind}{stage}"]["checkpoint"]["num_bytes"] for kind in ("stage", "lora")
    )
    assert adapters < whole / 2
