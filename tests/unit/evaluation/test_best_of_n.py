"""Best of n: draws, ties, unscored answers; expectations by hand."""

import numpy as np
import pytest

from rubric_rl.evaluation.best_of_n import Rewarded, best_of
from rubric_rl.refinement.records import Candidate
from rubric_rl.theory.answers import expected_best_of_n


def answers(*rewards: float | None) -> list[Rewarded]:
    return [
        Rewarded(
            candidate=Candidate(prompt_id="p", text=f"answer {i}", source="m", index=i),
            reward=reward,
        )
        for i, reward in enumerate(rewards)
    ]


def chosen(own: list[Rewarded], n: int, seed: int) -> int:
    pick = best_of(own, n, seed=seed)
    assert pick is not None
    return pick.candidate.index


def test_of_all_answers_the_best_is_taken_whatever_the_draw():
    assert {chosen(answers(0.1, 0.9, 0.5), 3, seed) for seed in range(20)} == {1}


def test_best_of_one_is_any_answer_and_best_of_two_never_the_worst():
    own = answers(0.1, 0.9, 0.5)
    assert {chosen(own, 1, seed) for seed in range(50)} == {0, 1, 2}
    assert {chosen(own, 2, seed) for seed in range(50)} == {1, 2}


def test_a_larger_n_never_gives_less():
    own = answers(*(((7 * i) % 16) / 16 for i in range(16)))
    for seed in range(10):
        rewards = [own[chosen(own, n, seed)].reward or 0.0 for n in range(1, 17)]
        assert rewards == sorted(rewards)


def test_equal_rewards_are_chosen_from_by_chance():
    assert {chosen(answers(0.5, 0.5), 2, seed) for seed in range(50)} == {0, 1}


def test_an_unscored_answer_is_never_chosen_and_never_makes_up_the_number():
    own = answers(None, 0.2, 0.1)
    assert {chosen(own, 2, seed) for seed in range(20)} == {1}
    assert best_of(own, 3, seed=0) is None


def test_expected_values_of_the_best_of_n():
    # Proxy orders d < c < (a = b). Of the 6 pairs: ab -> a or b by half, ac, ad -> a,
    # bc, bd -> b, cd -> c. Gold 1, 0, 4, 2: (0.5 + 1 + 1 + 0 + 0 + 4) / 6.
    proxy, gold = np.array([0.9, 0.9, 0.5, 0.1]), np.array([1.0, 0.0, 4.0, 2.0])
    assert expected_best_of_n(proxy, gold, 1) == pytest.approx(7 / 4)
    assert expected_best_of_n(proxy, gold, 2) == pytest.approx(6.5 / 6)
    assert expected_best_of_n(proxy, gold, 4) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="1 to 4"):
        expected_best_of_n(proxy, gold, 5)
