"""Requests between their choice and their end, as the router that chose knows them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kvatlas.index.choosing.requests.expectations import Notes

if TYPE_CHECKING:
    from kvatlas.index.choosing.receipts.record import Record


class Leg:
    """What a request is on one worker: with roles split, it has two."""

    __slots__ = (
        "is_reserved",
        "loaded_tokens",
        "notes",
        "output_tokens",
        "pod",
        "predicted_tokens",
        "prefill_tokens",
        "prompt_tokens",
        "rank",
        "reservation",
        "slot",
    )

    def __init__(self, reservation: str, pod: str = "", rank: int = 0, slot: int = 0) -> None:
        self.reservation = reservation
        """Its id in the load book, never used twice."""
        self.pod = pod
        self.rank = rank
        self.slot = slot
        self.prefill_tokens = 0
        """That the worker is expected to compute."""
        self.prompt_tokens = 0
        """That its cache holds while it decodes; 0: it only prefills."""
        self.output_tokens = 0
        self.predicted_tokens: int | None = None
        """What the index alone said it would reuse, where that is worth comparing."""
        self.loaded_tokens: Sequence[int] | None = None
        """[3] of `predicted_tokens`, from cpu, disk and storage. None: not known."""
        self.is_reserved = False
        """The book has it; it may be full."""
        self.notes: Notes | None = None


class Flight:
    """One request. `record` has been shed where its receipt is no longer kept."""

    __slots__ = (
        "has_prefilled",
        "is_ended",
        "is_routed",
        "legs",
        "mentioned_s",
        "model",
        "prompt_tokens",
        "record",
        "request_id",
    )

    def __init__(
        self,
        request_id: str,
        model: str,
        prompt_tokens: int,
        legs: list[Leg],
        record: Record | None,
        now_s: float,
    ) -> None:
        self.request_id = request_id
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.legs = legs
        """The one that prefills first."""
        self.record = record
        """None: chosen elsewhere."""
        self.mentioned_s = now_s
        self.is_routed = True
        """It has been sent to its workers; before, it counts nowhere."""
        self.has_prefilled = False
        self.is_ended = False


class Flights:
    """Bounded; ids may be in flight twice. Its owner holds a lock around every call."""

    def __init__(self, flights_max: int, silence_s: float) -> None:
        self._flights_max = flights_max
        self._silence_s = silence_s
        self._by_id: dict[str, list[Flight]] = {}
        self._by_age: OrderedDict[Flight, None] = OrderedDict()
        """The one unmentioned longest first."""

    def __len__(self) -> int:
        return len(self._by_age)

    @property
    def is_full(self) -> bool:
        return len(self._by_age) >= self._flights_max

    def add(self, flight: Flight) -> None:
        """Of an id that waits to be routed, the newest choice counts."""
        same = self._by_id.get(flight.request_id)
        if same is None:
            self._by_id[flight.request_id] = [flight]
        else:
            for other in same:
                if not other.is_routed:
                    self.end(other)
                    break
            self._by_id.setdefault(flight.request_id, []).append(flight)
        self._by_age[flight] = None

    def find(self, request_id: str, suits: Callable[[Flight], bool] | None = None) -> Flight | None:
        """The oldest of this id that suits."""
        for flight in self._by_id.get(request_id, ()):
            if suits is None or suits(flight):
                return flight
        return None

    def end(self, flight: Flight) -> None:
        """It is in flight no longer. Twice is a mistake."""
        assert not flight.is_ended
        flight.is_ended = True
        del self._by_age[flight]
        same = self._by_id[flight.request_id]
        same.remove(flight)
        if not same:
            del self._by_id[flight.request_id]

    def mention(self, flight: Flight, now_s: float) -> None:
        """Somebody has said something of it."""
        flight.mentioned_s = now_s
        self._by_age.move_to_end(flight)

    def silent(self, now_s: float) -> list[Flight]:
        """Ends those that nobody has mentioned for too long; costs what is due."""
        silent = []
        while self._by_age:
            flight = next(iter(self._by_age))
            if flight.mentioned_s + self._silence_s > now_s:
                break
            self.end(flight)
            silent.append(flight)
        return silent
