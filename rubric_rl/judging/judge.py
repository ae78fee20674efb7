"""The judge: a verdict, or UNKNOWN with its cause, on every criterion of a rubric.

    criteria with a rule     are executed
    criteria in the cache    have their verdict
    all others               go to the chat model; see `asking` and `votes`

A verdict once given stands. Nothing that the model or the network does is an
exception here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from rubric_rl.errors import ConfigError
from rubric_rl.judging.asking import Asker, LlmJudge, Tally
from rubric_rl.judging.cache import CacheContext, CachedVerdict, VerdictCache, verdict_key
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.judging.votes import vote
from rubric_rl.rubrics.rules import RuleCheck, RuleTimeoutError
from rubric_rl.types import (
    Criterion,
    FailureCause,
    Judgement,
    JudgeRequest,
    JudgeUsage,
    Rubric,
    Verdict,
    VerdictValue,
)

RULES = "rules"
"""`judge_id` and `mode` of a judgement that needed no model."""


def check_rubrics(rubrics: Iterable[Rubric], *, has_llm: bool) -> None:
    """Check that each criterion has a judge.

    Raises:
        ConfigError: criteria without a rule and no LLM judge; counts them and says what to set.
    """
    if has_llm:
        return
    num_prompts, without_rule = 0, []
    for rubric in rubrics:
        num_prompts += 1
        without_rule += [(rubric.prompt_id, c.cid) for c in rubric.criteria if c.rule is None]
    if without_rule:
        prompt_id, cid = without_rule[0]
        affected = len({prompt_id for prompt_id, _ in without_rule})
        raise ConfigError(
            f"{affected} of {num_prompts} prompts have criteria without a rule "
            f"({len(without_rule)} criteria, the first is {cid!r} of prompt {prompt_id!r}), and "
            "no LLM judge is configured: set judge=openai with judge.llm.base_url and "
            "judge.llm.model, or give each of these criteria a rule"
        )


def _new_nonce() -> str:
    return secrets.token_hex(4)


class RubricJudge:
    """Judges one sample after the other, or many at once from one event loop."""

    def __init__(
        self,
        llm: LlmJudge | None = None,
        *,
        cache: VerdictCache | None = None,
        templates: JudgeTemplates | None = None,
        new_nonce: Callable[[], str] = _new_nonce,
    ) -> None:
        """Without `llm`, every criterion must carry a rule; see `check_rubrics`."""
        self._llm = llm
        self._cache = cache
        self._templates = templates or JudgeTemplates.load()
        self._new_nonce = new_nonce
        self._cache_failures_told = 0

    @property
    def template_hash(self) -> str:
        return self._templates.template_hash

    async def judge(self, request: JudgeRequest) -> Judgement:
        """Give all verdicts, in the order of the rubric's criteria."""
        started = time.perf_counter()
        criteria, tally = request.rubric.criteria, Tally()
        for_llm = [criterion for criterion in criteria if criterion.rule is None]
        verdicts: dict[str, Verdict] = {}
        if len(for_llm) < len(criteria):
            # In a thread: a hostile answer can hold a pattern for its whole time limit, and
            # other samples' replies must not seem late meanwhile.
            verdicts |= await asyncio.to_thread(_check_rules, criteria, request.sample.text)
        if for_llm:
            assert self._llm is not None, "criteria without a rule need an LLM judge"
            verdicts |= await self._by_llm(self._llm, request, for_llm, tally)
        tally.usage = tally.usage + JudgeUsage(cache_failures=self._new_cache_failures())
        parts = [] if self._llm is None or not for_llm else [(self._llm.judge_id, self._llm.mode)]
        parts += [(RULES, RULES)] if len(for_llm) < len(criteria) else []
        return Judgement(
            rubric_id=request.rubric.rubric_id,
            rubric_version=request.rubric.version,
            judge_id="+".join(judge_id for judge_id, _ in parts),
            template_hash=self._templates.template_hash,
            mode="+".join(mode for _, mode in parts),
            verdicts=tuple(verdicts[criterion.cid] for criterion in criteria),
            usage=tally.usage,
            latency_s=time.perf_counter() - started,
        )

    async def _by_llm(
        self, llm: LlmJudge, request: JudgeRequest, criteria: Sequence[Criterion], tally: Tally
    ) -> dict[str, Verdict]:
        """Verdicts of the chat model, those it gave before included."""
        keys = self._keys(llm, request, criteria)
        verdicts = await self._cached(keys, tally)
        missing = [criterion for criterion in criteria if criterion.cid not in verdicts]
        if missing:
            asker = Asker(llm, self._templates, request, tally, self._new_nonce)
            config = llm.config
            asked = await vote(missing, asker.poll, votes=config.votes, majority=config.majority)
            await self._store(keys, asked, tally)
            verdicts |= asked
        return verdicts

    # ------------------------------------------------------------------------
    # Cache

    def _keys(
        self, llm: LlmJudge, request: JudgeRequest, criteria: Sequence[Criterion]
    ) -> dict[str, str]:
        """Key by criterion id; empty without a cache."""
        if self._cache is None:
            return {}
        context = _cache_context(llm, request, self._templates.template_hash)
        return {c.cid: verdict_key(context, c.text) for c in criteria}

    def _new_cache_failures(self) -> int:
        """Failures since the last sample that told of some."""
        if self._cache is None:
            return 0
        total = self._cache.num_failed
        new, self._cache_failures_told = total - self._cache_failures_told, total
        return new

    async def _cached(self, keys: Mapping[str, str], tally: Tally) -> dict[str, Verdict]:
        if self._cache is None:
            return {}
        found = await asyncio.to_thread(self._cache.get, list(keys.values()))
        verdicts = {
            cid: Verdict(
                cid=cid,
                value=found[key].value,
                reason=found[key].reason,
                probability=found[key].probability,
                votes=found[key].votes,
                cached=True,
                grade=found[key].grade,
            )
            for cid, key in keys.items()
            if key in found
        }
        hits = [found[keys[cid]] for cid in verdicts]
        tally.usage = replace(
            tally.usage,
            cached_verdicts=len(hits),
            saved_tokens=sum(hit.tokens for hit in hits),
            saved_usd=sum(hit.cost_usd for hit in hits),
        )
        return verdicts

    async def _store(
        self, keys: Mapping[str, str], asked: Mapping[str, Verdict], tally: Tally
    ) -> None:
        if self._cache is None:
            return
        entries = {
            keys[cid]: CachedVerdict(
                value=verdict.value,
                reason=verdict.reason,
                probability=verdict.probability,
                votes=verdict.votes,
                tokens=tally.tokens[cid],
                cost_usd=tally.cost_usd[cid],
                grade=verdict.grade,
            )
            for cid, verdict in asked.items()
            if verdict.value is not VerdictValue.UNKNOWN
        }
        if entries:
            await asyncio.to_thread(self._cache.put, entries)


