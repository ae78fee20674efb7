"""The judge's prompt: its template files and the way they are filled.

The answer comes from the policy, which is rewarded for whatever the judge
believes, so it is treated as hostile:

- Templates are filled in one pass over declared placeholders. A value is never
  scanned again, so a placeholder's name inside an answer stays plain text.
- The answer stands between fence lines that it can't contain: their run of
  tildes is longer than any in the answer, and they carry the call's nonce.

The order is rules, conversation, answer, criteria. Whatever all samples of a
prompt share comes first and holds no nonce, so that a server with a prefix
cache reads it once for the whole group. Of a criterion the judge sees the id
and the text; weight and polarity would tell it what to wish for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.errors import ConfigError
from rubric_rl.types import Criterion, JudgeContract, Message

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_TILDES = re.compile(r"~+")
_MIN_FENCE = 4


@dataclass(frozen=True, slots=True)
class Template:
    """A text with `{{name}}` placeholders, each of them declared."""

    text: str
    placeholders: frozenset[str]

    @classmethod
    def parse(cls, text: str, placeholders: Sequence[str], *, name: str) -> Template:
        """Check that `text` uses the declared placeholders, all of them and no other.

        Raises:
            ConfigError: names the template and the placeholders that are unknown or missing.
        """
        used, declared = set(_PLACEHOLDER.findall(text)), set(placeholders)
        if used != declared:
            raise ConfigError(
                f"judge template {name!r}: unknown placeholders {sorted(used - declared)}, "
                f"missing placeholders {sorted(declared - used)} (allowed and required: "
                f"{sorted(declared)})"
            )
        return cls(text, frozenset(declared))

    def fill(self, **values: str) -> str:
        assert values.keys() == self.placeholders, sorted(values)
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.text)


_PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "rules": ("reply",),
    "reply_json": (),
    "reply_text": (),
    "user": ("conversation", "reference", "fence", "answer", "criteria", "nonce"),
    "reference": ("fence", "reference"),
}


_PACKAGED = {"verdicts": "templates", "likert": "likert_templates"}

# Template -> the placeholder in it that stands for a text of others.
_FENCED = {"user": "answer", "reference": "reference"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTemplates:
    """The texts of a judge call. They cross nodes as they are, so that all workers use the same.

    rules.txt        system message: what a judge does; `{{reply}}` is one of the next two
    reply_json.txt   how to reply under the contracts structured_outputs and json_object
    reply_text.txt   how to reply under the contract text
    user.txt         user message: conversation, answer, criteria
    reference.txt    the section for a reference answer, left out where there is none
    """

    rules: Template
    reply_json: Template
    reply_text: Template
    user: Template
    reference: Template
    template_hash: str
    """SHA-256 over all files, first 16 hex digits."""

    @classmethod
    def of(cls, llm: LlmJudgeConfig | None) -> JudgeTemplates:
        """Those that a judge is configured with; without a judge the packaged ones.

        Raises ConfigError as `load` does.
        """
        if llm is None:
            return cls.load()
        return cls.load(llm.template_dir, packaged="likert" if llm.mode == "likert" else "verdicts")

    @classmethod
    def load(
        cls, folder: str | None = None, *, packaged: Literal["verdicts", "likert"] = "verdicts"
    ) -> JudgeTemplates:
        """Read the files of a folder, or the packaged ones: for verdicts on criteria, or for a
        grade of the answer as a whole.

        Raises:
            ConfigError: a file is missing, not UTF-8, its placeholders are not those wanted, or
                it leaves the answer unfenced.
        """
        if folder is None:
            own = resources.files("rubric_rl.judging") / _PACKAGED[packaged]
            read = {name: own / f"{name}.txt" for name in _PLACEHOLDERS}
            return cls.parse({n: f.read_text(encoding="utf-8") for n, f in read.items()})
        return cls.parse({name: _read(Path(folder), name) for name in _PLACEHOLDERS})

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> JudgeTemplates:
        """Raises ConfigError on an unknown or missing placeholder, or a text without its fence."""
        templates = {
            name: Template.parse(texts[name], placeholders, name=name)
            for name, placeholders in _PLACEHOLDERS.items()
        }
        for name in _FENCED:
            _check_fence(name, texts[name])
        digest = template_digest([texts[name] for name in _PLACEHOLDERS])
        return cls(**templates, template_hash=digest)

    def messages(
        self,
        *,
        conversation: Sequence[Message],
        answer: str,
        criteria: Sequence[Criterion],
        nonce: str,
        contract: JudgeContract = "structured_outputs",
        reference: str | None = None,
    ) -> tuple[Message, Message]:
        """The messages that ask for a verdict on each of `criteria`."""
        reply = self.reply_text if contract == "text" else self.reply_json
        user = self.user.fill(
            conversation=render_conversation(conversation),
            reference=self._render_reference(reference),
            fence=f"{fence_for([answer])} {nonce}",
            answer=answer,
            criteria="\n".join(_render_criterion(criterion) for criterion in criteria),
            nonce=nonce,
        )
        # A lone surrogate can't be sent: it has no UTF-8 form.
        user = user.encode("utf-8", "replace").decode()
        return (
            Message(role="system", content=self.rules.fill(reply=reply.fill().rstrip("\n"))),
            Message(role="user", content=user),
        )

    def _render_reference(self, reference: str | None) -> str:
        if reference is None:
            return ""
        return self.reference.fill(fence=fence_for([reference]), reference=reference)


def _read(folder: Path, name: str) -> str:
    path = folder / f"{name}.txt"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        wanted = ", ".join(f"{other}.txt" for other in _PLACEHOLDERS)
        raise ConfigError(
            f"judge.llm.template_dir={str(folder)!r}: {path.name} can't be read ({err}); the "
            f"folder must hold {wanted}, copies of the packaged ones to start with"
        ) from err


def _check_fence(name: str, text: str) -> None:
    placeholder = "{{" + _FENCED[name] + "}}"
    block = "{{fence}}\n" + placeholder + "\n{{fence}}"
    stands_alone = re.search(rf"^{re.escape(block)}$", text, re.MULTILINE)
    if not stands_alone or text.count(placeholder) != 1:
        raise ConfigError(
            f"judge template {name!r}: {placeholder} must occur once, on a line of its own "
            "between two lines {{fence}}, since nothing else keeps its text from posing as yours"
        )


def template_digest(texts: Sequence[str]) -> str:
    """SHA-256 over texts in their order, first 16 hex digits."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def fence_for(texts: Sequence[str]) -> str:
    """A run of tildes longer than any run in `texts`."""
    longest = max((len(run) for text in texts for run in _TILDES.findall(text)), default=0)
    return "~" * max(_MIN_FENCE, longest + 1)


def render_conversation(messages: Sequence[Message]) -> str:
    """Each turn with its role, between fences that it can't contain."""
    fence = fence_for([message.content for message in messages])
    return "\n\n".join(f"{m.role}:\n{fence}\n{m.content}\n{fence}" for m in messages)


def _render_criterion(criterion: Criterion) -> str:
    # JSON keeps a text with line breaks on its line, so it can't pose as two criteria.
    return json.dumps({"id": criterion.cid, "criterion": criterion.text}, ensure_ascii=False)
