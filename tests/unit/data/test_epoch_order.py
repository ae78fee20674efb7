"""Order and seeds are fixed by their arguments alone."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from rubric_rl.data.order import epoch_order, sample_seed

seeds = st.integers(min_value=0, max_value=2**40)
epochs = st.integers(min_value=0, max_value=100)


def test_golden_orders() -> None:
    assert epoch_order(8, seed=0, epoch=0, shuffle=True) == [2, 3, 7, 6, 5, 1, 0, 4]
    assert epoch_order(8, seed=0, epoch=1, shuffle=True) == [5, 0, 1, 3, 2, 4, 7, 6]
    assert epoch_order(8, seed=1, epoch=0, shuffle=True) == [2, 0, 3, 4, 7, 5, 1, 6]


def test_golden_seeds() -> None:
    assert sample_seed(0, "train", 0, "h001", 0) == 11912584
    assert sample_seed(7, "eval", 3, "fin\u00e9", 15) == 1637988847


@given(st.integers(min_value=0, max_value=50), seeds, epochs)
def test_a_shuffled_epoch_takes_every_prompt_once(num_prompts: int, seed: int, epoch: int) -> None:
    order = epoch_order(num_prompts, seed=seed, epoch=epoch, shuffle=True)
    assert sorted(order) == list(range(num_prompts))


@given(st.integers(min_value=0, max_value=50), seeds, epochs)
def test_without_shuffle_the_order_is_the_files(num_prompts: int, seed: int, epoch: int) -> None:
    order = epoch_order(num_prompts, seed=seed, epoch=epoch, shuffle=False)
    assert order == list(range(num_prompts))


def test_every_place_is_equally_likely_over_epochs() -> None:
    # 2,000 epochs of 4 prompts: 500 expected at each place, standard deviation 19.4.
    firsts = [epoch_order(4, seed=5, epoch=epoch, shuffle=True)[0] for epoch in range(2000)]
    assert all(abs(firsts.count(index) - 500) < 5 * 19.4 for index in range(4))


@given(seeds, st.text(max_size=5), epochs, st.text(max_size=5), st.integers(0, 64))
def test_a_seed_is_a_31_bit_number(
    run_seed: int, purpose: str, epoch: int, prompt_id: str, sample_index: int
) -> None:
    assert 0 <= sample_seed(run_seed, purpose, epoch, prompt_id, sample_index) < 2**31


def test_every_argument_changes_the_seed() -> None:
    variants = [
        sample_seed(0, "train", 0, "p", 0),
        sample_seed(1, "train", 0, "p", 0),
        sample_seed(0, "eval", 0, "p", 0),
        sample_seed(0, "train", 1, "p", 0),
        sample_seed(0, "train", 0, "q", 0),
        sample_seed(0, "train", 0, "p", 1),
    ]
    assert len(set(variants)) == len(variants)


def test_another_process_gives_the_same_order_and_seeds() -> None:
    code = (
        "from rubric_rl.data.order import epoch_order, sample_seed\n"
        "print(epoch_order(8, seed=3, epoch=2, shuffle=True), sample_seed(3, 'train', 2, 'p', 1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    order = epoch_order(8, seed=3, epoch=2, shuffle=True)
    assert done.stdout.strip() == f"{order} {sample_seed(3, 'train', 2, 'p', 1)}"
