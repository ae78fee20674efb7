"""Rules between the judge's settings and other sections; see `checks`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rubric_rl.config.schema import Config


def _judge_backend(config: Config) -> Iterator[str]:
    llm = config.judge.llm
    if llm is None:
        return
    if llm.backend == "openai" and llm.base_url is None:
        yield (
            "judge.llm.backend='openai' needs judge.llm.base_url: give an address like "
            "http://localhost:8000/v1"
        )
    if llm.backend != "openai" and llm.extra_endpoints:
        yield f"judge.llm.extra_endpoints is of no use with judge.llm.backend={llm.backend!r}"
    if llm.backend == "vllm" and llm.base_url is not None:
        yield (
            "judge.llm.backend='vllm' starts servers of its own but judge.llm.base_url is set: "
            "set judge.llm.base_url=null, or judge.llm.backend=openai for a server that runs"
        )
    size = llm.hosted.tensor_parallel_size
    if llm.backend == "vllm" and config.cluster.device == "cpu" and size > 1:
        yield (
            f"judge.llm.hosted.tensor_parallel_size={size} needs GPUs: on cluster.device=cpu use "
            "judge.llm.hosted.num_engines"
        )


def _judge_votes(config: Config) -> Iterator[str]:
    llm = config.judge.llm
    if llm is None:
        return
    if not llm.votes / 2 < llm.majority <= llm.votes:
        yield (
            f"judge.llm.votes_to_decide={llm.votes_to_decide} of judge.llm.votes={llm.votes}: want "
            "more than half of the votes and at most all of them"
        )
    if llm.votes > 1 and llm.temperature == 0:
        yield (
            f"judge.llm.votes={llm.votes} with judge.llm.temperature=0 asks the same question for "
            "the same answer: set a temperature, or votes=1"
        )


def _whole_answers(config: Config) -> Iterator[str]:
    """A grade of the whole answer leaves nothing to what is about criteria."""
    judge, llm = config.judge, config.judge.llm
    if judge.reward_model is not None and llm is not None:
        yield (
            "judge.reward_model and judge.llm are both set, and a reward has one source: set "
            "judge=reward_model, which takes the LLM away, or judge.reward_model=null"
        )
    if not judge.grades_whole_answers:
        return
    what = "judge.reward_model" if llm is None else "judge.llm.mode='likert'"
    if config.rubrics.reward != "weighted_share":
        yield (
            f"rubrics.reward={config.rubrics.reward!r} is made of criteria, and {what} grades the "
            "answer as a whole: set rubrics.reward=weighted_share, which is then the grade"
        )
    if config.refinement.enabled:
        yield f"{what} uses no rubric, so there is nothing to refine: set refinement=none"
    if llm is not None and (llm.votes > 1 or llm.logprobs):
        yield (
            f"judge.llm.votes={llm.votes} and judge.llm.logprobs={llm.logprobs} are about met and "
            f"unmet, not about grades ({what}): set votes=1 and logprobs=false"
        )


JUDGE_RULES: tuple[Callable[[Config], Iterator[str]], ...] = (
    _judge_backend,
    _judge_votes,
    _whole_answers,
)
