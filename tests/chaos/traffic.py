"""Requests at the servers while everything else is disturbed, and what the servers held at each moment."""

from __future__ import annotations

import random
import threading
import time
from collections import deque

from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from kvatlas.ingest.simulator.server import SimulatedServer
from tests.cluster.living_fleet import Fleet

_WATCHED_MAX = 8
_PROMPTS_MAX = 200
_MOMENTS_MAX = 4096
_PAUSE_S = 0.05
_GROWS_EVERY = 6
_WATCH_EVERY = 10

Moments = deque[tuple[float, int]]
"""(since when, tokens held), in order."""


class Watched:
    """One prompt, and what each server has held of it since it was first looked at."""

    def __init__(self, prompt: list[int], servers: list[SimulatedServer]) -> None:
        self.prompt = prompt
        # What was held before is not known: a server may have held all of it until just now.
        at_s = time.monotonic()
        self.moments: dict[str, Moments] = {
            server.pod: deque([(at_s, len(prompt))], _MOMENTS_MAX) for server in servers
        }
        for server in servers:
            self.look(server)

    def look(self, server: SimulatedServer) -> None:
        """At what it holds now."""
        tokens = server.cached_tokens(self.prompt)
        moments = self.moments[server.pod]
        if moments[-1][1] != tokens:
            moments.append((time.monotonic(), tokens))

    def behind_s(self, pod: str, tokens: int) -> float:
        """For how long the server has held less than this; infinite: it never held so much."""
        ended_s = time.monotonic()
        behind_s = 0.0
        for since_s, held in reversed(self.moments[pod]):
            if held >= tokens:
                return behind_s
            behind_s = ended_s - since_s
        return float("inf")


class Traffic:
    """Serves two fleets in a thread of its own: one that only grows, a little; one that evicts, a lot."""

    def __init__(self, growing: Fleet, evicting: Fleet, seed: int) -> None:
        self.growing = growing
        self.evicting = evicting
        self.watched: deque[Watched] = deque(maxlen=_WATCHED_MAX)
        """Of the fleet that evicts. Held together with its lock."""
        self._random = random.Random(seed)
        self._going = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self.requests = 0
        self.failed: list[str] = []

    def start(self) -> None:
        self._going.set()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def go(self) -> None:
        self._going.set()

    def pause(self) -> None:
        """Returns when nothing is served any more; every server has served something a moment before,
        so that none has a last word that nobody has heard."""
        self._going.clear()
        for fleet in (self.growing, self.evicting):
            with fleet.lock:
                for server in fleet.servers:
                    publisher_of(server).mend()
                    publisher_of(server).lose(0)
                    self._serve_evicting(server) if fleet is self.evicting else self._serve_growing(server)

    def disturb(self, how: str) -> str:
        """Something happens to one server of those that evict; returns what."""
        server = self._random.choice(self.evicting.servers)
        publisher = publisher_of(server)
        with self.evicting.lock:
            if how == "restart":
                server.restart()
            elif how == "restart_unseen":
                server.restart(reopen=False)
            elif how == "cut":
                publisher.cut()
            elif how == "lose":
                publisher.lose(self._random.randrange(1, 20))
            else:
                assert how == "mend"
                publisher.mend()
            for watched in self.watched:
                watched.look(server)
        return f"{server.pod} {how}"

    def _run(self) -> None:
        while not self._stopping.wait(_PAUSE_S):
            if not self._going.wait(_PAUSE_S):
                continue
            try:
                self._step()
            except Exception as error:  # told by the test; a thread that ends would be quiet
                self.failed.append(repr(error))

    def _step(self) -> None:
        self.requests += 1
        if self.requests % _GROWS_EVERY == 0:
            with self.growing.lock:
                self._serve_growing(self._random.choice(self.growing.servers))
        with self.evicting.lock:
            if self._going.is_set():
                self._serve_evicting(self._random.choice(self.evicting.servers))

    def _serve_growing(self, server: SimulatedServer) -> None:
        self.growing.serve_at(server)

    def _serve_evicting(self, server: SimulatedServer) -> None:
        prompt = self.evicting.serve_at(server)
        del self.evicting.prompts[:-_PROMPTS_MAX]
        for watched in self.watched:
            watched.look(server)
        if self.requests % _WATCH_EVERY == 0:
            self.watched.append(Watched(prompt, self.evicting.servers))


def publisher_of(server: SimulatedServer) -> SimulatedPublisher:
    publisher = server._publisher
    assert publisher is not None
    return publisher
