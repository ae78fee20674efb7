"""The answer is found in OpenRLHF's query, whatever the tokenizer did to the text."""

from __future__ import annotations

import pytest

from rubric_rl.errors import DataError
from rubric_rl.integrations.openrlhf_format import answer_of, score_requests

CHAT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("query", "prompt", "answer"),
    [
        (f"{CHAT}Hello!<|im_end|>", CHAT, "Hello!"),
        (f"{CHAT}Hello!<|im_end|>\n<|endoftext|>", CHAT, "Hello!"),
        (f"{CHAT}", CHAT, ""),
        (f"{CHAT}No end: it was cut ", CHAT, "No end: it was cut "),
        (f"{CHAT}Write </s> here, then go on", CHAT, "Write </s> here, then go on"),
        # The prompt's text again, in the answer.
        (f"{CHAT}Hi {CHAT}x", CHAT, f"Hi {CHAT}x"),
        # Decoding lost and added white space.
        ("<s> [INST] Hi [/INST] Yes</s>", "<s>[INST] Hi  [/INST]", " Yes"),
    ],
)
def test_the_answer_is_what_follows_the_prompt(query: str, prompt: str, answer: str) -> None:
    assert answer_of(query, prompt) == answer


def test_other_tokens_that_end_a_turn_can_be_named() -> None:
    assert answer_of("Q: A[END]", "Q:", ("[END]",)) == " A"
    assert answer_of("Q: A</s>", "Q:", ("[END]",)) == " A</s>"


def test_a_prompt_that_was_cut_is_an_error_and_not_a_wrong_answer() -> None:
    with pytest.raises(DataError, match=r"doesn't begin with its prompt.*max_len"):
        answer_of("of a long prompt: answer", "The end of a long prompt:")


def test_the_label_is_the_prompts_id_and_without_it_the_text_is_its_only_turn() -> None:
    named, plain = score_requests(["Q?A", "Q?B"], ["Q?", "Q?"], ["p1", ""])
    assert (named.prompt_id, named.messages, named.response) == ("p1", None, "A")
    assert plain.prompt_id is None
    assert plain.messages is not None
    assert [(m.role, m.content) for m in plain.messages] == [("user", "Q?")]


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="2 queries, 1 prompts and 2 labels"):
        score_requests(["a", "b"], ["a"], ["p", "p"])
