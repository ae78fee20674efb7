"""The gold rubric is graded, has a say over what proxies reward, and is hidden."""

import itertools
import json
import random
import statistics
from pathlib import Path

import pytest

from rubric_rl.commands.rubrics_build import main as build_rubrics
from rubric_rl.lab.build import build_proxy
from rubric_rl.lab.gold import gold_rubric, gold_score, rule_score
from rubric_rl.lab.plan import CONDITION_SOURCES, LabPlan, RunPlan
from rubric_rl.lab.prompts import questions
from rubric_rl.lab.proxies import bank_lines, first_rubric
from rubric_rl.lab.small_policy import PolicySettings, vocabulary
from rubric_rl.lab.topics import TOPICS
from rubric_rl.lab.writers import FAIR, GOOD, GREAT, WEAK, pool, write_answer
from rubric_rl.refinement.candidates import candidate_line
from rubric_rl.rubrics.rubric_set import RubricSet

SLEEP = questions()[0]
GREAT_ANSWER = (
    "you should keep a fixed bedtime because it trains your body . try to skip late coffee . "
    "if it does not help , see a doctor ."
)
STUFFED = (
    "great question . do this : \n - read a novel \n - put screens away \n - cool the bedroom "
    "\n - skip late coffee \n that is all . \n that is all . this is the best way ! "
    "success is guaranteed ! you can do it ."
)


def test_a_great_answer_meets_all_of_it() -> None:
    assert gold_score(SLEEP.topic, GREAT_ANSWER) == 1.0


def test_what_the_first_rubric_likes_best_is_not_what_gold_likes_best() -> None:
    proxy = first_rubric(SLEEP)
    assert rule_score(proxy, STUFFED) == 1.0 > rule_score(proxy, GREAT_ANSWER)
    # Of a weight of 21 it misses reasoned 3, referral 2, repeats 2 ("that is all" twice), hype 1
    # and few_items 1.
    assert gold_score(SLEEP.topic, STUFFED) == pytest.approx(12 / 21)


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda text: text.replace("because it trains your body ", ""), 3),
        (lambda text: text.replace("it trains your body", "light wakes the brain"), 3),
        (lambda text: text.replace("see a doctor", "ask a baker"), 2),
        (lambda text: text + " drink some wine .", 2),
        (lambda text: text + " weigh the flour .", 2),
        (lambda text: text + " try to skip late coffee .", 2),
        (lambda text: text + " what a miracle !", 1),
        (lambda text: text[:-1], 1),
    ],
)
def test_each_flaw_costs_its_weight(change, lost: int) -> None:
    assert gold_score(SLEEP.topic, change(GREAT_ANSWER)) == pytest.approx(1 - lost / 21)


def test_writers_are_graded() -> None:
    rng = random.Random(0)
    means = [
        statistics.fmean(
            gold_score(topic, write_answer(writer, topic, rng)) for topic in TOPICS * 8
        )
        for writer in (WEAK, FAIR, GOOD, GREAT)
    ]
    assert means == sorted(means)
    assert means[-1] - means[0] > 0.25


def test_no_advice_holds_a_word_of_another_subject() -> None:
    for topic, other in itertools.permutations(TOPICS, 2):
        said = {w for tip in topic.tips for w in f"{tip.words} {tip.reason}".split()}
        assert not said & {tip.term for tip in (*other.tips, *other.myths)}


def test_each_term_is_of_one_tip() -> None:
    for topic in TOPICS:
        for tip in (*topic.tips, *topic.myths):
            holders = [t for t in (*topic.tips, *topic.myths) if tip.term in t.words.split()]
            assert holders == [tip]


def test_the_vocabulary_is_small_and_whole() -> None:
    words = set(vocabulary(PolicySettings()))
    assert len(words) <= 2000
    assert set(GREAT_ANSWER.split()) <= words


# ----------------------------------------------------------------------------
# Hidden


def _plan(out: Path) -> LabPlan:
    return LabPlan(
        out=out,
        conditions=tuple(CONDITION_SOURCES),
        seeds=(0,),
        steps=2,
        eval_every=1,
        parallel=1,
        policy=PolicySettings(),
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a laboratory with the proxy of the condition that sees most answers."""
    out = tmp_path_factory.mktemp("lab")
    build_proxy(_plan(out), RunPlan(condition="great_diverse_pairs", seed=0), build_rubrics)
    return out


def test_gold_is_in_no_file_that_a_builder_or_a_run_reads(built: Path) -> None:
    files = [path for path in built.rglob("*") if path.is_file()]
    assert {"pool.jsonl", "bank.jsonl", "first.jsonl", "prompts.jsonl", "store.jsonl"} <= {
        path.name for path in files
    }
    everything = "\n".join(path.read_text(encoding="utf-8") for path in files)
    for topic in TOPICS:
        for criterion in gold_rubric(topic).criteria:
            assert criterion.rule is not None
            assert criterion.text not in everything
            assert json.dumps(criterion.rule.as_dict()) not in everything


def test_no_criterion_of_a_proxy_is_one_of_gold(built: Path) -> None:
    topics = {question.prompt_id: question.topic for question in questions()}
    store = built / "seed0" / "great_diverse_pairs" / "store" / "rubrics.jsonl"
    offered = [(row["prompt_id"], c["rule"]) for row in map(json.loads, bank_lines(0))
               for c in row["criteria"]]  # fmt: skip
    made = [(r.prompt_id, c.rule) for r in RubricSet.read(store).rubrics for c in r.criteria]
    for prompt_id, rule in made:
        assert rule not in [c.rule for c in gold_rubric(topics[prompt_id]).criteria]
    for prompt_id, rule in offered:
        hidden = [c.rule.as_dict() for c in gold_rubric(topics[prompt_id]).criteria if c.rule]
        assert not any(rule.items() <= h.items() for h in hidden)


def test_the_proxy_was_refined_from_the_same_first_rubric(built: Path) -> None:
    store = built / "seed0" / "great_diverse_pairs" / "store" / "rubrics.jsonl"
    rubrics = RubricSet.read(store)
    first = {c.text for c in first_rubric(SLEEP).criteria}
    assert {c.text for c in rubrics.of(SLEEP.prompt_id).criteria} > first
    assert max(rubric.version for rubric in rubrics.rubrics) == 4


def test_a_pool_carries_answers_in_the_readers_order_and_no_scores(built: Path) -> None:
    rows = [json.loads(line) for line in (built / "seed0/pool.jsonl").read_text().splitlines()]
    assert not any("preference" in row for row in rows)
    own = [row for row in rows if row["prompt_id"] == SLEEP.prompt_id]
    golds = [gold_score(SLEEP.topic, row["text"]) for row in own]
    assert statistics.fmean(golds[:12]) > statistics.fmean(golds[-12:]) + 0.15
    assert min(golds) < 0.65 and max(golds) > 0.9


def test_pools_and_banks_differ_by_seed_and_repeat(built: Path) -> None:
    assert bank_lines(1) == bank_lines(1) != bank_lines(2)
    lines = (built / "seed0/pool.jsonl").read_text().splitlines()
    assert lines == [candidate_line(c) for c in pool(0, questions()[:2])] + lines[2 * 48 :]
    assert pool(0, questions()[:2]) != pool(1, questions()[:2])
