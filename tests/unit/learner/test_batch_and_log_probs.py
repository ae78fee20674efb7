"""Padding of a micro-batch, and the log-probs that come out of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from rubric_rl.learner.batch import build_micro_batch, without_weight
from rubric_rl.learner.log_probs import TokenLogProbs, completion_log_probs
from rubric_rl.types import TrainSample

from ...tiny_llama import VOCAB_SIZE, tiny_llama

CPU = torch.device("cpu")
# float32, logits of size about 5: rounding of sums over 97 tokens.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama(seed=3)


def sample(
    prompt: Sequence[int],
    completion: Sequence[int],
    *,
    mask: Sequence[int] | None = None,
    advantage: float = 1.0,
) -> TrainSample:
    """Rollout log-probs are -0.5, -1.0, -1.5, ..."""
    return TrainSample(
        prompt_token_ids=tuple(prompt),
        completion_token_ids=tuple(completion),
        rollout_log_probs=tuple(-0.5 * (i + 1) for i in range(len(completion))),
        loss_mask=tuple(mask) if mask is not None else (1,) * len(completion),
        advantage=advantage,
    )


def random_samples(num_samples: int, seed: int) -> list[TrainSample]:
    rng = random.Random(seed)

    def ids(longest: int) -> list[int]:
        return [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, longest))]

    return [sample(ids(9), ids(7)) for _ in range(num_samples)]


# ----------------------------------------------------------------------------
# Layout


def test_prompts_are_padded_on_the_left_and_completions_on_the_right() -> None:
    batch = build_micro_batch(
        [
            sample([11, 12], [21, 22, 23], mask=[1, 0, 1], advantage=0.25),
            sample([13, 14, 15], [24], advantage=-2.0),
        ],
        CPU,
    )
    #   . 11 12 | 21 22 23
    #  13 14 15 | 24  .  .
    assert batch.input_ids.tolist() == [[0, 11, 12, 21, 22, 23], [13, 14, 15, 24, 0, 0]]
    assert batch.attention_mask.tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert batch.completion_ids.tolist() == [[21, 22, 23], [24, 0, 0]]
    assert batch.loss_mask.tolist() == [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert batch.rollout_log_probs.tolist() == [[-0.5, -1.0, -1.5], [-0.5, 0.0, 0.0]]
    assert batch.advantages.tolist() == [0.25, -2.0]
    assert batch.num_real_tokens == 9


def test_positions_count_real_tokens() -> None:
    batch = build_micro_batch([sample([11, 12], [21, 22]), sample([13, 14, 15], [24])], CPU)
    real = batch.attention_mask.bool()
    assert batch.position_ids[0][real[0]].tolist() == [0, 1, 2, 3]
    assert batch.position_ids[1][real[1]].tolist() == [0, 1, 2, 3]


def test_token_zero_is_a_token_like_any_other() -> None:
    batch = build_micro_batch([sample([0, 0], [0])], CPU)
    assert batch.attention_mask.tolist() == [[1, 1, 1]]
    assert batch.loss_mask.tolist() == [[1.0]]


def test_types_are_the_ones_documented() -> None:
    batch = build_micro_batch(random_samples(3, seed=0), CPU)
    for name in ("input_ids", "attention_mask", "position_ids", "completion_ids"):
        assert getattr(batch, name).dtype == torch.int64
    for name in ("loss_mask", "rollout_log_probs", "advantages"):
        assert getattr(batch, name).dtype == torch.float32


def test_a_share_without_weight_keeps_the_shapes_and_counts_nothing() -> None:
    batch = build_micro_batch(random_samples(2, seed=0), CPU)
    empty = without_weight(batch)
    assert torch.equal(empty.input_ids, batch.input_ids)
    assert empty.loss_mask.shape == batch.loss_mask.shape and not empty.loss_mask.any()
    assert not empty.advantages.any()
    assert empty.num_real_tokens == 0


# ----------------------------------------------------------------------------
# Log-probs and entropy


@torch.no_grad()
def run(
    model: LlamaForCausalLM, samples: Sequence[TrainSample], temperature: float
) -> TokenLogProbs:
    return completion_log_probs(model, build_micro_batch(samples, CPU), temperature=temperature)


@torch.no_grad()
def naive(model: LlamaForCausalLM, alone: TrainSample, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs and entropy of one sample from a plain forward pass without padding."""
    ids = torch.tensor([[*alone.prompt_token_ids, *alone.completion_token_ids]])
    logits = model(input_ids=ids).logits[0].double() / temperature
    log_probs = torch.log_softmax(logits, dim=-1)[len(alone.prompt_token_ids) - 1 : -1]
    chosen = log_probs.gather(-1, torch.tensor(alone.completion_token_ids).unsqueeze(-1))
    return chosen.squeeze(-1), -(log_probs.exp() * log_probs).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropy_equal_those_of_each_sample_alone(
    model: LlamaForCausalLM, temperature: float
) -> None:
    samples = random_samples(8, seed=1)
    result = run(model, samples, temperature)
    for row, alone in enumerate(samples):
        length = len(alone.completion_token_ids)
        log_probs, entropy = naive(model, alone, temperature)
        for found, expected in [
            (result.log_probs[row, :length], log_probs),
            (result.entropy[row, :length], entropy),
        ]:
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE)


def test_log_probs_do_not_depend_on_who_else_is_in_the_batch(model: LlamaForCausalLM) -> None:
    samples = random_samples(5, seed=2)
    first = samples[0]
    length = len(first.completion_token_ids)
    alone = run(model, [first], 1.0)
    longer = sample(range(30), range(40))
    together = run(model, [longer, *samples[1:], first], 1.0)
    for name in ("log_probs", "entropy"):
        torch.testing.assert_close(
            getattr(together, name)[-1, :length],
            getattr(alone, name)[0, :length],
            rtol=0,
            atol=TOLERANCE,
        )


def test_temperature_changes_the_log_probs(model: LlamaForCausalLM) -> None:
    samples = random_samples(2, seed=1)
    hot, cold = run(model, samples, 1.0), run(model, samples, 0.7)
    assert (cold.entropy < hot.entropy).all()
    assert not torch.allclose(hot.log_probs, cold.log_probs, atol=0.01)


def test_values_at_padding_are_finite(model: LlamaForCausalLM) -> None:
    # They are multiplied by a mask of zeros, which would not remove a NaN.
    result = run(model, [sample([5], [6]), sample(range(20), range(20))], 1.0)
    assert result.log_probs.isfinite().all()
    assert result.entropy.isfinite().all()


def test_entropy_has_no_gradient_and_log_probs_have(model: LlamaForCausalLM) -> None:
    batch = build_micro_batch(random_samples(2, seed=1), CPU)
    result = completion_log_probs(model, batch, temperature=1.0)
    assert result.log_probs.requires_grad
    assert not result.entropy.requires_grad


def test_the_head_runs_only_where_completion_tokens_are_predicted(model: LlamaForCausalLM) -> None:
    rows: list[torch.Size] = []
    hook = model.lm_head.register_forward_hook(
        lambda _module, inputs, _output: rows.append(inputs[0].shape)
    )
    try:
        run(model, [sample(range(50), [1, 2, 3, 4]), sample([7], [8])], 1.0)
    finally:
        hook.remove()
    # Longest completion 4: 4 positions predict, and one more that is dropped; 2 rows, hidden 32.
    assert rows == [torch.Size([2, 5, 32])]
