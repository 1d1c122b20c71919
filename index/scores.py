"""Scores: what a match is worth, by worker and by pod, and why it ends where it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index.shards import Matches

TIERS = ("gpu", "cpu", "disk", "storage", "unknown")
"""Best first; bit i of a tier mask is TIERS[i]."""

DEFAULT_TIER_WEIGHTS: Mapping[str, float] = {
    "gpu": 1.0,
    "cpu": 0.8,
    "disk": 0.5,
    "storage": 0.4,
    "unknown": 0.0,
}

Worker = tuple[str, int]
"""Pod and data-parallel rank."""


class Truth(Protocol):
    """What can be claimed of a worker's content in the index."""

    @property
    def state(self) -> str: ...


class Match(NamedTuple):
    """What one worker has of a prompt."""

    pod: str
    rank: int
    """Data-parallel rank: each has a cache of its own."""
    blocks: int
    """Leading blocks that count; what counts is the strategy's."""
    tier_blocks: dict[str, int]
    """The same by tier."""
    score: float
    cached_tokens: int
    """What the server is predicted to reuse."""
    truth: str
    """How far that can be relied on, such as "EXACT"; empty where nobody judges."""


class Scores(Mapping[str, float]):
    """Pods and their scores: the sum over the blocks that count of their tiers' weights.

    A pod with several data-parallel ranks has the score of its best one; a pod without a block is
    absent. Nothing is computed per worker until it is asked for.
    """

    def __init__(
        self,
        matches: Matches,
        names: Mapping[int, Worker],
        weights: npt.NDArray[np.float64],
        *,
        prompt_blocks: int,
        block_size_tokens: int,
        truths: Mapping[int, Truth] | None = None,
    ) -> None:
        """`names` and `truths` are by worker number; both are read when first needed."""
        self._matches = matches
        self._names = names
        self._truths = truths if truths is not None else {}
        self._weights = weights
        self._by_pod: dict[str, float] | None = None
        self.prompt_blocks = prompt_blocks
        """Full blocks of the prompt."""
        self.block_size_tokens = block_size_tokens
        """0 while the model's block size is not known: nothing can match then."""

    @property
    def slots_probed(self) -> int:
        """Table slots that the lookup read."""
        return self._matches.slots_probed

    @property
    def is_whole(self) -> bool:
        """False where a shard that the prompt touches is missing or still being filled: the scores are
        sound, but workers may hold more."""
        return self._matches.is_whole

    @property
    def matches(self) -> list[Match]:
        """One entry a worker, best score first."""
        worker_scores = self._matches.tier_blocks @ self._weights
        matches = []
        for i in np.argsort(-worker_scores, kind="stable").tolist():
            number = int(self._matches.workers[i])
            name = self._names.get(number)
            if name is not None:  # else it left meanwhile
                matches.append(self._match(i, number, name, float(worker_scores[i])))
        return matches

    def _match(self, row: int, number: int, name: Worker, score: float) -> Match:
        tiers = dict(zip(TIERS, self._matches.tier_blocks[row].tolist(), strict=True))
        blocks = int(self._matches.blocks[row])
        truth = self._truths.get(number)
        return Match(
            *name,
            blocks=blocks,
            tier_blocks={tier: n for tier, n in tiers.items() if n},
            score=score,
            cached_tokens=blocks * self.block_size_tokens - (row in self._matches.partial_rows),
            truth=truth.state if truth is not None else "",
        )

    def _pods(self) -> dict[str, float]:
        if self._by_pod is None:
            by_pod: dict[str, float] = {}
            worker_scores = (self._matches.tier_blocks @ self._weights).tolist()
            for number, score in zip(self._matches.workers.tolist(), worker_scores, strict=True):
                name = self._names.get(number)
                if name is not None and score >= by_pod.get(name[0], 0.0):
                    by_pod[name[0]] = score
            self._by_pod = by_pod
        return self._by_pod

    def __getitem__(self, pod: str) -> float:
        return self._pods()[pod]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pods())

    def __len__(self) -> int:
        return len(self._pods())

    def __reduce__(self) -> tuple[Any, ...]:
        """What matched, in one piece of msgpack: pickling arrays and dicts costs ten times as much."""
        matches, numbers = self._matches, self._matches.workers.tolist()
        truths = [self._truths.get(number) for number in numbers]
        sent = _Sent(
            workers=matches.workers.tobytes(),
            blocks=matches.blocks.tobytes(),
            tier_blocks=matches.tier_blocks.tobytes(),
            slots_probed=matches.slots_probed,
            partial_rows=matches.partial_rows,
            is_whole=matches.is_whole,
            names=[self._names.get(number) for number in numbers],
            states=[truth.state if truth is not None else None for truth in truths],
            weights=self._weights.tobytes(),
            prompt_blocks=self.prompt_blocks,
            block_size_tokens=self.block_size_tokens,
        )
        return _received, (msgspec.msgpack.encode(sent),)

    def __repr__(self) -> str:
        return f"Scores({self._pods()!r}, prompt_blocks={self.prompt_blocks})"


class KnownTruth(NamedTuple):
    """What was claimed of a worker when its score was sent."""

    state: str


class _Sent(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Scores on their way to another process."""

    workers: bytes
    """Arrays as their bytes, little-endian."""
    blocks: bytes
    tier_blocks: bytes
    slots_probed: int
    partial_rows: tuple[int, ...]
    is_whole: bool
    names: list[Worker | None]
    """[n] as `workers`; None: it left meanwhile."""
    states: list[str | None]
    """[n]"""
    weights: bytes
    prompt_blocks: int
    block_size_tokens: int


_sent_decoder = msgspec.msgpack.Decoder(_Sent)


def _received(data: bytes) -> Scores:
    sent = _sent_decoder.decode(data)
    workers, blocks, tiers = (
        np.frombuffer(array, np.uint32) for array in (sent.workers, sent.blocks, sent.tier_blocks)
    )
    matches = Matches(
        workers, blocks, tiers.reshape(-1, len(TIERS)), sent.slots_probed, sent.partial_rows, sent.is_whole
    )
    numbers = workers.tolist()
    names = zip(numbers, sent.names, strict=True)
    states = zip(numbers, sent.states, strict=True)
    return Scores(
        matches,
        {number: name for number, name in names if name is not None},
        np.frombuffer(sent.weights, np.float64),
        prompt_blocks=sent.prompt_blocks,
        block_size_tokens=sent.block_size_tokens,
        truths={number: KnownTruth(state) for number, state in states if state is not None},
    )


class WorkerExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why one worker matches as far as it does."""

    pod: str
    rank: int
    blocks: int
    """Leading blocks held."""
    tier_blocks: dict[str, int]
    """The same by each block's best tier."""
    score: float
    ends_at_block: int
    """The first block that does not count; equals `blocks`."""
    reason: str
    """Why the chain ends there."""
    stores: tuple[str, ...]
    """Stores whose copies count for this worker."""
    cached_tokens: int = 0
    """What the server is predicted to reuse."""
    truth: str = ""
    """How far that can be relied on, such as "EXACT"."""
    doubts: tuple[str, ...] = ()
    """Why not further, and what heals it."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What the index knows of a prompt, worker by worker, best score first."""

    model: str
    prompt_tokens: int
    prompt_blocks: int
    block_size_tokens: int
    workers: tuple[WorkerExplanation, ...]
    note: str
    """What holds for all of them, such as an unknown model; empty otherwise."""
