"""Algorithm 1 of the paper for one prompt: refinement through progressive differentiation.

    repeat for each round:
        score all candidates under the current rubric
        take a pair at the top; stop if there is none to tell apart
        the proposer writes the next rubric from the pair
        the gate compares both rubrics on the other candidates; accepted: go on with the new one

Every step is in the store before the next begins, so a run that is killed
anywhere goes on from there: a proposal that was received is not asked for again,
and verdicts come from the judges' cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rubric_rl.config.schema import RubricsConfig
from rubric_rl.refinement.gate import GateRules, measure, refusals
from rubric_rl.refinement.interfaces import Judges, ProposalError, Proposer
from rubric_rl.refinement.operations import RubricLimits, apply_operations, next_number
from rubric_rl.refinement.pairs import PairStrategy, num_top_ties, pick_pair, ranking
from rubric_rl.refinement.records import (
    Candidate,
    GateFigures,
    Pair,
    Proposal,
    RefinementRequest,
    Revision,
    RevisionStatus,
    ScoredCandidate,
)
from rubric_rl.refinement.scoring import score_all
from rubric_rl.refinement.store import RubricStore
from rubric_rl.types import PromptRecord, Rubric

_DECIDED: tuple[RevisionStatus, ...] = ("accepted", "rejected", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementRules:
    """How a rubric is refined."""

    rounds: int
    pair_strategy: PairStrategy
    exclude_used: bool
    """Leave answers that a proposer has seen out of later pairs."""
    only_tied: bool
    """Stop when the best answer stands alone."""
    gate: GateRules | None
    """None: every valid proposal is accepted, as in the paper."""
    limits: RubricLimits
    rubrics: RubricsConfig
    """How verdicts become scores."""
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementOutcome:
    """What refining one prompt's rubric came to, in this phase."""

    prompt_id: str
    version_before: int
    version_after: int
    accepted: int
    rejected: int
    failed: int
    top_ties_before: int
    """Candidates that shared the best score before; 1: the best stood alone, 0: none was scored."""
    top_ties_after: int
    stopped: str
    """Why no further round was made: `rounds`, `not tied`, or `too few answers`."""
    cost_usd: float
    """Of the proposals."""


