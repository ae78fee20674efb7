"""The judge's prompt: two template files and the way they are filled.

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
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from rubric_rl.errors import ConfigError
from rubric_rl.types import Criterion, Message

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


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTemplates:
    """The system and the user message of one judge call."""

    system: Template
    user: Template
    template_hash: str
    """SHA-256 over both files, first 16 hex digits."""

    @classmethod
    def load(cls) -> JudgeTemplates:
        """Read the packaged templates."""
        folder = resources.files("rubric_rl.judging") / "templates"
        return cls.parse(
            system=(folder / "judge_system.txt").read_text(encoding="utf-8"),
            user=(folder / "judge_user.txt").read_text(encoding="utf-8"),
        )

    @classmethod
    def parse(cls, *, system: str, user: str) -> JudgeTemplates:
        """Raises ConfigError on an unknown or missing placeholder."""
        names = ("conversation", "fence", "answer", "criteria", "nonce")
        return cls(
            system=Template.parse(system, (), name="judge_system"),
            user=Template.parse(user, names, name="judge_user"),
            template_hash=hashlib.sha256(json.dumps([system, user]).encode()).hexdigest()[:16],
        )

    def messages(
        self,
        *,
        conversation: Sequence[Message],
        answer: str,
        criteria: Sequence[Criterion],
        nonce: str,
    ) -> tuple[Message, Message]:
        """The messages that ask for a verdict on each of `criteria`."""
        user = self.user.fill(
            conversation=_render_conversation(conversation),
            fence=f"{fence_for([answer])} {nonce}",
            answer=answer,
            criteria="\n".join(_render_criterion(criterion) for criterion in criteria),
            nonce=nonce,
        )
        # A lone surrogate can't be sent: it has no UTF-8 form.
        user = user.encode("utf-8", "replace").decode()
        return (
            Message(role="system", content=self.system.fill()),
            Message(role="user", content=user),
        )


def fence_for(texts: Sequence[str]) -> str:
    """A run of tildes longer than any run in `texts`."""
    longest = max((len(run) for text in texts for run in _TILDES.findall(text)), default=0)
    return "~" * max(_MIN_FENCE, longest + 1)


def _render_conversation(messages: Sequence[Message]) -> str:
    fence = fence_for([message.content for message in messages])
    return "\n\n".join(f"{m.role}:\n{fence}\n{m.content}\n{fence}" for m in messages)


def _render_criterion(criterion: Criterion) -> str:
    # JSON keeps a text with line breaks on its line, so it can't pose as two criteria.
    return json.dumps({"id": criterion.cid, "criterion": criterion.text}, ensure_ascii=False)
