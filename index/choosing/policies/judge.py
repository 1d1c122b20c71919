"""Has the policy decide, and stands in for one that fails."""

from __future__ import annotations

import itertools
import logging
import random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Decision, LoadBook, Terms
from kvatlas.index.choosing.candidates import CandidateSet
from kvatlas.index.choosing.policies.policy import (
    CostPolicy,
    DecodeSide,
    NativePolicy,
    Policy,
    PolicyView,
    PrefillSide,
    Weighted,
    checked_costs,
)
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import ConfigError, quoted
from kvatlas.index.reading import Question
from kvatlas.index.scores import TIERS
from kvatlas.index.shards import Matches

_log = logging.getLogger(__name__)


class Case(NamedTuple):
    """One request before its policy."""

    candidates: CandidateSet
    question: Question
    matches: Matches
    prompt_tokens: int
    output_tokens: int
    hints: npt.NDArray[np.float32] | None
    """[n] tokens that candidates hold by what was sent there. None: nobody any."""
    session_row: int
    """Of the worker that has served the session; -1: none."""
    now_s: float


class Verdict(NamedTuple):
    """What was decided."""

    decision: Decision
    policy: str
    reason: str = ""
    """Why it is not the configured policy's; empty: it is."""


class Judge:
    """Decides with a book of loads. Any thread may call it."""

    def __init__(self, policy: Policy, book: LoadBook, config: ChoosingConfig) -> None:
        self.policy = policy
        self._book = book
        self._terms = _terms_of(policy, config)
        self._weighted = Weighted().terms(config)
        self._prefill = PrefillSide().terms(config)
        self._decode = DecodeSide().terms(config)
        self._failures = itertools.count(1)
        self.failed = 0
        """Times that the policy raised, or gave costs that are none."""

    def decide(self, case: Case, reservation: str, *, reserve: bool) -> Verdict:
        """One worker, reserved under this id where asked for; row -1 where all are saturated."""
        policy = self.policy
        if self._terms is not None:
            return Verdict(self._natively(case, self._terms, reservation, reserve), policy.name)
        assert isinstance(policy, CostPolicy)
        try:
            costs = checked_costs(policy, self._view(case))
        except Exception as error:
            reason = self._note_failure(error)
            return Verdict(self._natively(case, self._weighted, reservation, reserve), Weighted.name, reason)
        return Verdict(self._by_costs(case, costs, reservation, reserve), policy.name)

    def prefill_side(self, case: Case, reservation: str, *, reserve: bool) -> Verdict:
        """The worker that prefills where another decodes."""
        return Verdict(self._natively(case, self._prefill, reservation, reserve), PrefillSide.name)

    def decode_side(self, case: Case, reservation: str, *, reserve: bool) -> Verdict:
        """The worker that decodes where another prefills."""
        return Verdict(self._natively(case, self._decode, reservation, reserve), DecodeSide.name)

    def _natively(self, case: Case, terms: Terms, reservation: str, reserve: bool) -> Decision:
        matches = case.matches
        return self._book.choose(
            case.candidates.native,
            terms,
            now_s=case.now_s,
            request_id=reservation,
            prompt_tokens=case.prompt_tokens,
            output_tokens=case.output_tokens,
            workers=matches.workers,
            blocks=matches.blocks,
            tier_blocks=matches.tier_blocks,
            partial_rows=matches.partial_rows,
            block_size=case.question.block_size_tokens,
            hints=case.hints,
            bonus_row=case.session_row,
            reserve=reserve,
            seed=random.getrandbits(63),
        )

    def _by_costs(
        self, case: Case, costs: npt.NDArray[np.float64], reservation: str, reserve: bool
    ) -> Decision:
        matches = case.matches
        return self._book.pick(
            case.candidates.native,
            costs,
            now_s=case.now_s,
            request_id=reservation,
            prompt_tokens=case.prompt_tokens,
            output_tokens=case.output_tokens,
            workers=matches.workers,
            blocks=matches.blocks,
            tier_blocks=matches.tier_blocks,
            partial_rows=matches.partial_rows,
            block_size=case.question.block_size_tokens,
            hints=case.hints,
            bonus_row=case.session_row,
            reserve=reserve,
            seed=random.getrandbits(63),
        )

    def _view(self, case: Case) -> PolicyView:
        candidates = case.candidates
        tier_blocks = tier_blocks_of(candidates, case.matches)
        cached = tier_blocks[:, :-1].sum(axis=1) * float(case.question.block_size_tokens)
        if case.hints is not None:
            cached = np.maximum(cached, case.hints)
        return PolicyView(
            candidates=candidates.candidates,
            prompt_tokens=case.prompt_tokens,
            output_tokens=case.output_tokens,
            block_size_tokens=case.question.block_size_tokens,
            tier_blocks=tier_blocks,
            cached_tokens=np.minimum(cached, case.prompt_tokens),
            loads=self._book.snapshot(candidates.native, case.now_s),
            session_row=case.session_row,
        )

    def _note_failure(self, error: Exception) -> str:
        self.failed = next(self._failures)
        if self.failed == 1:
            _log.warning("policy %r failed, weighted decides instead", self.policy.name, exc_info=error)
        return f"policy {self.policy.name} failed: {type(error).__name__}: {quoted(error, 200)}"


def _terms_of(policy: Policy, config: ChoosingConfig) -> Terms | None:
    """None: it computes costs itself."""
    if not isinstance(policy, NativePolicy):
        return None
    try:
        return policy.terms(config)
    except Exception as error:
        raise ConfigError(f"policy {policy.name!r}: expected terms, got {error!r:.200}") from error


def tier_blocks_of(candidates: CandidateSet, matches: Matches) -> npt.NDArray[np.uint32]:
    """[n, 5] blocks that each candidate can reuse, by tier."""
    tiers = np.zeros((len(candidates), len(TIERS)), np.uint32)
    for at, number in enumerate(matches.workers.tolist()):
        row = candidates.row_of_number.get(number)
        if row is not None:
            tiers[row] = matches.tier_blocks[at]
    return tiers
