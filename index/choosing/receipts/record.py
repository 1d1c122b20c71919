"""What a choice leaves behind, from which its receipt is made when somebody asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.policies.judge import Case, Verdict, tier_blocks_of
from kvatlas.index.choosing.receipts.receipt import CandidateAccount, Outcome, Receipt, ShadowAccount, Stages
from kvatlas.index.scores import TIERS, Worker

if TYPE_CHECKING:
    from kvatlas.index._native import Decision

_ACCOUNTS_MAX = 256
_OPEN, _GONE = 0, 2
_BYTES_PER_CANDIDATE = 32
_BYTES_PER_MATCH = 28
_BYTES_PER_POD = 128
_BYTES_BESIDE = 2048


class Record:
    """The raw material of one receipt; what came of the request is added later."""

    __slots__ = (
        "actual_cached_tokens",
        "actual_output_tokens",
        "ask",
        "case",
        "choice",
        "decode",
        "outcome",
        "outcome_says",
        "reason",
        "request_id",
        "sent_to",
        "shadow",
        "stages_ns",
        "tenant",
        "time_s",
        "verdict",
        "view_age_s",
    )

    def __init__(
        self,
        request_id: str,
        tenant: str,
        ask: Ask,
        case: Case,
        verdict: Verdict,
        reason: str,
        time_s: float,
    ) -> None:
        self.request_id = request_id
        self.tenant = tenant
        """As `tenant_of` makes it."""
        self.ask = ask
        self.case: Case | None = case
        """None: shed."""
        self.verdict: Verdict | None = verdict
        self.reason = reason
        self.time_s = time_s
        self.shadow: Verdict | None = None
        self.choice: Choice | None = None
        """None: all were saturated."""
        self.decode: Record | None = None
        self.sent_to: Worker | None = None
        """None: to the one chosen, or nowhere."""
        self.stages_ns: tuple[int, int, int] = (0, 0, 0)
        """Tokenize, look, decide."""
        self.view_age_s = 0.0
        self.actual_cached_tokens: int | None = None
        self.actual_output_tokens: int | None = None
        self.outcome: Outcome = "chosen"
        self.outcome_says = ""

    @property
    def weight_bytes(self) -> int:
        """About what it keeps in memory, and keeps others from freeing."""
        case = self.case
        if case is None:
            return _BYTES_BESIDE
        own = len(case.candidates) * _BYTES_PER_CANDIDATE + len(case.matches.workers) * _BYTES_PER_MATCH
        own += case.question.keys.nbytes + _BYTES_BESIDE + _bytes_of(self.ask)
        return own + (self.decode.weight_bytes if self.decode is not None else 0)

    def shed(self) -> None:
        """Let go of what only a receipt needs: nobody can ask for it any more."""
        self.case = self.verdict = self.shadow = None
        if self.decode is not None:
            self.decode.shed()

    def receipt(self) -> Receipt | None:
        """None: shed. Any thread may call it, at any time."""
        case, verdict, shadow, choice = self.case, self.verdict, self.shadow, self.choice
        if case is None or verdict is None:
            return None
        decision = verdict.decision
        tokenize_ns, look_ns, decide_ns = self.stages_ns
        return Receipt(
            request_id=self.request_id,
            model=self.ask.model,
            time_s=self.time_s,
            policy=verdict.policy,
            reason=self.reason,
            prompt_tokens=case.prompt_tokens,
            output_tokens=case.output_tokens,
            block_size_tokens=case.question.block_size_tokens,
            pod=choice.pod if choice is not None else None,
            rank=choice.rank if choice is not None else 0,
            cost=choice.cost if choice is not None else 0.0,
            cost_unit="seconds" if decision.in_seconds else "tokens",
            predicted_cached_tokens=max(decision.cached_tokens, 0),
            sent_pod=self.sent_to[0] if self.sent_to is not None else None,
            sent_rank=self.sent_to[1] if self.sent_to is not None else 0,
            actual_cached_tokens=self.actual_cached_tokens,
            actual_output_tokens=self.actual_output_tokens,
            outcome=self.outcome,
            outcome_says=self.outcome_says,
            is_reserved=decision.is_reserved,
            is_whole=case.matches.is_whole,
            view_age_s=self.view_age_s,
            stages=Stages(tokenize_us=tokenize_ns / 1e3, look_us=look_ns / 1e3, decide_us=decide_ns / 1e3),
            candidates=_accounts(case, decision),
            n_candidates=len(case.candidates),
            excluded=case.candidates.excluded,
            shadow=_shadow(shadow, case),
            decode=self.decode.receipt() if self.decode is not None else None,
        )


def _bytes_of(ask: Ask) -> int:
    """About what callers have it remember, beyond what is usual."""
    texts = len(ask.request_id) + len(ask.session) + len(ask.cache_salt or "") + len(ask.lora or "")
    labels = sum(len(label) + len(value) for each in (ask.labels, ask.near) for label, value in each.items())
    # A frozenset is one for many requests.
    pods = 0 if ask.pods is None or isinstance(ask.pods, frozenset) else _BYTES_PER_POD * len(ask.pods)
    return 4 * (texts + labels) + pods


def _shadow(shadow: Verdict | None, case: Case) -> ShadowAccount | None:
    if shadow is None:
        return None
    row = shadow.decision.row
    if row < 0:
        return ShadowAccount(policy=shadow.policy, pod=None)
    worker = case.candidates.candidates[row]
    return ShadowAccount(
        policy=shadow.policy,
        pod=worker.pod,
        rank=worker.rank,
        predicted_cached_tokens=shadow.decision.cached_tokens,
    )


def _accounts(case: Case, decision: Decision) -> tuple[CandidateAccount, ...]:
    """The cheapest first, but before them the one that was taken."""
    costs = np.where(decision.states == _OPEN, decision.costs, np.inf)
    order = np.argsort(costs, kind="stable").tolist()
    if decision.row >= 0:
        order.remove(decision.row)
        order.insert(0, decision.row)
    tiers = tier_blocks_of(case.candidates, case.matches)
    return tuple(_account(case, decision, tiers, row, float(costs[row])) for row in order[:_ACCOUNTS_MAX])


def _account(
    case: Case, decision: Decision, tiers: npt.NDArray[np.uint32], row: int, cost: float
) -> CandidateAccount:
    worker = case.candidates.candidates[row]
    blocks = {tier: n for tier, n in zip(TIERS, tiers[row].tolist(), strict=True) if n}
    known = sum(n for tier, n in blocks.items() if tier != "unknown")
    return CandidateAccount(
        pod=worker.pod,
        rank=worker.rank,
        url=worker.serves.serving.url,
        tier_blocks=blocks,
        matched_tokens=min(known * case.question.block_size_tokens, case.prompt_tokens),
        credited_tokens=float(decision.credits[row]),
        prefill_tokens=float(decision.prefill_tokens[row]),
        decode_tokens=float(decision.decode_tokens[row]),
        requests=int(decision.requests[row]),
        cost=cost if np.isfinite(cost) else None,
        truth=case.candidates.truth(row, has_extras=case.question.has_extras),
        doubts=worker.view.doubts if worker.view is not None else ("nobody has heard its events",),
        why=_why(decision, row, cost),
    )


def _why(decision: Decision, row: int, cost: float) -> str:
    if row == decision.row:
        return "chosen"
    if not np.isfinite(cost):
        return "it has left" if decision.states[row] == _GONE else "it takes no more"
    more = cost - decision.cost
    if abs(more) <= 1e-6 + 1e-6 * abs(decision.cost):
        return "it costs the same; by lot"
    unit = "s" if decision.in_seconds else "tokens"
    amount = f"{abs(more):.3g} {unit}" if decision.in_seconds else f"{abs(more):.0f} {unit}"
    return f"it costs {amount} more" if more > 0 else f"it costs {amount} less; the policy took another"
