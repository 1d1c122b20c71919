"""Simulated servers whose events a real cluster follows, and what its answers must agree with."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import GetTimeoutError, RayError

from kvatlas.actors.orders import NAMESPACE
from kvatlas.cluster.client import Client
from kvatlas.index.errors import ClusterError
from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.simulator.server import SimulatedServer

MODEL = "test/model"
_LOOK_EVERY_S = 0.02


def wait_until(condition: Callable[[], bool], timeout_s: float, what: Callable[[], object] = str) -> float:
    """Seconds until it came true. Fails, saying `what()`, when it does not in time."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what()}")
        time.sleep(_LOOK_EVERY_S)
    return time.monotonic() - began_s


class Fleet:
    """Servers that listen on this machine, and prompts that share beginnings. Any thread may call it."""

    def __init__(
        self,
        n_servers: int,
        *,
        blocks: int = 1 << 14,
        seed: int = 1,
        prefix: str = "pod",
        model: str = MODEL,
    ) -> None:
        """`blocks`: each server's cache; with few of them it evicts."""
        self.model = model
        self.lock = threading.RLock()
        """Whoever touches a server holds it."""
        self._random = random.Random(seed)
        self.servers = [SimulatedServer(f"{prefix}{n}", model, blocks=blocks) for n in range(n_servers)]
        for server in self.servers:
            server.listen()
        self.prompts: list[list[int]] = []
        """All that were ever served."""

    @property
    def entries(self) -> tuple[PodEntry, ...]:
        return tuple(entry_of(server) for server in self.servers)

    @property
    def discovery(self) -> DiscoveryConfig:
        """Finds all of them."""
        return DiscoveryConfig(watches=(StaticWatchConfig(pods=self.entries),))

    def serve(self, n_requests: int = 1) -> None:
        """Requests, each begun like an earlier one or anew, at servers by chance."""
        for _ in range(n_requests):
            self.serve_at(self._random.choice(self.servers))

    def serve_at(self, server: SimulatedServer) -> list[int]:
        """One such request at this server; returns its prompt."""
        with self.lock:
            anew = not self.prompts or self._random.random() < 0.4
            begin = [] if anew else self._random.choice(self.prompts)[: self._random.randrange(16, 2048)]
            more = [self._random.randrange(50_000) for _ in range(self._random.randrange(64, 600))]
            prompt = begin + more
            self.prompts.append(prompt)
            server.serve(prompt, 8)
            return prompt

    def truth(self, prompt: list[int]) -> dict[str, int]:
        """Tokens that each server would reuse now; those that hold none are left out."""
        with self.lock:
            held = {server.pod: server.cached_tokens(prompt) for server in self.servers}
        return {pod: tokens for pod, tokens in held.items() if tokens}

    def sample(self, count: int = 40) -> list[list[int]]:
        """Of the prompts."""
        return self._random.sample(self.prompts, min(count, len(self.prompts)))

    def differences(self, client: Client, prompts: list[list[int]] | None = None) -> list[str]:
        """Where the answers are not whole, not exact, or not what the servers would reuse."""
        found = []
        for prompt in prompts or self.prompts:
            scores = client.score(prompt, model=self.model)
            said = {match.pod: match.cached_tokens for match in scores.matches if match.cached_tokens}
            doubts = {match.pod: match.truth for match in scores.matches if match.truth != "EXACT"}
            truth = self.truth(prompt)
            if not scores.is_whole or said != truth or doubts:
                whole = "whole" if scores.is_whole else "not whole"
                found.append(f"{whole}, said {said}, true {truth}, doubts {doubts}")
        return found

    def wait_agreed(self, client: Client, timeout_s: float = 60.0) -> float:
        """Seconds until every prompt's answer is what the servers would do."""
        sample = self.sample()
        wait_until(
            lambda: not self.differences(client, sample),
            timeout_s,
            lambda: (self.differences(client, sample)[:3], client.status()),
        )
        began_s = time.monotonic()
        wait_until(
            lambda: not self.differences(client),
            timeout_s,
            lambda: (self.differences(client)[:3], client.status()),
        )
        return time.monotonic() - began_s

    def close(self) -> None:
        for server in self.servers:
            server.close()


def entry_of(server: SimulatedServer) -> PodEntry:
    """For a server that listens."""
    publisher = server._publisher
    assert publisher is not None
    return PodEntry(
        pod=server.pod,
        endpoint=publisher.endpoint,
        replay_endpoint=publisher.replay_endpoint,
        model=server.model,
    )


def process_of(name: str) -> int:
    """The process id of an actor that answers; 0: none does just now."""
    try:
        actor = ray.get_actor(name, namespace=NAMESPACE)
        # Any class: the function runs in the actor's process.
        return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=1.0))
    except (ValueError, RayError, GetTimeoutError):
        return 0


def living_process_of(name: str, timeout_s: float = 60.0) -> int:
    """The same, waited for: for those who send it a signal, to whom 0 means their own process group."""
    found: list[int] = []

    def answers_now() -> bool:
        found.append(process_of(name))
        return found[-1] != 0

    wait_until(answers_now, timeout_s, lambda: name)
    return found[-1]


@contextmanager
def fleet_of(
    n_servers: int, *, blocks: int = 1 << 14, seed: int = 1, prefix: str = "pod", model: str = MODEL
) -> Iterator[Fleet]:
    fleet = Fleet(n_servers, blocks=blocks, seed=seed, prefix=prefix, model=model)
    try:
        yield fleet
    finally:
        fleet.close()


def answers(client: Client) -> bool:
    """Whether it answers at all."""
    try:
        client.score([1] * 64, model=MODEL)
    except ClusterError:
        return False
    return True
