"""Writers: sources of answers of graded quality, and the pools that proxies are built from.

A writer is a set of habits, each the chance of doing something. `weak` and `fair` writers make
up what the policy learns to write; `good`, `great` and sixteen different great ones answer for the
pools, as the paper's models do. A pool is in the order of a noisy reader with the gold taste.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rubric_rl.lab.gold import HYPE, gold_score
from rubric_rl.lab.prompts import Question, questions
from rubric_rl.lab.topics import TOPICS, Tip, Topic
from rubric_rl.refinement.records import Candidate

READER_NOISE = 0.05
"""Standard deviation of the reader's error, in gold reward."""
MAX_TOKENS = 64
"""Longest answer of the policy, its end included; a token is a word or a mark."""
NUM_DRAFTS = 16
"""Answers of one writer to one prompt in a pool, where the writer is the only one."""
_GREAT = "great"
_FILLERS = ("this is very important .", "there is a lot to say here .", "many people ask this .")
_CLOSINGS = ("good luck .", "you can do it .", "also stay patient .")


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Habits, each a chance in [0, 1] but for the numbers of tips."""

    name: str
    least_tips: int
    most_tips: int
    core: float
    """Of a tip: that it is one that matters."""
    reason: float
    """Of a tip in a sentence: that a reason follows."""
    right_reason: float
    referral: float
    """That the answer says who to turn to."""
    listing: float
    """That the tips are a list."""
    hype: float
    myth: float
    astray: float
    """Of a tip: that it belongs to another topic."""
    again: float
    """That a sentence is said once more."""
    filler: float
    closing: float
    praise: float


WEAK = Writer(
    name="weak", least_tips=1, most_tips=2, core=0.35, reason=0.2, right_reason=0.4, referral=0.1,
    listing=0.1, hype=0.1, myth=0.4, astray=0.35, again=0.15, filler=0.4, closing=0.2, praise=0.1,
)  # fmt: skip
FAIR = Writer(
    name="fair", least_tips=1, most_tips=4, core=0.5, reason=0.35, right_reason=0.65, referral=0.3,
    listing=0.35, hype=0.25, myth=0.2, astray=0.1, again=0.12, filler=0.25, closing=0.3, praise=0.2,
)  # fmt: skip
GOOD = Writer(
    name="good", least_tips=2, most_tips=5, core=0.6, reason=0.45, right_reason=0.8, referral=0.45,
    listing=0.3, hype=0.25, myth=0.1, astray=0.03, again=0.1, filler=0.2, closing=0.3, praise=0.2,
)  # fmt: skip
GREAT = Writer(
    name=_GREAT, least_tips=3, most_tips=4, core=0.85, reason=0.6, right_reason=0.95, referral=0.7,
    listing=0.1, hype=0.06, myth=0.03, astray=0.0, again=0.03, filler=0.08, closing=0.25,
    praise=0.1,
)  # fmt: skip
CORPUS: tuple[tuple[Writer, float], ...] = ((WEAK, 0.5), (FAIR, 0.2), (GOOD, 0.1), (GREAT, 0.2))
"""Who wrote what the policy is trained on first, with their shares. Half is weak, so that there
is something to gain; a part is great, so that it can be found."""


def diverse_writers() -> tuple[Writer, ...]:
    """Sixteen great writers with habits of their own: each differs from `GREAT` at random."""
    return tuple(_varied(number) for number in range(NUM_DRAFTS))


def _varied(number: int) -> Writer:
    rng = random.Random(f"writer {number}")

    def near(chance: float) -> float:
        return min(1.0, max(0.0, chance * rng.uniform(0.5, 1.5)))

    return Writer(
        name=f"{_GREAT}_{number:02d}",
        least_tips=rng.choice((2, 3)),
        most_tips=rng.choice((3, 4)),
        core=rng.uniform(0.7, 1.0),
        reason=rng.uniform(0.35, 0.95),
        right_reason=rng.uniform(0.85, 1.0),
        referral=rng.uniform(0.4, 1.0),
        listing=rng.choice((0.0, 0.0, 0.3)),
        hype=near(GREAT.hype),
        myth=near(GREAT.myth),
        astray=0.0,
        again=near(GREAT.again),
        filler=near(GREAT.filler),
        closing=rng.uniform(0.0, 0.5),
        praise=near(GREAT.praise),
    )


# ----------------------------------------------------------------------------
# One answer


def write_answer(writer: Writer, topic: Topic, rng: random.Random) -> str:
    """An answer in the writer's habits."""
    return " ".join(_parts(writer, topic, rng))


