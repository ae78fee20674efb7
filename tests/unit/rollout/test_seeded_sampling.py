"""One uniform number for a token gives the distribution that vLLM's race gives."""

from __future__ import annotations

import inspect
import math
from typing import Literal

import pytest
import torch
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from rubric_rl.rollout import seeded_sampling
from rubric_rl.rollout.engine import EngineSpec
from rubric_rl.rollout.seeded_sampling import sample_by_inverse_cdf
from rubric_rl.rollout.vllm_engine import engine_environment


def generators(*seeds: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(seed) for row, seed in enumerate(seeds)}


def test_frequencies_are_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.0, 0.25, 0.125, 0.125])
    num_rows, num_draws = 500, 20
    of_rows = generators(*range(num_rows))
    counts = torch.zeros(5)
    for _ in range(num_draws):
        ids = sample_by_inverse_cdf(probs.expand(num_rows, -1), of_rows)
        counts += torch.bincount(ids, minlength=5)
    total = num_rows * num_draws
    for count, p in zip(counts.tolist(), probs.tolist(), strict=True):
        # Four standard errors; what has no probability never comes.
        assert abs(count / total - p) <= 4 * math.sqrt(p * (1 - p) / total)


def test_the_number_falls_where_the_sum_passes_it() -> None:
    number = torch.rand(1, dtype=torch.float64, generator=torch.Generator().manual_seed(7)).item()
    rest = (1 - number) / 2
    probs = torch.tensor([[number - 0.01, 0.0, 0.02, rest, rest]])
    assert sample_by_inverse_cdf(probs, generators(7)).tolist() == [2]
    # Twice the weights, the same token.
    assert sample_by_inverse_cdf(2 * probs, generators(7)).tolist() == [2]


@pytest.mark.parametrize("num_tokens", [1, 255, 256, 257, 1000, 5000])
def test_blocks_find_what_one_running_sum_finds(num_tokens: int) -> None:
    # Weights of whole numbers, half of them 0, so that all sums are exact.
    of_weights = torch.Generator().manual_seed(num_tokens)
    weights = torch.randint(0, 8, (40, num_tokens), generator=of_weights)
    weights = (weights * (torch.rand(weights.shape, generator=of_weights) < 0.5)).float()
    weights[:, num_tokens // 2] = 1.0
    found = sample_by_inverse_cdf(weights, generators(*range(40)))
    for row, token in enumerate(found.tolist()):
        generator = torch.Generator().manual_seed(row)
        number = torch.rand(1, dtype=torch.float64, generator=generator).item()
        sums = weights[row].double().cumsum(0).tolist()
        assert token == next(i for i, s in enumerate(sums) if s > number * sums[-1])


def test_a_seed_gives_the_same_tokens_beside_any_others() -> None:
    probs = torch.softmax(torch.randn(3, 1000, generator=torch.Generator().manual_seed(1)), -1)

    def draws(rows: list[int]) -> list[list[int]]:
        of_rows = generators(*(100 + row for row in rows))
        return [sample_by_inverse_cdf(probs[rows], of_rows).tolist() for _ in range(5)]

    together = draws([0, 1, 2])
    alone = draws([2])
    assert [step[2] for step in together] == [step[0] for step in alone]


def test_a_token_is_always_found() -> None:
    # A last token without probability, and a sum far below one.
    probs = torch.tensor([[1e-30, 0.0]])
    for seed in range(200):
        assert sample_by_inverse_cdf(probs, generators(seed)).tolist() == [0]


def test_log_probs_are_those_of_the_distribution_that_was_sampled() -> None:
    sampler = TopKTopPSampler(logprobs_mode="processed_logprobs")
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(2))
    ids, log_probs = seeded_sampling._forward_cpu(
        sampler, logits.clone(), generators(1, 2), torch.tensor([3, 50]), None
    )
    assert log_probs is not None
    assert log_probs[0].isfinite().sum() == 3  # top-k of the first row
    torch.testing.assert_close(log_probs[1], logits[1].log_softmax(-1))
    assert log_probs.gather(1, ids[:, None]).isfinite().all()


def test_a_request_without_a_seed_is_sampled_by_vllm() -> None:
    sampler = TopKTopPSampler(logprobs_mode="processed_logprobs")
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(2))
    found = []
    for forward in (seeded_sampling._forward_cpu, seeded_sampling._vllm_forward_cpu):
        torch.manual_seed(0)
        found.append(forward(sampler, logits.clone(), {0: generators(1)[0]}, None, None)[0])
    assert torch.equal(*found)


def test_it_is_asked_for_in_our_engines_on_cpu_only() -> None:
    def engine_spec(device: Literal["cpu", "gpu"]) -> EngineSpec:
        return EngineSpec(
            model_path="some/model",
            stop_token_ids=(2,),
            trust_remote_code=False,
            dtype="float32",
            max_model_tokens=128,
            tensor_parallel_size=1,
            max_concurrent_samples=8,
            gpu_memory_utilization=0.6,
            kv_cache_gib=1.0,
            enforce_eager=True,
            deterministic=True,
            weight_transport="object_store",
            sleep_mode=False,
            seed=0,
            device=device,
            num_threads=1,
        )

    asked = {seeded_sampling.VARIABLE: seeded_sampling.INVERSE_CDF}
    assert asked.items() <= engine_environment(engine_spec("cpu")).items()
    assert seeded_sampling.VARIABLE not in engine_environment(engine_spec("gpu"))


def test_vllm_calls_it_as_it_is_declared() -> None:
    ours, theirs = (
        inspect.signature(f).parameters
        for f in (seeded_sampling._forward_cpu, seeded_sampling._vllm_forward_cpu)
    )
    assert list(ours) == list(theirs) == ["self", "logits", "generators", "k", "p"]
