"""Follows requests from their choice to their end: reservations, receipts, and what is learned from them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from kvatlas.index._native import LoadBook
from kvatlas.index.choosing.deciding import Decided, Decider
from kvatlas.index.choosing.figures import ChoosingStatistics
from kvatlas.index.choosing.looking import Looker
from kvatlas.index.choosing.receipts.receipt import Receipt
from kvatlas.index.choosing.receipts.record import Record
from kvatlas.index.choosing.receipts.ring import Ring
from kvatlas.index.choosing.requests.departures import Departures
from kvatlas.index.choosing.requests.flights import Flight, Flights, Leg
from kvatlas.index.choosing.requests.legs import best_rank, fill_leg, predict
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.scores import Worker

_TIDY_S = 1.0


class Tracking:
    """Any thread may call it; its lock is held for microseconds, and nobody is waited for in it."""

    def __init__(self, looker: Looker, book: LoadBook, decider: Decider, config: ChoosingConfig) -> None:
        self._counts: Counter[str] = Counter()
        self._ring = Ring(config)
        self._lock = threading.Lock()
        self._flights = Flights(config.reservations_max, config.reservation_s)
        self._looker = looker
        self._book = book
        self._decider = decider
        self._silence_s = config.reservation_s
        self._departures = Departures()
        self._tidy_at_s = float("-inf")

    def __len__(self) -> int:
        """Requests in flight."""
        return len(self._flights)

    # Beginnings.

    def began(self, decided: Decided, now_s: float) -> None:
        """A decision was made: it is kept, and in flight where it names a worker."""
        record, legs = decided.record, decided.legs
        case = record.case
        assert case is not None
        is_routed = record.ask.reserve
        if legs and is_routed:
            self._note(record, legs, now_s)
        with self._lock:
            self._ring.add(record)
            if not legs:
                self._counts["overloaded"] += 1
                return
            self._counts["choices"] += 1
            self._counts["without_whole_scores"] += bool(record.reason)
            self._counts["unreserved"] += is_routed and not legs[0].is_reserved
            flight = Flight(record.request_id, record.ask.model, case.prompt_tokens, legs, record, now_s)
            flight.is_routed = is_routed
            is_tracked = self._fly(flight)
        if not is_tracked:  # nobody could end it
            self._decider.release(legs, now_s)
            assert record.choice is not None
            record.choice = msgspec.structs.replace(record.choice, is_reserved=False)

    def routed(self, request_id: str, pod: str | None, rank: int | None, now_s: float) -> bool:
        """A request that was chosen without being reserved goes to this worker, or to the chosen one; one
        that is on its way moves to this worker."""
        with self._lock:
            flight = self._flights.find(request_id, lambda flight: not flight.is_routed)
            is_new = flight is not None
            if flight is None and pod is not None:
                flight = self._flights.find(request_id)
            if flight is None:
                self._counts["unknown_requests"] += 1
                return False
            self._flights.mention(flight, now_s)
            flight.is_routed = True
            legs, leg = flight.legs, flight.legs[0]
        if pod is not None and (pod != leg.pod or (rank is not None and rank != leg.rank)):
            worker = (pod, best_rank(flight.record, pod) if rank is None else rank)
            return self._redirect(flight, worker, now_s, is_new=is_new)
        if is_new:
            self._send(flight, legs, now_s)
        return True

    def _redirect(self, flight: Flight, worker: Worker, now_s: float, *, is_new: bool) -> bool:
        """It goes to another worker, which does all of it. False: somebody said that it has ended."""
        leg, record = self._decider.leg(), flight.record
        legs = [leg]
        fill_leg(leg, record, worker, self._decider.sets.slot(*worker), flight.prompt_tokens)
        with self._lock:
            if flight.is_ended:
                return False
            left, flight.legs = flight.legs, legs
            has_prefilled, flight.has_prefilled = flight.has_prefilled, False
            self._counts["moved"] += not is_new
            if record is not None:
                chosen = record.choice
                is_chosen = chosen is not None and (chosen.pod, chosen.rank) == worker
                record.sent_to = None if is_chosen else worker
        self._leave(record, left, now_s, has_prefilled=has_prefilled)
        self._send(flight, legs, now_s)
        return True

    def _send(self, flight: Flight, legs: Sequence[Leg], now_s: float) -> None:
        """It counts at these workers, and they are expected to hold its prompt."""
        record = flight.record
        if record is not None:
            self._note(record, legs, now_s)
            if len(legs) == 1 and legs[0].loaded_tokens is None and record.case is not None:
                row = record.case.candidates.rows.get((legs[0].pod, legs[0].rank))
                if row is not None:
                    predict(legs[0], record.case, row)
        self._reserve(flight, legs, now_s)

    def adopted(self, flight: Flight, now_s: float) -> bool:
        """A request that was chosen elsewhere; false: the book is full."""
        with self._lock:
            is_tracked = self._fly(flight)
        if is_tracked:
            self._reserve(flight, flight.legs, now_s)
        return flight.legs[0].is_reserved

    def _fly(self, flight: Flight) -> bool:
        """False: no room. REQUIRES: the lock."""
        if self._flights.is_full:
            self._counts["untracked"] += 1
            return False
        self._flights.add(flight)
        return True

    def _reserve(self, flight: Flight, legs: Sequence[Leg], now_s: float) -> None:
        for leg in legs:
            self._decider.reserve(leg, now_s)
        with self._lock:
            self._counts["unreserved"] += not legs[0].is_reserved
            gone = legs if flight.is_ended else [leg for leg in legs if leg not in flight.legs]
        if gone:  # somebody was faster
            self._decider.release(gone, now_s)

    def _note(self, record: Record, legs: Sequence[Leg], now_s: float) -> None:
        """What the workers are expected to hold from now on."""
        expectations = self._decider.expectations
        records = (record, record.decode) if record.decode is not None else (record,)
        for leg, told in zip(legs, records, strict=False):  # redirected: one leg
            case = told.case
            row = case.candidates.rows.get((leg.pod, leg.rank)) if case is not None else None
            if case is not None and row is not None:
                leg.notes = expectations.note(told.ask, case.candidates, row, case.question, now_s)

    # What is heard of them.

    def prefill_done(self, request_id: str, now_s: float) -> bool:
        with self._lock:
            flight = self._find(request_id, now_s, lambda flight: not flight.has_prefilled)
            if flight is None:
                return False
            leg = _prefilled(flight)
        self._end_prefill(flight, leg, now_s)
        return True

    def produced(self, request_id: str, tokens: int, now_s: float) -> bool:
        with self._lock:
            flight = self._find(request_id, now_s)
            if flight is None:
                return False
            prefilling = None if flight.has_prefilled or not tokens else _prefilled(flight)
            leg = flight.legs[-1]
        if prefilling is not None:
            self._end_prefill(flight, prefilling, now_s)
        self._book.produced(leg.reservation, tokens, now_s)
        return True

    def _end_prefill(self, flight: Flight, leg: Leg, now_s: float) -> None:
        self._book.prefill_done(leg.reservation, now_s)
        if leg not in flight.legs:  # another decodes
            self._book.completed(leg.reservation, now_s)

    def completed(
        self, request_id: str, cached_tokens: int | None, output_tokens: int | None, now_s: float
    ) -> bool:
        flight = self._ended(request_id, now_s, "completed")
        if flight is None:
            return False
        record = flight.record
        if record is not None:
            record.outcome = "completed"
            record.actual_cached_tokens, record.actual_output_tokens = cached_tokens, output_tokens
        first = flight.legs[0]
        for leg in flight.legs:
            told = cached_tokens if leg is first and leg.prefill_tokens else None
            self._book.completed(leg.reservation, now_s, cached_tokens=told)
        if cached_tokens is not None and first.predicted_tokens is not None:
            self._compare(flight, first, first.predicted_tokens, cached_tokens)
        return True

    def _compare(self, flight: Flight, leg: Leg, predicted: int, actual: int) -> None:
        with self._lock:
            self._counts["prompt_tokens"] += flight.prompt_tokens
            self._counts["predicted_tokens"] += predicted
            self._counts["reused_tokens"] += actual
        self._looker.reused(leg.pod, predicted, actual, model=flight.model, rank=leg.rank)

    def failed(self, request_id: str, why: str, now_s: float) -> bool:
        flight = self._ended(request_id, now_s, "failed")
        if flight is None:
            return False
        if flight.record is not None:
            flight.record.outcome, flight.record.outcome_says = "failed", why
        self._undo(flight, now_s)
        return True

    def taken_back(self, request_id: str, now_s: float) -> Flight | None:
        """It could not be reached where it was sent, and no longer counts there."""
        flight = self._ended(request_id, now_s, "moved", lambda flight: flight.record is not None)
        if flight is not None and flight.record is not None:
            flight.record.outcome, flight.record.outcome_says = "failed", "sent to another"
            self._undo(flight, now_s)
        return flight

    def _undo(self, flight: Flight, now_s: float) -> None:
        self._leave(flight.record, flight.legs, now_s, has_prefilled=flight.has_prefilled)

    def _leave(
        self, record: Record | None, legs: Sequence[Leg], now_s: float, *, has_prefilled: bool
    ) -> None:
        """It is with these workers no longer."""
        self._decider.release(legs, now_s)
        case = record.case if record is not None else None
        if case is None or has_prefilled:  # then its blocks are there
            return
        for leg in legs:
            if leg.notes is not None:
                self._decider.expectations.take_back(leg.notes, case.question.keys)

    def _ended(
        self, request_id: str, now_s: float, count: str, suits: Callable[[Flight], bool] | None = None
    ) -> Flight | None:
        with self._lock:
            flight = self._find(request_id, now_s, suits)
            if flight is not None:
                self._flights.end(flight)
                self._counts[count] += 1
        return flight

    def _find(
        self, request_id: str, now_s: float, suits: Callable[[Flight], bool] | None = None
    ) -> Flight | None:
        """The oldest that suits, and it has been mentioned. REQUIRES: the lock."""
        flight = self._flights.find(request_id, suits)
        if flight is None:
            self._counts["unknown_requests"] += 1
        else:
            self._flights.mention(flight, now_s)
        return flight

    # What is known of them.

    def record(self, request_id: str, tenant: str) -> Receipt | None:
        with self._lock:
            record = self._ring.find(request_id, tenant)
        return record.receipt() if record is not None else None

    def receipts(self, tenant: str, limit: int) -> list[Receipt]:
        with self._lock:
            records = self._ring.newest(tenant, limit)
        return [receipt for record in records if (receipt := record.receipt()) is not None]

    def count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def statistics(self) -> ChoosingStatistics:
        decider, expectations = self._decider, self._decider.expectations
        with self._lock:
            return ChoosingStatistics(
                **self._counts,
                in_flight=len(self._flights),
                policy=decider.judge.policy.name,
                policy_failures=decider.judge.failed,
                shadow=decider.shadow.statistics() if decider.shadow is not None else None,
                receipts=len(self._ring),
                receipts_bytes=self._ring.kept_bytes,
                receipts_dropped=self._ring.dropped,
                candidate_sets_made=decider.sets.made,
                loads=self._book.statistics(),
                speculation=expectations.speculation.statistics(),
                history=expectations.history.statistics(),
                sessions=expectations.sessions.statistics(),
            )

    # Housekeeping.

    def tidy(self, now_s: float) -> None:
        """At most once a second: silent requests end, and what is known of pods that have left."""
        if now_s < self._tidy_at_s:
            return
        sets, listed = self._decider.sets, self._looker.serving_pods()
        with self._lock:
            if now_s < self._tidy_at_s:
                return
            self._tidy_at_s = now_s + _TIDY_S
            silent = self._flights.silent(now_s)
            self._counts["expired"] += len(silent)
            left = self._departures.left(list(sets.slots), listed, now_s)
        for flight in silent:
            if flight.record is not None:
                flight.record.outcome = "expired"
            self._undo(flight, now_s)
        # Every reservation has a flight that ends it; should one ever not, it does not stay for ever.
        self._book.expire(now_s, 2 * self._silence_s)
        for pod in left:
            for slot in sets.forget(pod):
                self._decider.expectations.forget(slot)


def _prefilled(flight: Flight) -> Leg:
    """Its prompt is computed; the worker that only prefilled is done with it. REQUIRES: the lock."""
    flight.has_prefilled = True
    leg = flight.legs[0]
    if len(flight.legs) > 1:
        flight.legs = flight.legs[1:]
    return leg
