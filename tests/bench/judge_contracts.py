"""What share of a real small judge's verdicts can be read, by mode and contract.

    .venv/bin/python tests/bench/judge_contracts.py [--samples 25]

Eight criteria for each sample, one ask and no retry: 25 samples are 200 verdicts a row.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from small_judge import judge_all, judge_config, request_of, small_judge_server

from rubric_rl.config.schema import DataConfig
from rubric_rl.data.prompt_set import load_prompt_set
from rubric_rl.types import Judgement, JudgeRequest, Rubric, VerdictValue

CRITERIA = 8
# Room for one short sentence and a verdict for each criterion of a call.
REPLY_TOKENS = {"all": 512, "chunk": 288, "each": 96}


def requests_of(samples: int) -> list[JudgeRequest]:
    """Quickstart prompts whose criteria are given to the model as text, not to rules."""
    prompts = load_prompt_set(DataConfig(path="builtin:quickstart"))
    requests: list[JudgeRequest] = []
    for record in prompts.train:
        criteria = prompts.rubrics.of(record.prompt_id).criteria
        padded = (criteria * 2)[:CRITERIA]
        renamed = tuple(
            replace(criterion, cid=f"c{i}", rule=None) for i, criterion in enumerate(padded, 1)
        )
        rubric = Rubric(prompt_id=record.prompt_id, version=0, criteria=renamed)
        answer = "Rest, drink water, and see a doctor if it lasts longer than three days."
        requests.append(request_of(rubric, record.messages[-1].content, answer))
    return requests[:samples]


def row(mode: str, contract: str, judgements: list[Judgement], seconds: float) -> str:
    verdicts = [verdict for judgement in judgements for verdict in judgement.verdicts]
    known = sum(verdict.value is not VerdictValue.UNKNOWN for verdict in verdicts)
    causes = Counter(v.cause.value for v in verdicts if v.cause is not None)
    calls = sum(judgement.usage.calls for judgement in judgements)
    tokens = sum(judgement.usage.tokens for judgement in judgements)
    words = ", ".join(f"{cause} {count}" for cause, count in causes.most_common()) or "-"
    return (
        f"{contract:<20} {mode:<6} {known:>4}/{len(verdicts):<4} {known / len(verdicts):>6.1%} "
        f"{calls:>6} {tokens:>8} {seconds:>7.0f} s  {words}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=25)
    args = parser.parse_args()
    requests = requests_of(args.samples)
    with small_judge_server() as base_url:
        print(f"{'contract':<20} {'mode':<6} {'parsed':<16} {'calls':>6} {'tokens':>8} {'':>9}")
        for contract in ("structured_outputs", "json_object", "text"):
            for mode in ("all", "chunk", "each"):
                config = judge_config(
                    base_url,
                    mode=mode,
                    contract=contract,
                    max_asks=1,
                    max_reply_tokens=REPLY_TOKENS[mode],
                )
                began = time.perf_counter()
                judgements = judge_all(config, requests)
                print(row(mode, contract, judgements, time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main()
