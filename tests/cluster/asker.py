"""Somebody who asks a cluster all the time, beside whatever happens to it."""

from __future__ import annotations

import threading
import time

from kvatlas.cluster.client import Client
from kvatlas.index.errors import KvatlasError
from kvatlas.index.scores import Scores
from tests.cluster.living_fleet import Fleet


class Asker:
    """Asks all the time, beside whatever happens, and holds each answer against the servers.

    The fleet only grows meanwhile: no answer may say more than is true after it, and none that says it is
    whole may say less than was true when the asker began, of workers that are EXACT.
    """

    def __init__(self, client: Client, fleet: Fleet) -> None:
        self._client = client
        self._fleet = fleet
        self._prompts = fleet.sample(20)
        self._least = [fleet.truth(prompt) for prompt in self._prompts]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.wrong: list[str] = []
        self.answers = 0
        self.partial = 0
        self.pause_s_max = 0.0
        """The longest that one answer took."""

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.002):
            at = self.answers % len(self._prompts)
            began_s = time.monotonic()
            try:
                scores = self._client.score(self._prompts[at], model=self._fleet.model)
            except KvatlasError as error:
                self.wrong.append(f"no answer: {error}")
            else:
                self.pause_s_max = max(self.pause_s_max, time.monotonic() - began_s)
                self._check(scores, self._least[at], self._fleet.truth(self._prompts[at]))
            self.answers += 1

    def _check(self, scores: Scores, least: dict[str, int], most: dict[str, int]) -> None:
        self.partial += not scores.is_whole
        for match in scores.matches:
            pod, tokens = match.pod, match.cached_tokens
            is_complete = match.truth == "EXACT" and scores.is_whole
            if match.truth in ("EXACT", "PARTIAL") and tokens > most.get(pod, 0):
                self.wrong.append(f"{pod}: {match.truth}, said {tokens}, true {most.get(pod, 0)}")
            elif is_complete and tokens < least.get(pod, 0):
                self.wrong.append(f"{pod}: EXACT and whole, said {tokens}, true {least.get(pod, 0)}")