def _cache_context(llm: LlmJudge, request: JudgeRequest, template_hash: str) -> CacheContext:
    config, record = llm.config, request.record
    turns = [[message.role, message.content] for message in record.messages]
    reference = record.reference if config.show_reference else None
    sampling = {
        "contract": llm.contract,
        "temperature": config.temperature,
        "max_reply_tokens": config.max_reply_tokens,
        "votes": [config.majority, config.votes],
        "logprobs": config.logprobs,
    }
    return CacheContext(
        prompt_hash=_hash([turns, reference]),
        response_hash=_hash(request.sample.text),
        judge_id=llm.judge_id,
        template_hash=template_hash,
        mode=llm.mode,
        sampling=json.dumps(sampling, sort_keys=True),
    )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()


# ----------------------------------------------------------------------------
# Rules


def _check_rules(criteria: Sequence[Criterion], text: str) -> dict[str, Verdict]:
    return {c.cid: _check_rule(c.cid, c.rule, text) for c in criteria if c.rule is not None}


def _check_rule(cid: str, rule: RuleCheck, text: str) -> Verdict:
    try:
        outcome = rule.check(text)
    except RuleTimeoutError as err:
        reason = f"the rule ran out of time: {err}"
        return Verdict(
            cid=cid, value=VerdictValue.UNKNOWN, reason=reason, cause=FailureCause.RULE_TIMEOUT
        )
    value = VerdictValue.MET if outcome.met else VerdictValue.UNMET
    return Verdict(cid=cid, value=value, reason=outcome.reason)
