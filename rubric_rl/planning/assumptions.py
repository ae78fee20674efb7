"""What a plan takes for granted; each is printed with the plan and can be set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """Rates and sizes that no configuration tells."""

    flop_utilization: float = 0.4
    """Share of a GPU's peak that the learner's arithmetic reaches, recomputation counted."""
    prefill_utilization: float = 0.5
    """The same of an engine that reads prompts, and of decoding where arithmetic bounds it."""
    bandwidth_utilization: float = 0.6
    """Share of a GPU's memory bandwidth that decoding reaches."""
    decode_overhead_s: float = 0.004
    """Of one decoding step: scheduling, sampling, launches."""
    link_gbs: float = 25.0
    """10^9 bytes a second between GPU and host, and from a learner rank to engines."""
    process_gib: float = 1.5
    """Of a process on a GPU: CUDA context, NCCL's buffers, fragments."""
    graphs_gib: float = 1.0
    """CUDA graphs of an engine with rollout.enforce_eager=false."""
    host_process_gib: float = 1.0
    """Of a process on the host: Python, torch, vLLM."""
    judge_call_s: float = 8.0
    """Of one judge call, its waiting for the network included."""
    proposal_prompt_tokens: float = 4000
    """Of what a proposer reads for one proposal."""
    proposal_reply_tokens: float = 1500
    """Of one proposal for a rubric."""