class PromptRefiner:
    """Refines the rubric of one prompt."""

    def __init__(
        self,
        record: PromptRecord,
        candidates: Sequence[Candidate],
        *,
        store: RubricStore,
        judges: Judges,
        proposer: Proposer,
        rules: RefinementRules,
        phase: str,
    ) -> None:
        """`phase` names this pass over the rubrics; what the store has of it is not done again."""
        self._record = record
        self._candidates = [c for c in candidates if c.text.strip()]
        self._store = store
        self._judges = judges
        self._proposer = proposer
        self._rules = rules
        self._phase = phase

    async def run(self) -> RefinementOutcome:
        """Refine until the rounds are over or nothing is left to tell apart."""
        prompt_id = self._record.prompt_id
        start = self._start_version()
        before = await self._score(start)
        stopped = "rounds"
        for number in range(len(self._decided()) + 1, self._rules.rounds + 1):
            head = self._head()
            scored = before if head.version == start.version else await self._score(head)
            pending = self._pending()
            pair = self._pick(scored) if pending is None else _pair_of(pending, scored)
            if pair is None and pending is not None:
                self._give_up(pending)
                continue
            if pair is None:
                stopped = "too few answers" if len(self._unused(scored)) < 2 else "not tied"
                break
            await self._round(number, head, scored, pair)
        after = before if self._head().version == start.version else await self._score(self._head())
        decided = self._decided()
        counts = {status: sum(r.status == status for r in decided) for status in _DECIDED}
        return RefinementOutcome(
            prompt_id=prompt_id,
            version_before=start.version,
            version_after=self._head().version,
            accepted=counts["accepted"],
            rejected=counts["rejected"],
            failed=counts["failed"],
            top_ties_before=num_top_ties(before),
            top_ties_after=num_top_ties(after),
            stopped=stopped,
            cost_usd=sum(revision.cost_usd for revision in decided),
        )

    # ------------------------------------------------------------------------
    # Where this phase stands

    def _history(self) -> tuple[Revision, ...]:
        return self._store.history(self._record.prompt_id)

    def _decided(self) -> list[Revision]:
        return [r for r in self._history() if r.phase == self._phase and r.status in _DECIDED]

    def _head(self) -> Rubric:
        head = self._store.head(self._record.prompt_id)
        assert head is not None, "the store begins with an initial rubric for each prompt"
        return head

    def _start_version(self) -> Rubric:
        """The rubric that was in force when this phase began."""
        start: Rubric | None = None
        for revision in self._history():
            if revision.phase == self._phase and revision.status != "initial":
                break
            if revision.status in ("initial", "accepted"):
                start = revision.rubric
        assert start is not None, "the store begins with an initial rubric for each prompt"
        return start

    async def _score(self, rubric: Rubric) -> list[ScoredCandidate]:
        return await score_all(
            self._judges, self._record, rubric, self._candidates, self._rules.rubrics
        )

    # ------------------------------------------------------------------------
    # Pairs

    def _unused(self, scored: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
        """Candidates that may be in the next pair."""
        used = {cid for revision in self._decided() for cid in revision.evidence}
        usable = [s for s in scored if s.score is not None]
        if not self._rules.exclude_used:
            return usable
        return [s for s in usable if s.candidate.candidate_id not in used]

    def _pick(self, scored: Sequence[ScoredCandidate]) -> Pair | None:
        unused = self._unused(scored)
        if self._rules.only_tied and num_top_ties(ranking(unused, seed=self._rules.seed)) < 2:
            return None
        return pick_pair(unused, self._rules.pair_strategy, seed=self._rules.seed)

    def _pending(self) -> Revision | None:
        """A proposal that was received and not yet decided on."""
        history = self._history()
        last = history[-1] if history else None
        if last is None or last.status != "proposed" or last.phase != self._phase:
            return None
        return last

    def _give_up(self, pending: Revision) -> None:
        """A proposal on answers that are not there any more can't be compared with its parent."""
        reason = "the answers that it contrasted are not among the candidates any more"
        number = len(self._history())
        failed = replace(pending, status="failed", number=number, rubric=None, reasons=(reason,))
        self._store.append(failed)

    # ------------------------------------------------------------------------
    # One round

    async def _round(
        self, number: int, head: Rubric, scored: Sequence[ScoredCandidate], pair: Pair
    ) -> None:
        proposed = self._pending()
        if proposed is None:
            request = RefinementRequest(record=self._record, rubric=head, pair=pair, round=number)
            try:
                proposal = await self._proposer.refine(request)
                rubric = self._applied(head, proposal)
            except ProposalError as err:
                self._append(number, "failed", head, pair, reasons=(str(err),))
                return
            proposed = self._append(
                number, "proposed", head, pair, rubric=rubric, proposal=proposal
            )
        assert proposed.rubric is not None
        await self._decide(number, head, scored, pair, proposed)

    def _applied(self, head: Rubric, proposal: Proposal) -> Rubric:
        """The proposed rubric. Ids of versions that were refused are not used again either."""
        seen = [r.rubric for r in self._history() if r.rubric is not None]
        return apply_operations(
            head,
            proposal.operations,
            first_number=next_number(seen),
            limits=self._rules.limits,
        )

    async def _decide(
        self,
        number: int,
        head: Rubric,
        scored: Sequence[ScoredCandidate],
        pair: Pair,
        proposed: Revision,
    ) -> None:
        assert proposed.rubric is not None
        figures: GateFigures | None = None
        reasons: tuple[str, ...] = ()
        if self._rules.gate is not None:
            after = await self._score(proposed.rubric)
            figures = measure(scored, after, pair, self._rules.gate, seed=self._rules.seed)
            reasons = refusals(figures, self._rules.gate)
        self._append(
            number,
            "rejected" if reasons else "accepted",
            head,
            pair,
            rubric=proposed.rubric,
            proposal=Proposal(
                operations=proposed.operations,
                author=proposed.author,
                template_hash=proposed.template_hash,
                cost_usd=proposed.cost_usd,
            ),
            gate=figures,
            reasons=reasons,
        )

    def _append(
        self,
        number: int,
        status: RevisionStatus,
        head: Rubric,
        pair: Pair,
        *,
        rubric: Rubric | None = None,
        proposal: Proposal | None = None,
        gate: GateFigures | None = None,
        reasons: tuple[str, ...] = (),
    ) -> Revision:
        revision = Revision(
            prompt_id=self._record.prompt_id,
            number=len(self._history()),
            status=status,
            version=head.version + 1,
            parent_version=head.version,
            rubric=rubric,
            author=proposal.author if proposal else self._proposer.author,
            template_hash=proposal.template_hash if proposal else "",
            round=number,
            phase=self._phase,
            evidence=(pair.first.candidate.candidate_id, pair.second.candidate.candidate_id),
            operations=proposal.operations if proposal else (),
            gate=gate,
            reasons=reasons,
            cost_usd=proposal.cost_usd if proposal else 0.0,
        )
        self._store.append(revision)
        return revision


def _pair_of(revision: Revision, scored: Sequence[ScoredCandidate]) -> Pair | None:
    """The two answers of a revision; None if one of them is not there."""
    by_id = {s.candidate.candidate_id: s for s in scored}
    first, second = (by_id.get(cid) for cid in revision.evidence)
    return Pair(first=first, second=second) if first and second else None
