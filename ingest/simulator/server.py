"""A model server without a model: its prefix cache is real, and so are the events that it publishes.

    with SimulatedServer("pod0", "some/model", blocks=256) as server:
        server.listen()                        # or carry the payloads of step() yourself
        cached = server.serve(prompt, 32)      # -> tokens of the prompt that were reused
        server.held()                          # what an index of its events must agree with

One engine step is `prefill`, `decode` and `finish` of any requests, in any order, then `step`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from kvatlas.index.errors import ConfigError
from kvatlas.index.keys import Feature
from kvatlas.ingest.simulator.cache_groups import CacheGroup
from kvatlas.ingest.simulator.engine import SimulatedEngine
from kvatlas.ingest.simulator.event_encoder import dialect_named, encode_batch
from kvatlas.ingest.simulator.offload_chunks import SharedStorage
from kvatlas.ingest.simulator.options import EngineOptions
from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from kvatlas.ingest.simulator.request import PromptIds


class SimulatedServer(SimulatedEngine):
    """One data-parallel rank of one pod: an engine whose steps are published.

    The keyword arguments up to `hashes_as_bytes` are `EngineOptions`; `storage` is shared by the
    servers that are given the same one. `dialect` is one of `event_encoder.DIALECTS`. `publish`
    gets each step's payload; `listen` puts a ZeroMQ publisher there. Not safe to call from several
    threads at once.
    Raises ConfigError on options that do not fit together.
    """

    def __init__(
        self,
        pod: str,
        model: str,
        *,
        block_size: int = 16,
        blocks: int = 1024,
        window_tokens: int | None = None,
        groups: Sequence[CacheGroup] = (),
        retention_tokens: int | None = None,
        drops_matched_block: bool = False,
        cpu_blocks: int = 0,
        chunk_blocks: int = 1,
        self_describing: bool = True,
        block_hash_seed: str = "",
        hashes_as_bytes: bool = False,
        storage: SharedStorage | None = None,
        dialect: str = "0.32",
        data_parallel_rank: int | None = None,
        publish: Callable[[bytes], object] | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        if "@" in pod:
            raise ConfigError(f"pod: expected a name without '@', got {pod!r}")
        spelling = dialect_named(dialect)
        if spelling.per_page and (window_tokens is not None or groups):
            raise ConfigError("window_tokens: expected None with SGLang's dialect, which has no groups")
        options = EngineOptions(
            block_size=block_size,
            blocks=blocks,
            window_tokens=window_tokens,
            groups=tuple(groups),
            retention_tokens=retention_tokens,
            drops_matched_block=drops_matched_block,
            cpu_blocks=cpu_blocks,
            chunk_blocks=chunk_blocks,
            self_describing=self_describing,
            block_hash_seed=block_hash_seed,
            hashes_as_bytes=hashes_as_bytes,
        )
        super().__init__(options, storage)
        self.pod = pod
        self.model = model
        self._dialect = dialect
        self._topic_in_replay = spelling.topic_in_replay
        # vLLM's publisher always writes a rank, SGLang's does not.
        unranked = None if spelling.per_page else 0
        self._rank = unranked if data_parallel_rank is None else data_parallel_rank
        self._publish = publish
        self._publisher: SimulatedPublisher | None = None
        self._clock_s = clock_s

    @property
    def topic(self) -> str:
        """`kv@<pod>@<model>`."""
        return f"kv@{self.pod}@{self.model}"

    def step(self) -> bytes | None:
        """Ends the engine step and publishes its events; returns the payload, None without events."""
        events = self.end_step()
        if not events:
            return None
        payload = encode_batch(
            events,
            timestamp_s=self._clock_s(),
            data_parallel_rank=self._rank,
            dialect=self._dialect,
        )
        if self._publish is not None:
            self._publish(payload)
        return payload

    def serve(
        self,
        token_ids: PromptIds,
        output: int | Sequence[int] = 0,
        *,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Sequence[Feature] = (),
    ) -> int:
        """A whole request with its steps; returns how many tokens of the prompt were reused."""
        request = self.prefill(token_ids, lora=lora, cache_salt=cache_salt, features=features)
        self.step()
        try:
            self.decode(request, output)
        finally:
            self.finish(request)
        self.step()
        while self.has_pending_work:
            self.step()
        return request.cached_tokens

    def restart(self, *, reopen: bool = True) -> None:
        """The process dies and comes back: nothing is held, and sequence numbers start anew.

        `reopen=False` keeps the publisher's sockets, so that nobody sees a disconnect.
        """
        super().restart()
        if self._publisher is not None:
            self._publisher.restart(reopen=reopen)

    def listen(
        self,
        *,
        endpoint: str = "tcp://127.0.0.1:*",
        replay_endpoint: str | None = "tcp://127.0.0.1:*",
        buffer_steps: int = 10_000,
    ) -> SimulatedPublisher:
        """Publishes every step from now on; the publisher is closed with the server."""
        return self.attach(
            SimulatedPublisher(
                self.topic,
                endpoint=endpoint,
                replay_endpoint=replay_endpoint,
                buffer_steps=buffer_steps,
                data_parallel_rank=self._rank or 0,
                topic_in_replay=self._topic_in_replay,
            )
        )

    def attach(self, publisher: SimulatedPublisher) -> SimulatedPublisher:
        """Publishes through this publisher and owns it; an earlier one is closed."""
        self.close()
        self._publisher = publisher
        self._publish = publisher.publish
        return publisher

    def close(self) -> None:
        """Closes the publisher; twice is fine."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
            self._publish = None

    def __enter__(self) -> SimulatedServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
