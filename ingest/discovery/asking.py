"""Asks servers for their sources, so that pods known by a URL can be followed."""

from __future__ import annotations

import heapq
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from kvatlas.index.errors import InputError
from kvatlas.ingest.discovery.config import DiscoveryLimits
from kvatlas.ingest.discovery.pods import DiscoveredPod
from kvatlas.ingest.discovery.source_query import ToldSource, ask_sources, told_pod

_COMPLAINT_CHARACTERS = 300

Ask = Callable[[str, float, int], tuple[ToldSource, ...]]
"""Of a URL, within seconds and bytes; raises InputError."""
Answered = Callable[[int, DiscoveredPod], None]
"""Takes the number of a watch and its pod, with sources; called under the lock."""

_log = logging.getLogger(__name__)


class _Question:
    """A pod, what its server last said, and when it is asked next."""

    __slots__ = ("due_s", "failed", "pause_s", "pod", "told")

    def __init__(self, pod: DiscoveredPod, due_s: float) -> None:
        self.pod = pod
        self.told: tuple[ToldSource, ...] | None = None
        self.failed = ""
        self.due_s = due_s
        self.pause_s = 0.0


class Asker:
    """Pods with a URL wait here until their server has answered; the others pass.

    A server that has answered is asked again every `ask_every_s`, since it may have restarted elsewhere;
    when it does not answer then, what it said stays. Any thread; `lock` is whoever's it tells. It has
    `asks_at_once` threads of its own.
    """

    def __init__(
        self,
        limits: DiscoveryLimits,
        lock: threading.RLock,
        clock_s: Callable[[], float],
        answered: Answered,
        ask: Ask = ask_sources,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._limits = limits
        self._clock_s = clock_s
        self._answered = answered
        self._ask = ask
        self._changed = threading.Condition(lock)
        self._questions: dict[int, dict[str, _Question]] = {}  # by watch and pod
        self._due: list[tuple[float, int, str]] = []
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def replace(self, watch: int, pods: Iterable[DiscoveredPod]) -> list[DiscoveredPod]:
        """Of all pods of a watch, those whose sources are known."""
        ready, named = list[DiscoveredPod](), set[str]()
        with self._changed:
            for pod in pods:
                if pod.pod in named:
                    ready.append(pod)  # for the ledger to count; it keeps the first
                else:
                    named.add(pod.pod)
                    ready += self._pass(watch, pod)
            questions = self._questions.get(watch, {})
            for pod_id in questions.keys() - named:
                del questions[pod_id]
        return ready

    def change(self, watch: int, pods: Iterable[DiscoveredPod], left: Iterable[str]) -> list[DiscoveredPod]:
        """Of these new or different pods, those whose sources are known."""
        with self._changed:
            for pod_id in left:
                self._questions.get(watch, {}).pop(pod_id, None)
            return [known for pod in pods for known in self._pass(watch, pod)]

    def waiting(self) -> list[tuple[DiscoveredPod, str]]:
        """Pods whose servers have not answered yet, and why not, where that is known."""
        with self._changed:
            questions = [question for one in self._questions.values() for question in one.values()]
            return [(question.pod, question.failed) for question in questions if question.told is None]

    def step(self) -> bool:
        """Ask one server that is due; whether there was one."""
        with self._changed:
            taken = self._take()
        if taken is None:
            return False
        watch, question = taken
        try:
            told, failed = (
                self._ask(question.pod.url or "", self._limits.ask_s_max, self._limits.ask_bytes_max),
                "",
            )
        except InputError as error:
            told, failed = None, str(error)[:_COMPLAINT_CHARACTERS]
        with self._changed:
            if self._questions.get(watch, {}).get(question.pod.pod) is question:
                self._learn(watch, question, told, failed)
        return True

    def start(self) -> None:
        for number in range(self._limits.asks_at_once):
            thread = threading.Thread(target=self._run, name=f"kvatlas-ask-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Ask nobody any more; a question in flight ends by its own time. Twice is fine."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(2 * self._limits.ask_s_max)

    def _pass(self, watch: int, pod: DiscoveredPod) -> list[DiscoveredPod]:
        """The pod, if its sources are known; else its server is asked."""
        questions = self._questions.setdefault(watch, {})
        if pod.url is None or pod.sources:
            questions.pop(pod.pod, None)
            return [pod]
        question = questions.get(pod.pod)
        if question is None or question.pod.url != pod.url:
            if question is None and len(questions) >= self._limits.pods_max:
                self.counts["asks_refused"] += 1
                return []
            question = questions[pod.pod] = _Question(pod, self._clock_s())
            self._queue(watch, question)
        question.pod = pod
        return [] if question.told is None else [told_pod(pod, question.told)]

    def _take(self) -> tuple[int, _Question] | None:
        now_s = self._clock_s()
        while self._due and self._due[0][0] <= now_s:
            due_s, watch, pod_id = heapq.heappop(self._due)
            question = self._questions.get(watch, {}).get(pod_id)
            if question is not None and question.due_s == due_s:
                return watch, question
        return None

    def _learn(
        self, watch: int, question: _Question, told: tuple[ToldSource, ...] | None, failed: str
    ) -> None:
        limits, now_s = self._limits, self._clock_s()
        self.counts["asks_failed" if told is None else "asks_answered"] += 1
        if told is None:
            if not question.failed:
                _log.warning("discovery: pod %r: %s", question.pod.pod, failed)
            pause_s = max(limits.ask_retry_s_min, 2 * question.pause_s)
            question.pause_s = min(pause_s, limits.ask_retry_s_max)
            question.due_s = now_s + question.pause_s
        else:
            question.pause_s, question.due_s = 0.0, now_s + limits.ask_every_s
            question.told = told
            self._answered(watch, told_pod(question.pod, told))
        question.failed = failed
        self._queue(watch, question)

    def _queue(self, watch: int, question: _Question) -> None:
        heapq.heappush(self._due, (question.due_s, watch, question.pod.pod))
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not (self._due and self._due[0][0] <= self._clock_s()):
                    next_s = self._due[0][0] - self._clock_s() if self._due else None
                    self._changed.wait(next_s)
                if self._stopped:
                    return
            self.step()
