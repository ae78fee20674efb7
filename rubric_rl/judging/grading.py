"""Grade answers that somebody else generated.

    JSONL --read_answers--> Answer --grade--> GradedRow --graded_rows--> JSONL

A row of the input is one answer. It names a prompt of the rubrics file:

    {"prompt_id": "h001", "response": "Take 200 mg ..."}

or brings its prompt and its rubric, in the canonical form of `data.canonical`:

    {"prompt": "How much ...?", "response": "Take 200 mg ...",
     "rubric": {"criteria": [{"id": "c1", "text": "Names a dose.", "weight": 2}]}}

    id         optional string, unique in the file; else the prompt's id and a count
    prompt_id  string; optional beside a prompt, whose hash is then its id
    prompt     string (one turn of the user) or list of messages; or `messages`, a list
    response   string, may be empty
    reference  optional string, beside a prompt: an answer to compare with
    rubric     optional object; without it the rubrics file has the prompt's

Other keys are ignored: files of answers mostly carry more than a judge needs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.config.schema import RubricsConfig
from rubric_rl.data.reading import list_problems, read_jsonl
from rubric_rl.data.records import LoadedPrompt, RawRow, parse_messages
from rubric_rl.errors import DataError
from rubric_rl.judging.endpoint import JudgeIdentity
from rubric_rl.judging.graded_rows import GradedRow, GradedVerdict
from rubric_rl.rubrics.reward import score
from rubric_rl.rubrics.validation import (
    describe_value,
    parse_criteria,
    text_field,
    unknown_key_problems,
)
from rubric_rl.types import (
    Criterion,
    Judgement,
    JudgeRequest,
    Message,
    PromptRecord,
    Rubric,
    Sample,
    Verdict,
)


class Judge(Protocol):
    """Who gives the verdicts; see `judge.RubricJudge`."""

    async def judge(self, request: JudgeRequest) -> Judgement: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer with its prompt and its rubric."""

    row_id: str
    record: PromptRecord
    rubric: Rubric
    response: str

    @property
    def answer_hash(self) -> str:
        """SHA-256 (hex) over prompt and response."""
        turns = [[message.role, message.content] for message in self.record.messages]
        return _hash([turns, self.response])


# ----------------------------------------------------------------------------
# Input


def read_answers(path: Path, prompts: Mapping[str, LoadedPrompt]) -> list[Answer]:
    """Every answer of a file, in file order; `prompts` are those of the rubrics file by id.

    Raises:
        DataError: the file can't be read, or lists the problems of all rows, each with its line.
    """
    try:
        rows = read_jsonl(path)
    except OSError as err:
        raise DataError(f"answers file {str(path)!r} can't be read: {err}") from err
    answers: list[Answer] = []
    problems: list[str] = []
    taken: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        found: list[str] = []
        answer = _answer(row, prompts, counts, found)
        if answer.row_id in taken:
            found.append(f"id {answer.row_id!r} is taken by {taken[answer.row_id]}")
        taken.setdefault(answer.row_id, row.source)
        problems.extend(f"{row.source}: {problem}" for problem in found)
        answers.append(answer)
    if problems:
        raise DataError(f"{path} can't be graded:{list_problems(problems)}")
    return answers


def _answer(
    row: RawRow,
    prompts: Mapping[str, LoadedPrompt],
    counts: Counter[str],
    problems: list[str],
) -> Answer:
    """The answer of one row; it is whole only if no problem was added."""
    fields = row.value
    prompt = _own_prompt if "rubric" in fields else _named_prompt
    record, rubric = prompt(row, prompts, problems)
    response = fields.get("response")
    if not isinstance(response, str):
        got = describe_value(response) if "response" in fields else "nothing"
        problems.append(f"response: got {got}, want a string (an empty one is an answer too)")
        response = ""
    if fields.get("id") is None:
        row_id = f"{record.prompt_id}#{counts[record.prompt_id]}"
        counts[record.prompt_id] += 1
    else:
        row_id = text_field(fields, "id", problems)
    return Answer(row_id=row_id, record=record, rubric=rubric, response=response)


def _named_prompt(
    row: RawRow, prompts: Mapping[str, LoadedPrompt], problems: list[str]
) -> tuple[PromptRecord, Rubric]:
    """The prompt of the rubrics file that the row names."""
    prompt_id = text_field(row.value, "prompt_id", problems)
    loaded = prompts.get(prompt_id)
    if loaded is None:
        if prompt_id:
            problems.append(
                f"prompt_id {prompt_id!r} is not among the {len(prompts)} prompts of --rubrics"
                if prompts
                else "the row has no rubric: give one in the row, or a file with --rubrics"
            )
        return _record(row, prompt_id, (), None), Rubric(
            prompt_id=prompt_id, version=0, criteria=()
        )
    if {"prompt", "messages"} & set(row.value):
        messages = _messages(row.value, problems)
        if messages and messages != loaded.record.messages:
            problems.append(f"the prompt differs from that of {prompt_id!r} in --rubrics")
    return loaded.record, loaded.rubric


def _own_prompt(
    row: RawRow, prompts: Mapping[str, LoadedPrompt], problems: list[str]
) -> tuple[PromptRecord, Rubric]:
    """The row's rubric with the row's prompt, or with the one that it names."""
    fields = row.value
    criteria = _criteria(fields["rubric"], problems)
    prompt_id = text_field(fields, "prompt_id", problems) if "prompt_id" in fields else ""
    if prompt_id in prompts and not {"prompt", "messages"} & set(fields):
        rubric = Rubric(prompt_id=prompt_id, version=0, criteria=criteria)
        return prompts[prompt_id].record, rubric
    reference = None
    if fields.get("reference") is not None:
        reference = text_field(fields, "reference", problems)
    messages = _messages(fields, problems)
    prompt_id = prompt_id or _hash([[m.role, m.content] for m in messages])[:16]
    rubric = Rubric(prompt_id=prompt_id, version=0, criteria=criteria)
    return _record(row, prompt_id, messages, reference), rubric


