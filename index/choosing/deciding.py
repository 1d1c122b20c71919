"""One decision: from a prompt's matches to the worker or workers that the request goes to.

candidates -> what they hold (matches, expectations) -> policy -> reservation -> record
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from kvatlas.index._native import LoadBook
from kvatlas.index.choosing.ask import Ask, tenant_of
from kvatlas.index.choosing.candidates import CandidateSet, CandidateSets
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.looking import Look, Looker
from kvatlas.index.choosing.policies.judge import Case, Judge, Verdict
from kvatlas.index.choosing.policies.policy import load_policy
from kvatlas.index.choosing.policies.shadow import Shadow
from kvatlas.index.choosing.receipts.record import Record
from kvatlas.index.choosing.requests.expectations import Expectations
from kvatlas.index.choosing.requests.flights import Leg
from kvatlas.index.choosing.requests.prompt_ids import Prompted
from kvatlas.index.choosing.serving import Role
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import NoWorkerError
from kvatlas.index.reading import Question
from kvatlas.index.shards import Matches

_NOBODY: frozenset[str] = frozenset()
_PODS_SAID_MAX = 4


class Request(NamedTuple):
    """What is decided upon."""

    ask: Ask
    request_id: str
    prompt_tokens: int
    question: Question
    matches: Matches
    reason: str
    """Why scores are not whole; empty: they are."""
    view_age_s: float


class Decided(NamedTuple):
    """The record of a decision, and what the request is on its workers; none: all are saturated."""

    record: Record
    legs: list[Leg]
    case: Case
    verdict: Verdict


class Decider:
    """Decides and reserves. Any thread may call it: what it holds is safe for threads by itself."""

    def __init__(self, looker: Looker, book: LoadBook, config: ChoosingConfig) -> None:
        """Raises ConfigError for policies that cannot be loaded."""
        policy = load_policy(config.policy, config.policy_options, "choosing.policy")
        self.judge = Judge(policy, book, config)
        self.shadow = Shadow(book, config) if config.shadow_policy else None
        self.sets = CandidateSets(looker, book, config)
        self.expectations = Expectations(config)
        self._book = book
        self._config = config
        self._numbers = itertools.count(1)

    def request(self, ask: Ask, request_id: str, prompted: Prompted, look: Look) -> Request:
        """What was asked and seen, put together; keys of its own where no events have told a block size."""
        question, reason = look.question, prompted.reason
        if ask.features is not None:  # in the keys by now, and may be large: not to be remembered
            ask = msgspec.structs.replace(ask, features=None)
        if not reason:
            if question.block_size_tokens == 0:
                history = self.expectations.history
                keys = history.keys(
                    ask.model, prompted.token_ids, ask.lora, ask.cache_salt, prompted.features
                )
                question = question._replace(keys=keys, block_size_tokens=history.block_size_tokens)
                reason = "no events have told the model's block size"
            elif not look.matches.is_whole:
                reason = "a part of the index is missing or being filled"
        return Request(ask, request_id, prompted.tokens, question, look.matches, reason, look.age_s)

    def decide(
        self, request: Request, look: Look, now_s: float, without: frozenset[str] = _NOBODY
    ) -> Decided:
        """One worker, or one to prefill and one to decode where pods have roles.

        `without`: pods that must not be taken. Raises NoWorkerError where nobody may serve it.
        """
        role = request.ask.role
        candidates = self._candidates(request, look, role if role != "both" else None, without)
        if role is None and not candidates.roles <= {"both"}:
            return self._split(request, look, now_s, without)
        return self._alone(request, candidates, now_s)

    def leg(self) -> Leg:
        """A request's part on a worker yet to be named, under an id that the book has never seen."""
        return Leg(self._next_reservation())

    def _next_reservation(self) -> str:
        return f"{next(self._numbers):x}"

    def _candidates(
        self, request: Request, look: Look, role: Role | None, without: frozenset[str]
    ) -> CandidateSet:
        found = self.sets.of(request.ask, look, role, without)
        if len(found) == 0:
            raise NoWorkerError(_nobody(request.ask, role, found))
        return found

    def _case(self, request: Request, candidates: CandidateSet, now_s: float) -> Case:
        expected = request.ask.output_tokens
        return Case(
            candidates,
            request.question,
            request.matches,
            request.prompt_tokens,
            self._config.output_tokens_default if expected is None else expected,
            self.expectations.hints(candidates, request.question, now_s),
            self.expectations.session_row(request.ask, candidates),
            now_s,
        )

    def _alone(self, request: Request, candidates: CandidateSet, now_s: float) -> Decided:
        """One worker does all of it."""
        case = self._case(request, candidates, now_s)
        shadow = self.shadow.decide(case) if self.shadow is not None else None
        leg = self.leg()
        verdict = self.judge.decide(case, leg.reservation, reserve=request.ask.reserve)
        if shadow is not None and self.shadow is not None:
            self.shadow.count(shadow.decision, verdict.decision)
        decided = self._decided(request, case, verdict, leg)
        decided.record.shadow = shadow
        return decided

    def _split(self, request: Request, look: Look, now_s: float, without: frozenset[str]) -> Decided:
        """One worker prefills, another decodes; the latter alone where it holds nearly all."""
        # Both before anything is reserved: nothing may be raised from there on.
        prefillers = self.sets.of(request.ask, look, "prefill", without)
        case = self._case(request, self._candidates(request, look, "decode", without), now_s)
        leg = self.leg()
        verdict = self.judge.decode_side(case, leg.reservation, reserve=request.ask.reserve)
        decoding = self._decided(request, case, verdict, leg, "decode")
        if not decoding.legs:
            return decoding
        left = request.prompt_tokens - verdict.decision.cached_tokens
        if left <= self._config.bypass_tokens or len(prefillers) == 0:
            return self._all_of_it(decoding, left, now_s)
        prefilling = self._prefilling(request, prefillers, now_s)
        if not prefilling.legs:
            self.release(decoding.legs, now_s)
            return prefilling
        ours, other = prefilling.legs[0], leg
        if (ours.pod, ours.rank) == (other.pod, other.rank):
            self.release(prefilling.legs, now_s)
            return self._all_of_it(decoding, left, now_s)
        return _joined(prefilling, decoding)

    def _prefilling(self, request: Request, candidates: CandidateSet, now_s: float) -> Decided:
        case = self._case(request, candidates, now_s)
        leg = self.leg()
        verdict = self.judge.prefill_side(case, leg.reservation, reserve=request.ask.reserve)
        return self._decided(request, case, verdict, leg, "prefill")

    def _all_of_it(self, decoding: Decided, left: int, now_s: float) -> Decided:
        """The worker that decodes prefills too: its reservation, of decoding alone, is made anew."""
        leg = decoding.legs[0]
        leg.prefill_tokens = max(left, 0)
        if leg.is_reserved:
            self.release([leg], now_s)
            leg.reservation = self._next_reservation()
            self.reserve(leg, now_s)
        return decoding

    def reserve(self, leg: Leg, now_s: float) -> None:
        """Enter it in the book, where there is room."""
        leg.is_reserved = self._book.reserve(
            leg.slot,
            request_id=leg.reservation,
            prefill_tokens=leg.prefill_tokens,
            prompt_tokens=leg.prompt_tokens,
            output_tokens=leg.output_tokens,
            cached_tokens=leg.predicted_tokens or 0,
            loaded_tokens=leg.loaded_tokens,
            now_s=now_s,
        )

    def release(self, legs: Sequence[Leg], now_s: float) -> None:
        """The request goes to none of these."""
        for leg in legs:
            if leg.is_reserved:
                self._book.failed(leg.reservation, now_s)

    def _decided(
        self, request: Request, case: Case, verdict: Verdict, leg: Leg, side: Role = "both"
    ) -> Decided:
        """`leg` becomes what the verdict says."""
        ask, decision = request.ask, verdict.decision
        reason = "; ".join(why for why in (request.reason, verdict.reason) if why)
        tenant = tenant_of(ask.tenant, ask.cache_salt)
        record = Record(request.request_id, tenant, ask, case, verdict, reason, time.time())
        record.view_age_s = request.view_age_s
        row = decision.row
        if row < 0:
            record.outcome = "overloaded"
            return Decided(record, [], case, verdict)
        candidates = case.candidates
        worker = candidates.candidates[row]
        leg.pod, leg.rank, leg.slot = worker.pod, worker.rank, decision.slot
        leg.is_reserved = decision.is_reserved
        if side != "decode":
            leg.prefill_tokens = max(case.prompt_tokens - decision.cached_tokens, 0)
        if side != "prefill":
            leg.prompt_tokens, leg.output_tokens = case.prompt_tokens, case.output_tokens
        truth = candidates.truth(row, has_extras=request.question.has_extras)
        if decision.cached_tokens == decision.index_tokens and truth != "BLIND":
            leg.predicted_tokens = decision.index_tokens
        record.choice = Choice(
            request_id=request.request_id,
            pod=worker.pod,
            rank=worker.rank,
            url=worker.serves.serving.url,
            cached_tokens=decision.cached_tokens,
            prompt_tokens=case.prompt_tokens,
            cost=decision.cost,
            cost_unit="seconds" if decision.in_seconds else "tokens",
            truth=truth,
            policy=verdict.policy,
            reason=reason,
            is_reserved=decision.is_reserved,
        )
        return Decided(record, [leg], case, verdict)


def _joined(prefilling: Decided, decoding: Decided) -> Decided:
    """One request on two workers."""
    record = prefilling.record
    record.decode = decoding.record
    assert record.choice is not None
    record.choice = msgspec.structs.replace(record.choice, decode=decoding.record.choice)
    return prefilling._replace(legs=prefilling.legs + decoding.legs)


def _nobody(ask: Ask, role: Role | None, found: CandidateSet) -> str:
    """What to say where nobody may serve a request."""
    wanted = f"a worker of model {ask.model!r:.200}" + (f" that can {role}" if role else "")
    if not found.excluded:
        return f"expected {wanted}, got none: no pod serves it"
    told = [f"{pod}: {why}" for pod, why in itertools.islice(found.excluded.items(), _PODS_SAID_MAX)]
    more = len(found.excluded) - len(told)
    return f"expected {wanted}, got none ({'; '.join(told)}{f'; {more} more' if more else ''})"
