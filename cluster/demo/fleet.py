"""A fleet of simulated model servers in a process of its own, as real servers would be.

here                                      the fleet's process
Fleet.serve(pod, prompt, answer) --pipe-> SimulatedServer.serve -> events --ZeroMQ PUB-->
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from kvatlas.cluster.demo.traffic import TokenIds
from kvatlas.index.errors import KvatlasError
from kvatlas.ingest.simulator.server import SimulatedServer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    PipeEnd = Connection[Any, Any]

_STOP_S_MAX = 5.0


class FleetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many model servers, and what each of them can hold."""

    pods: int = 8
    model: str = "demo/chat-model"
    block_size_tokens: int = 16
    blocks_per_pod: int = 2048


class Served(msgspec.Struct, frozen=True):
    """What a server did with one request."""

    cached_tokens: int
    """Of the prompt: reused from its prefix cache, the truth that a prediction is held against."""
    batches: int
    """Published by this pod since its start."""


class PodUsage(msgspec.Struct, frozen=True):
    """What a pod's prefix cache went through."""

    held_blocks: int
    evictions: int


class FleetError(KvatlasError):
    """The fleet's process did not start, or ended."""


class Fleet:
    """`config.pods` servers that publish on the loopback address; used as a context manager.

    One thread at a time. Raises FleetError when the process is lost.
    """

    def __init__(self, config: FleetConfig) -> None:
        self.config = config
        self.pods = tuple(f"pod-{number}" for number in range(config.pods))
        self.endpoints: tuple[str, ...] = ()
        """Where each pod publishes, once started."""
        self.replay_endpoints: tuple[str, ...] = ()
        """Where it can be asked for its last batches."""
        spawning = multiprocessing.get_context("spawn")  # a fork would copy ZeroMQ's threads badly
        self._pipe, self._far_end = spawning.Pipe()
        self._process = spawning.Process(
            target=_run_servers, args=(self._far_end, config, self.pods), daemon=True
        )

    def __enter__(self) -> Fleet:
        self._process.start()
        self._far_end.close()
        endpoints = self._ask("endpoints")
        assert isinstance(endpoints, tuple)
        self.endpoints, self.replay_endpoints = zip(*endpoints, strict=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pipe.close()  # the far end sees this and returns
        self._process.join(_STOP_S_MAX)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    @property
    def process_id(self) -> int | None:
        """None before the start."""
        return self._process.pid

    def wait_for_subscribers(self) -> None:
        """Returns when every pod has a subscriber, so that none of its events come too early.

        Raises FleetError when a pod has none after ten seconds.
        """
        self._ask("wait_for_subscribers")

    def serve(self, pod: int, prompt: TokenIds, answer: TokenIds) -> Served:
        """One request on one pod; its events have been published when this returns."""
        served = self._ask("serve", pod, prompt, answer)
        assert isinstance(served, Served)
        return served

    def usage(self) -> list[PodUsage]:
        """[n_pods]"""
        usage = self._ask("usage")
        assert isinstance(usage, list)
        return usage

    def clear(self) -> list[int]:
        """Empties every cache, as a change of weights does; returns batches published so far [n_pods]."""
        published = self._ask("clear")
        assert isinstance(published, list)
        return published

    def _ask(self, question: str, *arguments: object) -> object:
        try:
            self._pipe.send((question, arguments))
        except OSError as error:
            raise FleetError("model servers: their process has ended") from error
        return self._receive()

    def _receive(self) -> object:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise FleetError("model servers: their process has ended") from error
        if isinstance(answer, FleetError):
            raise answer
        return answer


class _Servers:
    """The fleet's process: its methods are the questions that may be asked."""

    def __init__(self, config: FleetConfig, pods: tuple[str, ...]) -> None:
        self._servers = [
            SimulatedServer(
                pod,
                config.model,
                block_size=config.block_size_tokens,
                blocks=config.blocks_per_pod,
            )
            for pod in pods
        ]
        self._publishers = [server.listen() for server in self._servers]

    def endpoints(self) -> tuple[tuple[str, str | None], ...]:
        return tuple((publisher.endpoint, publisher.replay_endpoint) for publisher in self._publishers)

    def wait_for_subscribers(self) -> None:
        for publisher in self._publishers:
            publisher.wait_for_subscribers()

    def serve(self, pod: int, prompt: TokenIds, answer: TokenIds) -> Served:
        cached_tokens = self._servers[pod].serve(prompt.tolist(), answer.tolist())
        return Served(cached_tokens, self._publishers[pod].statistics().published)

    def usage(self) -> list[PodUsage]:
        device = [server.statistics().device for server in self._servers]
        return [PodUsage(pool.held, pool.evictions) for pool in device]

    def clear(self) -> list[int]:
        for server in self._servers:
            server.reset()
            server.step()
        return [publisher.statistics().published for publisher in self._publishers]

    def close(self) -> None:
        for server in self._servers:
            server.close()


def _run_servers(pipe: PipeEnd, config: FleetConfig, pods: tuple[str, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the other side's to handle
    servers = _Servers(config, pods)
    # The other side closes the pipe when it is done, and when it dies.
    with contextlib.closing(servers), contextlib.suppress(EOFError, OSError):
        while True:
            question, arguments = pipe.recv()
            try:
                answer = getattr(servers, question)(*arguments)
            except (KvatlasError, TimeoutError) as error:
                answer = FleetError(f"model servers: {error}")
            pipe.send(answer)