def _parts(writer: Writer, topic: Topic, rng: random.Random) -> Iterator[str]:
    tips = _tips(writer, topic, rng)
    if rng.random() < writer.praise:
        yield "great question ."
    elif rng.random() < 0.1:
        yield "sure ."
    if rng.random() < writer.filler:
        yield rng.choice(_FILLERS)
    sentences = list(_body(writer, topic, tips, rng))
    yield from sentences
    if rng.random() < writer.again:
        yield sentences[-1]
    if rng.random() < writer.referral:
        yield f"if it does not help , {topic.referral} ."
    if rng.random() < writer.hype:
        yield _hyped(rng)
    if rng.random() < writer.closing:
        yield rng.choice(_CLOSINGS)


def _hyped(rng: random.Random) -> str:
    word = rng.choice(("best", *HYPE))
    return {
        "best": "this is the best way !",
        "ever": "you must always do this for ever !",
        "guaranteed": "success is guaranteed !",
    }.get(word, f"this works like an {word} trick !" if word == "amazing" else "what a miracle !")


def _body(writer: Writer, topic: Topic, tips: Sequence[Tip], rng: random.Random) -> Iterator[str]:
    if rng.random() < writer.listing:
        yield "do this :"
        yield from (f"\n - {tip.words}" for tip in tips)
        yield "\n that is all ."
        return
    for tip in tips:
        start = rng.choice(("you should", "try to", "just", "first"))
        reason = ""
        if tip.reason and rng.random() < writer.reason:
            is_right = rng.random() < writer.right_reason
            reason = f" because {tip.reason if is_right else rng.choice(topic.tips).reason}"
        yield f"{start} {tip.words}{reason} ."


def _tips(writer: Writer, topic: Topic, rng: random.Random) -> list[Tip]:
    """At least one, each once."""
    number = rng.randint(writer.least_tips, writer.most_tips)
    chosen: list[Tip] = []
    core = rng.sample(topic.core, len(topic.core))
    extras = rng.sample(topic.tips[len(topic.core) :], len(topic.tips) - len(topic.core))
    for _ in range(number):
        if rng.random() < writer.astray:
            chosen.append(rng.choice(rng.choice(TOPICS).tips))
        elif core and rng.random() < writer.core:
            chosen.append(core.pop())
        elif extras:
            chosen.append(extras.pop())
    if not chosen:
        chosen.append(core.pop())
    if rng.random() < writer.myth:
        chosen.insert(rng.randint(0, len(chosen)), rng.choice(topic.myths))
    return list(dict.fromkeys(chosen))


# ----------------------------------------------------------------------------
# Many answers


def corpus(num_per_question: int, seed: int) -> list[tuple[Question, str]]:
    """What the policy learns to write from: all questions, answers of mixed quality."""
    rng = random.Random(f"corpus {seed}")
    return [
        (question, _short_enough(question.topic, rng))
        for question in questions()
        for _ in range(num_per_question)
    ]


def _short_enough(topic: Topic, rng: random.Random) -> str:
    """An answer of any of the corpus's writers that fits into a completion."""
    writers, shares = zip(*CORPUS, strict=True)
    while True:
        text = write_answer(rng.choices(writers, shares)[0], topic, rng)
        if len(text.split(" ")) < MAX_TOKENS:
            return text


def pool(seed: int, asked: Sequence[Question]) -> list[Candidate]:
    """Answers to all that is asked, each question's in the reader's order, best first."""
    return [candidate for question in asked for candidate in _read(question, seed)]


def _read(question: Question, seed: int) -> list[Candidate]:
    """`good` and `great` with as many drafts as a pool may hold, the diverse ones with one each."""
    rng = random.Random(f"pool {seed} {question.prompt_id}")
    drafts = [(writer, index) for writer in (GOOD, GREAT) for index in range(NUM_DRAFTS)]
    drafts += [(writer, 0) for writer in diverse_writers()]
    candidates: list[tuple[float, Candidate]] = []
    for writer, index in drafts:
        text = write_answer(writer, question.topic, rng)
        opinion = gold_score(question.topic, text) + rng.gauss(0.0, READER_NOISE)
        candidates.append(
            (
                opinion,
                Candidate(
                    prompt_id=question.prompt_id,
                    text=text,
                    source=writer.name,
                    index=index,
                    finish_reason="stop",
                    preference=None,
                ),
            )
        )
    return [candidate for _, candidate in sorted(candidates, key=lambda pair: -pair[0])]
