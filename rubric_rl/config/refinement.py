"""The configuration of refinement: when, from which answers, who proposes, what is accepted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.config.section import Fraction, PositiveFloat, PositiveInt, Section


class GateConfig(Section):
    """When a proposed rubric is accepted."""

    enabled: bool = True
    """False: it only measures, and every valid proposal is accepted, as in the paper."""
    top_size: Annotated[int, Field(ge=2)] = 4
    """Answers that the proposer did not see that count as the best."""
    clear_margin: float = Field(default=0.05, ge=0)
    """Scores further apart than this are ordered clearly."""
    max_reversed_frac: Fraction = 0.0
    """Share of clearly ordered pairs that a new rubric may turn around."""


class ProposerConfig(Section):
    """Who writes rubrics."""

    kind: Literal["offline", "llm"] = "offline"
    """`offline` picks from a bank of criteria with rules; `llm` asks a chat model."""
    bank: str | None = None
    """JSONL with criteria for each prompt; `builtin:quickstart` is the packaged one."""
    llm: LlmJudgeConfig | None = None
    """The chat model of `llm`, given like a judge's; what only a judge needs is of no effect."""
    template_dir: str | None = None
    """Folder with proposer templates of your own; None takes the packaged ones."""
    show_verdicts: bool = False
    """Show the proposer what the current rubric's verdicts on the pair are."""
    max_criteria: PositiveInt = 40
    """Most criteria of a rubric."""
    min_weight: PositiveFloat = 1.0
    """Smallest weight of a criterion that is written."""
    max_weight: PositiveFloat = 3.0
    """Largest weight of a criterion that is written; the paper's are 1 to 3."""


class RefinementConfig(Section):
    """How rubrics are refined, between the epochs of a training or by `rubric-rl rubrics build`."""

    enabled: bool = False
    """Refine during training."""
    every_epochs: PositiveInt | None = 1
    """Refine after every so many epochs, the last aside; None: not at epochs' ends."""
    every_steps: PositiveInt | None = None
    """Refine after every so many steps too."""
    top_tie_frac: Fraction | None = None
    """Refine when more than this share of a step's groups is tied at the top."""
    rounds: Annotated[int, Field(ge=0)] = 4
    """Proposals for each prompt in one pass; 0 builds initial rubrics only."""
    pool_size: Annotated[int, Field(ge=2)] = 16
    """Most answers for each prompt that are scored."""
    pool_path: str | None = None
    """JSONL with answers of other models to the same prompts."""
    pool_sources: tuple[str, ...] = ()
    """Models whose answers are taken from the pool; empty takes all."""
    on_policy_candidates: Annotated[int, Field(ge=0)] = 8
    """Best answers of the epoch that are kept for each prompt, during training."""
    pair_strategy: Literal["top2", "top_tied", "top_diverse"] = "top2"
    """Which two answers the proposer sees; see `rubric_rl/refinement/pairs.py`."""
    exclude_used: bool = True
    """Leave answers that the proposer has seen out of later pairs."""
    only_tied: bool = True
    """Leave a prompt alone while its best answer stands alone."""
    saturation: Fraction = 0.95
    """Scores of at least this count as tied with one another: too little is left to tell apart."""
    max_prompts: PositiveInt | None = None
    """Prompts refined in one pass, those with most ties first; None: all that qualify."""
    prompts_in_flight: PositiveInt = 256
    """Prompts refined at once."""
    refine_eval: bool = True
    """Refine the held-out prompts' rubrics too, from the answers of the last evaluation."""
    max_failed_frac: Fraction = 0.5
    """The run stops when more than this share of a pass's proposals fails."""
    proposer: ProposerConfig = ProposerConfig()
    """Who writes rubrics."""
    gate: GateConfig = GateConfig()
    """When a proposal is accepted."""