def _record(
    row: RawRow, prompt_id: str, messages: tuple[Message, ...], reference: str | None
) -> PromptRecord:
    return PromptRecord(
        prompt_id=prompt_id,
        messages=messages,
        domain="",
        source=row.source,
        row_hash=row.row_hash,
        reference=reference,
    )


def _messages(fields: Mapping[str, object], problems: list[str]) -> tuple[Message, ...]:
    given = [key for key in ("prompt", "messages") if key in fields]
    if len(given) != 1:
        problems.append(f"got {' and '.join(given) or 'neither'}, want either prompt or messages")
        return ()
    raw = fields[given[0]]
    if given[0] == "prompt" and isinstance(raw, str):
        raw = [{"role": "user", "content": raw}]
    messages, found = parse_messages(raw)
    problems.extend(f"{given[0]}: {problem}" for problem in found)
    return messages


def _criteria(raw: object, problems: list[str]) -> tuple[Criterion, ...]:
    if not isinstance(raw, dict):
        problems.append(f"rubric: got {describe_value(raw)}, want an object with criteria")
        return ()
    fields = cast("dict[str, object]", raw)
    criteria, found = parse_criteria(fields.get("criteria"))
    found = [*unknown_key_problems(fields, ("criteria",)), *found]
    problems.extend(f"rubric: {problem}" for problem in found)
    return criteria


# ----------------------------------------------------------------------------
# What a graded row depends on


def content_hash(
    answer: Answer,
    llm: LlmJudgeConfig | None,
    identity: JudgeIdentity | None,
    template_hash: str,
    rubrics: RubricsConfig,
) -> str:
    """SHA-256 (hex) over answer, prompt, rubric, judge and reward: equal hash, equal question.

    `llm` and `identity` are None where rules decide every criterion of the file.
    """
    judge: list[object] = []
    if llm is not None and identity is not None:
        judge = [
            llm.model,
            identity.served_model,
            identity.contract,
            template_hash,
            llm.mode,
            llm.chunk_size if llm.mode == "chunk" else None,
            [llm.majority, llm.votes, llm.temperature],
            llm.max_reply_tokens,
            llm.logprobs,
            answer.record.reference if llm.show_reference else None,
        ]
    reward = [rubrics.reward, rubrics.min_coverage]
    return _hash([answer.answer_hash, answer.rubric.rubric_id, judge, reward])


def reward_model_hash(answer: Answer, fingerprint: str) -> str:
    """The same where a reward model of that fingerprint grades answers."""
    return _hash([answer.answer_hash, ["reward_model", fingerprint]])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()


# ----------------------------------------------------------------------------
# Grading


async def grade(
    answers: Iterable[tuple[Answer, str]],
    judge: Judge,
    *,
    rubrics: RubricsConfig,
    max_in_flight: int,
) -> AsyncGenerator[list[GradedRow]]:
    """Graded rows as they are finished, all that are ready at once together.

    `answers` come with their content hashes and are taken as there is room: at most
    `max_in_flight` are judged at a time. Ending the iteration early gives up what is
    still being judged.
    """
    waiting = iter(answers)
    running: set[asyncio.Task[GradedRow]] = set()
    try:
        while True:
            for answer, digest in waiting:
                running.add(asyncio.create_task(grade_one(answer, digest, judge, rubrics)))
                if len(running) >= max_in_flight:
                    break
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            yield [task.result() for task in done]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def grade_one(answer: Answer, digest: str, judge: Judge, rubrics: RubricsConfig) -> GradedRow:
    """Judge one answer; `digest` is its content hash, which goes into the row."""
    sample = Sample(
        prompt_id=answer.record.prompt_id,
        sample_index=0,
        prompt_token_ids=(),
        completion_token_ids=(),
        log_probs=(),
        loss_mask=(),
        text=answer.response,
        finish_reason="stop",
        seed=0,
        policy_version=0,
    )
    request = JudgeRequest(record=answer.record, rubric=answer.rubric, sample=sample)
    return graded_row(answer, digest, await judge.judge(request), rubrics)


def graded_row(
    answer: Answer, digest: str, judgement: Judgement, rubrics: RubricsConfig
) -> GradedRow:
    """The row of one judged answer."""
    scored = score(
        answer.rubric,
        judgement.verdicts,
        reward=rubrics.reward,
        min_coverage=rubrics.min_coverage,
    )
    verdicts = {verdict.cid: verdict for verdict in judgement.verdicts}
    return GradedRow(
        row_id=answer.row_id,
        prompt_id=answer.record.prompt_id,
        content_hash=digest,
        answer_hash=answer.answer_hash,
        reward=scored.value,
        coverage=scored.coverage,
        gated_from=scored.gated_from,
        verdicts=tuple(_graded_verdict(c, verdicts[c.cid]) for c in answer.rubric.criteria),
        rubric_id=judgement.rubric_id,
        rubric_version=judgement.rubric_version,
        judge_id=judgement.judge_id,
        template_hash=judgement.template_hash,
        mode=judgement.mode,
        usage=judgement.usage,
        latency_s=judgement.latency_s,
    )


def _graded_verdict(criterion: Criterion, verdict: Verdict) -> GradedVerdict:
    return GradedVerdict(
        cid=criterion.cid,
        text=criterion.text,
        verdict=verdict.value,
        reason=verdict.reason,
        cause=verdict.cause,
        probability=verdict.probability,
        votes=verdict.votes,
        cached=verdict.cached,
        by_rule=criterion.rule is not None,
        grade=verdict.grade,
    )
