"""Numbers of lanes and workers: counted, or leased from whoever gives them to many."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from kvatlas.index.errors import InputError

_LANES_MAX = 65535
_WORKERS_MAX = 1 << 20
"""Of leases: more are no lease that anybody gives."""


class Numbers(Protocol):
    """Who gives a fleet its numbers. A number is nobody else's until it is given back."""

    def lane(self) -> int:
        """Raises InputError when none is left."""
        ...

    def give_back_lane(self, lane: int) -> None: ...
    def worker(self) -> int:
        """Raises InputError when none is left."""
        ...

    def give_back_worker(self, number: int) -> None: ...


class CountedNumbers:
    """From 0 on, of an atlas by itself. Lanes are used again at once, workers' numbers never: results
    that are read later still mean the worker of then. One thread at a time."""

    def __init__(self) -> None:
        self._next_lane = 0
        self._free_lanes: list[int] = []
        self._next_worker = 0

    def lane(self) -> int:
        if self._free_lanes:
            return self._free_lanes.pop()
        if self._next_lane == _LANES_MAX:
            raise InputError(f"lanes: expected at most {_LANES_MAX} in use, got one beyond")
        self._next_lane += 1
        return self._next_lane - 1

    def give_back_lane(self, lane: int) -> None:
        self._free_lanes.append(lane)

    def worker(self) -> int:
        self._next_worker += 1
        return self._next_worker - 1

    def give_back_worker(self, number: int) -> None: ...


class LeasedNumbers:
    """From leases, which only grow. Any thread may call.

    What is given back rests `rest_s` before it is used again: readers that have not heard of it yet
    must not take one worker's blocks for another's.
    """

    def __init__(self, *, rest_s: float = 60.0, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._lanes = _Pool("lanes", _LANES_MAX, rest_s, clock_s)
        self._workers = _Pool("workers", _WORKERS_MAX, rest_s, clock_s)

    def lease(self, lanes: Collection[tuple[int, int]], workers: Collection[tuple[int, int]]) -> bool:
        """Takes all leases held, as (first, count); whether there is a new one among them.

        Raises InputError, and takes none, for numbers out of range.
        """
        with self._lock:
            new_lanes, new_workers = self._lanes.new_of(lanes), self._workers.new_of(workers)
            self._lanes.add(lanes, new_lanes)
            self._workers.add(workers, new_workers)
            return bool(new_lanes or new_workers)

    @property
    def lanes_free(self) -> int:
        """To be had now."""
        with self._lock:
            return self._lanes.count_free()

    @property
    def workers_free(self) -> int:
        with self._lock:
            return self._workers.count_free()

    def lane(self) -> int:
        with self._lock:
            return self._lanes.take()

    def give_back_lane(self, lane: int) -> None:
        with self._lock:
            self._lanes.give_back(lane)

    def worker(self) -> int:
        with self._lock:
            return self._workers.take()

    def give_back_worker(self, number: int) -> None:
        with self._lock:
            self._workers.give_back(number)


class _Pool:
    """Leased numbers of one kind."""

    def __init__(self, name: str, most: int, rest_s: float, clock_s: Callable[[], float]) -> None:
        self._name = name
        self._most = most
        self._rest_s = rest_s
        self._clock_s = clock_s
        self._leases: set[tuple[int, int]] = set()
        self._leased: set[int] = set()
        self._free: deque[int] = deque()
        self._resting: deque[tuple[float, int]] = deque()
        """Until when, in order."""

    def new_of(self, leases: Collection[tuple[int, int]]) -> list[int]:
        new: list[int] = []
        for first, count in set(leases) - self._leases:
            if first < 0 or count < 0 or first + count > self._most:
                raise InputError(
                    f"{self._name}: expected a lease within 0 to {self._most}, got {count} from {first}"
                )
            new += [number for number in range(first, first + count) if number not in self._leased]
        return sorted(set(new))

    def add(self, leases: Collection[tuple[int, int]], numbers: list[int]) -> None:
        self._leases.update(leases)
        self._leased.update(numbers)
        self._free.extend(numbers)

    def count_free(self) -> int:
        while self._resting and self._resting[0][0] <= self._clock_s():
            self._free.append(self._resting.popleft()[1])
        return len(self._free)

    def take(self) -> int:
        if self.count_free() == 0:
            raise InputError(
                f"{self._name}: expected one of {len(self._leased)} leased to be free, got none; "
                f"{len(self._resting)} rest"
            )
        return self._free.popleft()

    def give_back(self, number: int) -> None:
        assert number in self._leased
        self._resting.append((self._clock_s() + self._rest_s, number))
