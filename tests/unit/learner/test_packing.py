"""Packed micro-batches: no padding, shared prompts once, and the numbers of padded ones."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from rubric_rl.errors import ModelError
from rubric_rl.learner import packed_attention
from rubric_rl.learner.batch import (
    MicroBatchTensors,
    build_micro_batch,
    build_packed_micro_batch,
    without_weight,
)
from rubric_rl.learner.log_probs import (
    ChunkedHead,
    check_packing,
    completion_log_probs,
    find_chunked_head,
)
from rubric_rl.learner.microbatches import plan_micro_batches
from rubric_rl.types import TrainSample

from ...tiny_llama import VOCAB_SIZE, tiny_llama

CPU = torch.device("cpu")


def sample(
    prompt: tuple[int, ...], completion: tuple[int, ...], mask: tuple[int, ...] | None = None
) -> TrainSample:
    return TrainSample(
        prompt_token_ids=prompt,
        completion_token_ids=completion,
        rollout_log_probs=(-1.0,) * len(completion),
        loss_mask=mask or (1,) * len(completion),
        advantage=0.5,
    )


def random_samples(rng: random.Random, samples_per_prompt: list[int]) -> list[TrainSample]:
    def ids(longest: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, longest)))

    samples: list[TrainSample] = []
    for count in samples_per_prompt:
        prompt = ids(9)
        for _ in range(count):
            completion = ids(7)
            mask = (1, *(rng.randint(0, 1) for _ in completion[1:]))
            samples.append(sample(prompt, completion, mask))
    return samples


def packing_llama(seed: int = 0) -> LlamaForCausalLM:
    model = tiny_llama(seed=seed)
    model.set_attn_implementation(packed_attention.NAME)
    return model


# ----------------------------------------------------------------------------
# Layout


def test_the_drawing_in_the_docstring() -> None:
    batch = build_packed_micro_batch(
        [
            sample((1, 2, 3), (4, 5, 6, 7)),
            sample((1, 2, 3), (8, 9)),
            sample((10, 11, 12, 13), (14, 15, 16)),
        ],
        CPU,
    )
    assert batch.input_ids.tolist() == [[*range(1, 17)]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 3, 4, 0, 1, 2, 3, 4, 5, 6]]
    # Both completions of the first prompt start after its third token.
    assert batch.predictors.tolist() == [[2, 3, 4, 5], [2, 7, 0, 0], [12, 13, 14, 0]]
    assert batch.packed_layout is not None
    first, second = batch.packed_layout
    assert (first.prompt_start, first.prompt_end) == (0, 3)
    # Padding repeats the first token of its completion, and is in no output.
    assert first.padded_n_T.tolist() == [[3, 4, 5, 6], [7, 8, 7, 7]]
    assert first.real_N.tolist() == [0, 1, 2, 3, 4, 5]
    assert [row.nonzero().flatten().tolist() for row in first.seen_TS] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5, 6],
    ]
    assert (second.prompt_start, second.prompt_end) == (9, 13)
    assert second.padded_n_T.tolist() == [[13, 14, 15]]
    assert batch.completion_ids.tolist() == [[4, 5, 6, 7], [8, 9, 0, 0], [14, 15, 16, 0]]
    assert batch.num_real_tokens == 7 + 5 + 7


def test_padded_samples_are_predicted_one_token_before() -> None:
    batch = build_micro_batch([sample((1, 2), (3, 4, 5)), sample((6, 7, 8), (9,))], CPU)
    #  . 1 2 | 3 4 5      flat positions 0 to 5, then 6 to 11
    #  6 7 8 | 9 . .
    assert batch.predictors.tolist() == [[2, 3, 4], [8, 0, 0]]


def test_completions_that_are_prompts_of_others_are_kept_apart() -> None:
    samples = [sample((1, 2), (3,)), sample((1, 2, 3), (4,)), sample((1, 2), (3,))]
    batch = build_packed_micro_batch(samples, CPU)
    # The first prompt comes again, not beside its first use: it is packed again.
    assert batch.input_ids.tolist() == [[1, 2, 3, 1, 2, 3, 4, 1, 2, 3]]


# ----------------------------------------------------------------------------
# Numbers


def loss_and_gradient(
    model: LlamaForCausalLM, batch: MicroBatchTensors
) -> tuple[Tensor, list[Tensor]]:
    result = completion_log_probs(
        model, batch, temperature=0.8, head=ChunkedHead(model.lm_head, 4), entropy="gradient"
    )
    values = torch.stack([result.log_probs, result.entropy])
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(values.shape, generator=generator)
    gradient = torch.autograd.grad((weights * values).sum(), list(model.parameters()))
    return values.detach(), list(gradient)


@settings(max_examples=25, deadline=None)
@given(
    samples_per_prompt=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_log_probs_entropies_and_gradients_equal_the_padded_ones(
    samples_per_prompt: list[int], seed: int
) -> None:
    samples = random_samples(random.Random(seed), samples_per_prompt)
    model = packing_llama(seed=2)
    expected, expected_gradient = loss_and_gradient(model, build_micro_batch(samples, CPU))
    packed = build_packed_micro_batch(samples, CPU)
    found, found_gradient = loss_and_gradient(model, packed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    largest = max(gradient.abs().max().item() for gradient in expected_gradient)
    torch.testing.assert_close(found_gradient, expected_gradient, rtol=0, atol=1e-5 * largest)


def test_a_packed_share_without_weight_counts_nothing() -> None:
    model = packing_llama()
    batch = build_packed_micro_batch([sample((1, 2), (3, 4))], CPU)
    _, gradient = loss_and_gradient(model, without_weight(batch))
    assert not any(g.any() for g in gradient)


# ----------------------------------------------------------------------------
# Plan


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), min_size=3, max_size=30),
    st.integers(1, 3),
    st.integers(40, 200),
)
def test_a_packed_plan_keeps_the_budget_and_drops_no_sample(
    samples: list[tuple[int, int]], num_ranks: int, token_budget: int
) -> None:
    prompts = [prompt for prompt, _ in samples]
    lengths = [(10 + prompt, completion) for prompt, completion in samples]
    plan = plan_micro_batches(
        lengths, num_ranks=num_ranks, token_budget=token_budget, shared_prompts=prompts
    )
    assert sorted(i for rank in plan for m in rank for i in m) == list(range(len(samples)))
    assert len({len(rank) for rank in plan}) == 1
    for micro_batch in (m for rank in plan for m in rank if len(m) > 1):
        order = [prompts[i] for i in micro_batch]
        assert len(set(order)) == sum(a != b for a, b in zip([None, *order], order, strict=False))
        assert sum(10 + p for p in set(order)) + sum(lengths[i][1] for i in micro_batch) <= (
            token_budget
        )


def test_a_group_of_samples_fits_a_budget_that_padding_would_exceed() -> None:
    # 8 samples of a prompt of 40 and completions of 50: 440 tokens packed, 720 padded.
    lengths = [(40, 50)] * 8
    packed = plan_micro_batches(
        lengths, num_ranks=1, token_budget=450, shared_prompts=["one prompt"] * 8
    )
    assert packed == [[(0, 1, 2, 3, 4, 5, 6, 7)]]
    assert len(plan_micro_batches(lengths, num_ranks=1, token_budget=450)[0]) == 2


# ----------------------------------------------------------------------------
# Which models


def test_a_model_with_full_attention_can_pack() -> None:
    model = packing_llama()
    check_packing(model, find_chunked_head(model, 16))


def test_a_padded_batch_is_attended_to_as_by_sdpa() -> None:
    samples = random_samples(random.Random(3), [2, 3])
    batch = build_micro_batch(samples, CPU)
    expected, _ = loss_and_gradient(tiny_llama(seed=2), batch)
    found, _ = loss_and_gradient(packing_llama(seed=2), batch)
    assert torch.equal(found, expected)


def test_another_attention_is_found_out() -> None:
    model = tiny_llama()  # sdpa, which knows no layout
    with pytest.raises(ModelError, match=r"log-probs of packed samples are off by"):
        check_packing(model, find_chunked_head(model, 16))


class BlindToLayouts(LlamaForCausalLM):
    """Doesn't hand on what it doesn't know."""

    def forward(self, *args, packed_layout=None, **kwargs):  # type: ignore[no-untyped-def]
        return super().forward(*args, **kwargs)


def test_a_model_that_ignores_the_layout_is_found_out() -> None:
    model = BlindToLayouts(packing_llama().config).eval()
    with pytest.raises(ModelError, match=r"BlindToLayouts: log-probs of packed samples are off by"):
        check_packing(model, find_chunked_head(model, 16))


def test_a_sliding_window_is_refused() -> None:
    config = MistralConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=64,
    )
    model = MistralForCausalLM(config).eval()
    with pytest.raises(ModelError, match=r"a sliding window. Set learner.packing=false"):
        check_packing(model, find_chunked_head(model, 16))


def test_a_head_that_is_not_split_is_refused() -> None:
    with pytest.raises(ModelError, match="its head is not applied in chunks"):
        check_packing(tiny_llama(), None)
