"""What becomes of the reason for which vLLM ended a request."""

import pytest

from rubric_rl.rollout.vllm_engine import _finish_reason
from rubric_rl.types import RolloutRequest

REQUEST = RolloutRequest(
    prompt_id="p", sample_index=3, token_ids=(1,), seed=0, max_new_tokens=4, temperature=1.0
)


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_completion_keeps_its_finish_reason(reason: str):
    assert _finish_reason(REQUEST, reason) == reason


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_an_aborted_request_is_not_taken_for_a_completion_that_was_cut(reason: str | None):
    with pytest.raises(RuntimeError, match="sample 3 of prompt 'p'"):
        _finish_reason(REQUEST, reason)
