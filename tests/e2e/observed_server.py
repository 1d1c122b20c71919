"""A running model server, an atlas fed by its live events, and the server's own log to compare them by."""

from __future__ import annotations

import functools
import itertools
import operator
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kvatlas import Atlas, AtlasConfig, block_keys
from kvatlas.index.scores import TIERS
from kvatlas.ingest.subscriber import Subscriber
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

    def describe(self) -> str:
        return (
            f"prompt of {len(self.prompt)} tokens: predicted {self.predicted_tokens}, "
            f"the server reused {self.answer.cached_tokens}"
        )


class ObservedServer:
    """Subscribes before the server is up, so that the atlas misses nothing. A context manager."""

    def __init__(self, server: VllmServer) -> None:
        self.server = server
        self.atlas = Atlas(AtlasConfig(hash_seed=_HASH_SEED))
        self.log = EventLog(server.replay_endpoint)
        self.subscriber = Subscriber(self.atlas, [server.events_endpoint])

    def __enter__(self) -> ObservedServer:
        self.subscriber.start()
        try:
            self.server.wait_until_healthy()
            assert self.subscriber.wait_until(lambda seen: seen.connections == 1, _APPLY_SECONDS_MAX)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.subscriber.stop()
        self.log.close()

    def complete(self, prompt: Sequence[int], *, cache_salt: str | None = None, **fields: Any) -> Turn:
        """Predicts, asks, and waits until the atlas has applied all that the request made happen."""
        predicted = self.predicted_tokens(prompt, cache_salt=cache_salt)
        if cache_salt is not None:
            fields["cache_salt"] = cache_salt
        answer = self.server.complete(prompt, **fields)
        self.settle()
        return Turn(tuple(prompt), predicted, answer)

    def reset(self) -> None:
        """Empties the server's GPU cache. Its event leaves with the next step, so a request follows."""
        self.server.reset_prefix_cache()
        self.server.complete([_FILLER])
        self.settle()

    def settle(self) -> None:
        """Returns when the atlas has applied every batch that the server has published."""
        self.log.catch_up()
        published = len(self.log.batches)
        assert self.subscriber.wait_until(lambda seen: seen.batches >= published, _APPLY_SECONDS_MAX)

    def settle_until(self, condition: Callable[[EventLog], bool]) -> None:
        """Settles again and again until the log fulfils `condition`: offloading goes on between steps."""
        deadline = time.monotonic() + _OFFLOAD_SECONDS_MAX
        while not condition(self.log):
            assert time.monotonic() < deadline, f"not so in {_OFFLOAD_SECONDS_MAX} s"
            self.settle()

    def predicted_tokens(self, prompt: Sequence[int], *, cache_salt: str | None = None) -> int:
        """Tokens that the server should take from its GPU cache: it always computes one at least."""
        blocks = self.matched_blocks(prompt, cache_salt=cache_salt)
        if blocks * BLOCK_SIZE_TOKENS == len(prompt) and blocks > 0:
            blocks -= 1
        return blocks * BLOCK_SIZE_TOKENS

    def matched_blocks(self, prompt: Sequence[int], *, cache_salt: str | None = None) -> int:
        """Leading blocks that the atlas finds, by the best of their copies, on the GPU."""
        scores = self.atlas.score(prompt, model=MODEL_NAME, cache_salt=cache_salt)
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
        statistics = self.atlas.statistics()
        if tier == "storage":
            return sum(statistics.stores.values())
        return sum(worker.blocks[tier] for worker in statistics.workers)

    def skips(self) -> Counter[str]:
        """What the atlas has not applied as it came, by reason."""
        return Counter(self.atlas.statistics().skips)

    def logged_blocks(self, prompt: Sequence[int], *, cache_salt: str | None = None) -> int:
        """Leading blocks held on the GPU by the server's own log."""
        return self.log.leading_blocks(prompt, BLOCK_SIZE_TOKENS, cache_salt=cache_salt)


def _tier_names(mask: int) -> set[str]:
    return {name for bit, name in enumerate(TIERS) if mask >> bit & 1}
