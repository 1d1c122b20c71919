"""What answers must be, and somebody who asks all the time and holds them against it."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from live_cluster import LiveCluster
from workload import Held

from kvatlas.index.scores import Scores

_ASKS_EVERY_S = 0.001
"""Without a pause it would take a core of its own from those it watches."""


class Known(NamedTuple):
    """A sequence, and the blocks that each pod has of it."""

    held: Held
    blocks: Mapping[str, float]

    def is_wrong(self, scores: Scores) -> bool:
        """It claims what nobody holds, or says that it is whole and is not."""
        said = dict(scores)
        if any(blocks > self.blocks.get(pod, 0.0) for pod, blocks in said.items()):
            return True
        return scores.is_whole and said != self.blocks


def known(sequences: Sequence[Held], count: int, shared: int = 256) -> list[Known]:
    """So many of the sequences by chance. Those of a group share their first `shared` blocks."""
    holders: dict[int, set[int]] = defaultdict(set)
    for held in sequences:
        holders[int(held.keys[shared - 1])].add(held.worker)
    chosen = random.Random(3).sample(list(sequences), min(count, len(sequences)))
    return [Known(held, _blocks(held, holders[int(held.keys[shared - 1])], shared)) for held in chosen]


def _blocks(held: Held, holders: set[int], shared: int) -> dict[str, float]:
    blocks = {f"pod-{worker}": float(shared) for worker in holders}
    blocks[f"pod-{held.worker}"] = float(len(held.keys))
    return blocks


class Asker:
    """Asks some hundred times a second, from shared memory, and holds every answer against what is known."""

    def __init__(self, live: LiveCluster, truths: list[Known]) -> None:
        self._live = live
        self._truths = truths
        self.answers = self.wrong = self.partial = 0
        self.bad_s = 0.0
        """When the last answer came that was wrong or not whole."""
        self.good_s = 0.0
        """When the first answer came after it that was neither."""
        self.longest_pause_s = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        chance = random.Random(11)
        before_s = time.monotonic()
        while not self._over.wait(_ASKS_EVERY_S):
            truth = chance.choice(self._truths)
            scores = self._live.score(truth.held)
            now_s = time.monotonic()
            self.longest_pause_s = max(self.longest_pause_s, now_s - before_s)
            before_s = now_s
            self._judge(truth.is_wrong(scores), scores.is_whole, now_s)

    def _judge(self, is_wrong: bool, is_whole: bool, now_s: float) -> None:
        self.answers += 1
        self.wrong += is_wrong
        self.partial += not is_whole
        if is_wrong or not is_whole:
            self.bad_s = now_s
        elif self.good_s <= self.bad_s:
            self.good_s = now_s

    def stop(self) -> None:
        self._over.set()
