"""Those who ask meanwhile: one who knows what the servers held when, and one in a process of its own."""

from __future__ import annotations

import pickle
import random
import threading
import time
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kvatlas.cluster.client import Client
from kvatlas.index.errors import KvatlasError
from tests.chaos.traffic import Traffic

_ASK_EVERY_S = 0.01
_READY_S = 30.0
_SOUND = ("EXACT", "PARTIAL")


class Witness:
    """Asks for prompts of the fleet that evicts, and finds how far answers are behind the servers.

    A worker that is EXACT or PARTIAL may be said to hold only what it holds, or held a moment ago.
    """

    def __init__(self, client: Client, traffic: Traffic) -> None:
        self._client = client
        self._traffic = traffic
        self._random = random.Random(1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self.wrong: list[str] = []
        self.answers = 0
        self.behind_s_max = 0.0
        """What the server had evicted longest before an answer still claimed it."""

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_ASK_EVERY_S):
            try:
                self._ask()
            except KvatlasError as error:
                self.wrong.append(f"no answer: {error}")

    def _ask(self) -> None:
        fleet = self._traffic.evicting
        with fleet.lock:
            if not self._traffic.watched:
                return
            watched = self._random.choice(self._traffic.watched)
        scores = self._client.score(watched.prompt, model=fleet.model)
        self.answers += 1
        with fleet.lock:
            for match in scores.matches:
                if match.truth in _SOUND and match.cached_tokens:
                    behind_s = watched.behind_s(match.pod, match.cached_tokens)
                    self.behind_s_max = max(self.behind_s_max, behind_s)
                    if behind_s == float("inf"):
                        self.wrong.append(f"{match.pod}: never held {match.cached_tokens} tokens")


class FarAnswers(NamedTuple):
    """What was answered in another process."""

    answers: int
    partial: int
    pause_s_max: float
    errors: list[str]
    most: list[dict[str, int]]
    """For each prompt: the most that was claimed of a worker."""


class _FarAsker:
    """Asks in an actor, for prompts that it is given."""

    def __init__(self, client: bytes) -> None:
        self._client: Client = pickle.loads(client)
        self._client.wait_ready(_READY_S)
        self._stopping = threading.Event()

    def ask(self, prompts: list[list[int]], model: str) -> FarAnswers:
        """Until `stop`."""
        self._stopping.clear()
        answers = partial = 0
        pause_s_max = 0.0
        errors: list[str] = []
        most: list[dict[str, int]] = [{} for _ in prompts]
        while not self._stopping.wait(_ASK_EVERY_S):
            at = answers % len(prompts)
            began_s = time.monotonic()
            try:
                scores = self._client.score(prompts[at], model=model)
            except KvatlasError as error:
                errors.append(str(error))
                continue
            pause_s_max = max(pause_s_max, time.monotonic() - began_s)
            answers += 1
            partial += not scores.is_whole
            for match in scores.matches:
                if match.truth in _SOUND:
                    most[at][match.pod] = max(most[at].get(match.pod, 0), match.cached_tokens)
        return FarAnswers(answers, partial, pause_s_max, errors, most)

    def stop(self) -> None:
        self._stopping.set()


def far_asker(client: Client) -> Any:
    """Ray's handle of one that is ready, on the node of this process."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(_FarAsker)
    options = {"max_concurrency": 2, "num_cpus": 0, "scheduling_strategy": here}
    asker = actor.options(**options).remote(pickle.dumps(client))
    ray.get(asker.stop.remote())
    return asker
