"""Requests that were given a replica and have not ended: where they are, and which never got there."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Given:
    """One choice: this request, this replica."""

    request_id: str
    pod: str
    rank: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int | None
    is_own: bool = True
    """Chosen in this process, not told by another LLMRouter."""
    given_s: float = 0.0
    has_arrived: bool = False
    is_over: bool = False
    was_given_up: bool = False
    """It had not arrived in time."""


@dataclass(slots=True)
class _Open:
    """All that goes by one request id: clients may use an id twice, batches begin several prompts."""

    given: deque[Given] = field(default_factory=deque)
    running: int = 0
    """Prompts that the engines have begun and not ended."""


class OpenRequests:
    """Keeps count by what is heard of each request. One thread at a time.

    Bounded by `requests_max`: of more, the oldest is forgotten (`forgotten`) and left to silence.
    """

    def __init__(self, requests_max: int, arrival_s_max: float, clock_s: Callable[[], float]) -> None:
        self.forgotten = 0
        self.by_pod: dict[str, int] = {}
        """Choices that have not ended."""
        self._requests_max = requests_max
        self._arrival_s_max = arrival_s_max
        self._clock_s = clock_s
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._n_given = 0
        self._awaited: deque[Given] = deque()
        self._reporting: set[str] = set()
        self._lost: OrderedDict[str, Given] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return self._n_given

    def has(self, request_id: str) -> bool:
        return request_id in self._open

    def has_ended(self, request_id: str) -> bool:
        """Whether it has ended lately: news of it from a peer come too late."""
        return request_id in self._ended

    def give(self, given: Given) -> None:
        """A request was given a replica."""
        given.given_s = self._clock_s()
        self._ended.pop(given.request_id, None)
        self._add(given)
        self._awaited.append(given)
        if len(self._awaited) > self._requests_max:
            self._awaited.popleft()
        if self._n_given > self._requests_max:
            self.forgotten += 1
            self._remove(next(iter(self._open.values())).given[0])

    def arrived(self, request_id: str, pod: str) -> Given | None:
        """An engine has begun with it: the choice that this makes true, None where it is nobody's.

        `Given.pod` may be another: HAProxy sends on what it cannot deliver. One that was given up is
        open again.
        """
        self._reporting.add(pod)
        lost = self._lost.pop(request_id, None)
        if lost is not None:
            lost.is_over = False
            self._add(lost)
        entry = self._open.get(request_id)
        if entry is None:
            return None
        entry.running += 1
        waiting = [given for given in entry.given if not given.has_arrived]
        found = next((given for given in waiting if given.pod == pod), waiting[0] if waiting else None)
        if found is not None:
            found.has_arrived = True
        return found

    def moved(self, given: Given, pod: str) -> None:
        """It has arrived at another replica than the one it was given."""
        self._count(given.pod, -1)
        given.pod = pod
        self._count(pod, 1)

    def ended(self, request_id: str) -> Given | None:
        """An engine has ended a prompt of it: the choice that ends with this, None while others run."""
        entry = self._open.get(request_id)
        if entry is None:
            self._lost.pop(request_id, None)
            self._remember(request_id)
            return None
        entry.running = max(0, entry.running - 1)
        if entry.running >= len(entry.given):
            return None  # the other prompts of a batch
        given = next((given for given in entry.given if given.has_arrived), entry.given[0])
        self._remove(given)
        if request_id not in self._open:
            self._remember(request_id)
        return given

    def gone(self, pod: str) -> list[Given]:
        """A replica is no more; what it was given ends with it."""
        self._reporting.discard(pod)
        ended = [given for entry in self._open.values() for given in entry.given if given.pod == pod]
        for given in ended:
            self._remove(given)
        self.by_pod.pop(pod, None)
        return ended

    def never_arrived(self) -> list[Given]:
        """Choices to give up: their time to arrive is over, at replicas that do tell of arrivals."""
        overdue: list[Given] = []
        limit_s = self._clock_s() - self._arrival_s_max
        while self._awaited and (self._awaited[0].given_s <= limit_s or self._is_done(self._awaited[0])):
            given = self._awaited.popleft()
            if not self._is_done(given) and given.pod in self._reporting:
                self._remove(given)
                given.was_given_up = True
                self._lost[given.request_id] = given
                overdue.append(given)
        while len(self._lost) > self._requests_max:
            self._lost.popitem(last=False)
        return overdue

    def _is_done(self, given: Given) -> bool:
        return given.has_arrived or given.is_over

    def _add(self, given: Given) -> None:
        self._open.setdefault(given.request_id, _Open()).given.append(given)
        self._n_given += 1
        self._count(given.pod, 1)

    def _remove(self, given: Given) -> None:
        entry = self._open[given.request_id]
        entry.given.remove(given)
        if not entry.given:
            del self._open[given.request_id]
        given.is_over = True
        self._n_given -= 1
        self._count(given.pod, -1)

    def _count(self, pod: str, change: int) -> None:
        self.by_pod[pod] = self.by_pod.get(pod, 0) + change

    def _remember(self, request_id: str) -> None:
        self._ended[request_id] = None
        if len(self._ended) > self._requests_max:
            self._ended.popitem(last=False)
