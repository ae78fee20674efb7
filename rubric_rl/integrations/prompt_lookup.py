"""Which prompt an answer belongs to, and with it which rubric.

1. A request that names an id gets the prompt with this id. If it carries a conversation as well,
   the two must be the same, role by role and character by character.
2. A request without an id gets the one prompt with exactly its conversation.

Anything else is an error: a rubric is never guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import DataError
from rubric_rl.integrations.scored_answers import ScoreRequest
from rubric_rl.types import Message

_SHOWN_CHARS = 80


class PromptLookup:
    """The prompts of a rubrics file, by id and by conversation."""

    def __init__(self, prompts: Mapping[str, LoadedPrompt]) -> None:
        self._by_id = prompts
        self._by_messages: defaultdict[tuple[Message, ...], list[str]] = defaultdict(list)
        for prompt_id, prompt in prompts.items():
            self._by_messages[prompt.record.messages].append(prompt_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, request: ScoreRequest) -> LoadedPrompt:
        """Raises DataError: no such prompt, several, or id and conversation don't go together."""
        if request.prompt_id is None:
            return self._by_id[self._id_of(request.messages)]
        prompt = self._by_id.get(request.prompt_id)
        if prompt is None:
            raise DataError(
                f"prompt_id {request.prompt_id!r} is not among the {len(self)} prompts with rubrics"
            )
        if request.messages is not None and request.messages != prompt.record.messages:
            raise DataError(
                f"the conversation is not that of prompt_id {request.prompt_id!r}: "
                f"got {_shown(request.messages)}, want {_shown(prompt.record.messages)}"
            )
        return prompt

    def _id_of(self, messages: tuple[Message, ...] | None) -> str:
        if messages is None:
            raise DataError("neither a prompt's id nor its conversation is given: give one")
        found = self._by_messages.get(messages, [])
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(repr(prompt_id) for prompt_id in found)
            raise DataError(f"prompts {names} have the same conversation: give the prompt's id")
        raise DataError(
            f"none of the {len(self)} prompts with rubrics has exactly the conversation "
            f"{_shown(messages)}: give the prompt's id, or correct the rubrics file"
        )


def _shown(messages: tuple[Message, ...]) -> str:
    last = messages[-1] if messages else Message(role="user", content="")
    text = last.content
    if len(text) > _SHOWN_CHARS:
        text = f"{text[:_SHOWN_CHARS]}..."
    return f"({len(messages)} turns, the last {last.role}: {text!r})"
