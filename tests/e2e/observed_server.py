"""Running model servers, an atlas that listens to them, and their own logs to compare it by."""

from __future__ import annotations

import functools
import itertools
import operator
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kvatlas import Atlas, AtlasConfig, Tokenizers, block_keys
from kvatlas.index.scores import TIERS
from kvatlas.ingest.atlas_statistics import WorkerStatistics
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber
from tests.e2e.event_log import EventLog
from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, MODEL_NAME, Completion, VllmServer

_APPLY_SECONDS_MAX = 20.0
_OFFLOAD_SECONDS_MAX = 30.0
_HASH_SEED = "end to end"
_FILLER = 3  # any token id


@dataclass(frozen=True)
class Turn:
    """One request: what the atlas foretold and what the server answered."""

    prompt: tuple[int, ...]
    predicted_tokens: int
    answer: Completion
    state: str
    """Of the truth about the server when it was predicted."""

    def describe(self) -> str:
        return (
            f"prompt of {len(self.prompt)} tokens: predicted {self.predicted_tokens} ({self.state}), "
            f"the server reused {self.answer.cached_tokens}"
        )


class Observer:
    """An atlas that listens to some servers, from now on and to what they still know. A context manager."""

    def __init__(self, *servers: VllmServer, tokenizers: Tokenizers | None = None) -> None:
        self.atlas = Atlas(AtlasConfig(hash_seed=_HASH_SEED), tokenizers=tokenizers)
        self.subscriber = Subscriber(
            self.atlas,
            [
                SourceConfig(endpoint=one.events_endpoint, replay_endpoint=one.replay_endpoint)
                for one in servers
            ],
        )

    def __enter__(self) -> Observer:
        self.subscriber.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.subscriber.stop()

    def worker(self, pod: str) -> WorkerStatistics | None:
        """What it knows of a pod's only rank; None: nothing has been heard of it."""
        workers = self.atlas.statistics().workers
        return next((worker for worker in workers if worker.pod == pod), None)

    def states(self) -> dict[str, str]:
        """Of the truth about each pod that was heard of."""
        return {worker.pod: worker.truth.state for worker in self.atlas.statistics().workers}

    def residency(self) -> dict[tuple[str, int, int] | str, dict[int, int]]:
        """Tier bits by block key, by (pod, rank, group)."""
        return self.atlas.residency(MODEL_NAME)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        assert self.subscriber.wait_until(lambda _: condition(), _APPLY_SECONDS_MAX), (
            f"not so in {_APPLY_SECONDS_MAX} s: {self.atlas.statistics().workers}"
        )


class ObservedServer:
    """One server, seen by an observer and by its own log. A context manager."""

    def __init__(self, server: VllmServer, observer: Observer) -> None:
        self.server = server
        self.observer = observer
        self.atlas = observer.atlas
        self.log = EventLog(server.replay_endpoint)

    def __enter__(self) -> ObservedServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.log.close()

    @property
    def worker(self) -> WorkerStatistics:
        found = self.observer.worker(self.server.pod)
        assert found is not None, f"nothing has been heard of {self.server.pod}"
        return found

    @property
    def state(self) -> str:
        """Of the truth about the server; empty while nothing has been heard of it."""
        found = self.observer.worker(self.server.pod)
        return found.truth.state if found is not None else ""

    def restart(self) -> None:
        """The server crashes, and comes back on the same ports with nothing in its cache."""
        self.server.kill()
        self.log.close()
        self.server.start()
        self.log = EventLog(self.server.replay_endpoint)

    def complete(self, prompt: Sequence[int], *, cache_salt: str | None = None, **fields: Any) -> Turn:
        """Predicts, asks, and waits until the atlas has applied all that the request made happen."""
        state = self.state
        predicted = self.predicted_tokens(prompt, cache_salt=cache_salt)
        if cache_salt is not None:
            fields["cache_salt"] = cache_salt
        answer = self.server.complete(prompt, **fields)
        self.settle()
        return Turn(tuple(prompt), predicted, answer, state)

    def reset(self) -> None:
        """Empties the server's GPU cache. Its event leaves with the next step, so a request follows."""
        self.server.reset_prefix_cache()
        self.server.complete([_FILLER])
        self.settle()

    def settle(self) -> None:
        """Returns when the atlas has applied every batch that the server has published."""
        self.log.catch_up()
        last = len(self.log.batches) - 1
        if last >= 0:
            self.observer.wait_until(lambda: self._applied() >= last)

    def _applied(self) -> int:
        """Number of the last batch that the atlas has applied."""
        found = self.observer.worker(self.server.pod)
        return -1 if found is None or found.sequence is None else found.sequence

    def settle_until(self, condition: Callable[[EventLog], bool]) -> None:
        """Settles again and again until the log fulfils `condition`: offloading goes on between steps."""
        deadline = time.monotonic() + _OFFLOAD_SECONDS_MAX
        while not condition(self.log):
            assert time.monotonic() < deadline, f"not so in {_OFFLOAD_SECONDS_MAX} s"
            self.settle()

    def predicted_tokens(self, prompt: Sequence[int], *, cache_salt: str | None = None) -> int:
        """Tokens that the server should take from its caches."""
        scores = self.atlas.score(prompt, model=MODEL_NAME, cache_salt=cache_salt)
        return sum(match.cached_tokens for match in scores.matches if match.pod == self.server.pod)

    def matched_blocks(self, prompt: Sequence[int], *, cache_salt: str | None = None) -> int:
        """Leading blocks that the atlas finds, by the best of their copies, on the GPU."""
        scores = self.atlas.score(prompt, model=MODEL_NAME, cache_salt=cache_salt, strategy="longest_prefix")
        return sum(
            match.tier_blocks.get("gpu", 0) for match in scores.matches if match.pod == self.server.pod
        )

    def tiers(self, prompt: Sequence[int], *, cache_salt: str | None = None) -> list[set[str]]:
        """For each leading block that is held anywhere, all the tiers that hold it."""
        keys = block_keys(
            prompt,
            model=MODEL_NAME,
            block_size=BLOCK_SIZE_TOKENS,
            hash_seed=_HASH_SEED,
            cache_salt=cache_salt,
        )
        masks = [functools.reduce(operator.or_, held.values(), 0) for held in self.atlas.lookup(keys)]
        return [_tier_names(mask) for mask in itertools.takewhile(bool, masks)]

    def held_blocks(self, tier: str) -> int:
        """Blocks that the atlas holds in a tier, of all prompts."""
        if tier == "storage":
            return sum(self.atlas.statistics().stores.values())
        found = self.observer.worker(self.server.pod)
        return found.blocks[tier] if found is not None else 0

    def skips(self) -> Counter[str]:
        """What the atlas has not applied as it came, by reason."""
        return Counter(self.atlas.statistics().skips)

    def logged_blocks(self, prompt: Sequence[int], *, cache_salt: str | None = None) -> int:
        """Leading blocks held on the GPU by the server's own log."""
        return self.log.leading_blocks(prompt, BLOCK_SIZE_TOKENS, cache_salt=cache_salt)


def _tier_names(mask: int) -> set[str]:
    return {name for bit, name in enumerate(TIERS) if mask >> bit & 1}
