"""A model server's publisher with its replay buffer, without sockets: what is said, not how it travels.

Also the smallest engine that can be wrong about something: a set of names.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Batch(NamedTuple):
    """One published batch, as it leaves the publisher."""

    incarnation: int
    """How often the engine had restarted; not on the wire."""
    seq: int
    payload: bytes


class PublisherModel:
    """Numbers from 0, anew after each restart; the last `buffer_steps` batches are kept for replay."""

    def __init__(self, buffer_steps: int) -> None:
        self.incarnation = 0
        self.next_seq = 0
        self._kept: deque[Batch] = deque(maxlen=buffer_steps)

    def publish(self, payload: bytes, *, for_good: bool = False) -> Batch:
        """The next batch; with `for_good` it takes its number and is lost, a permanent hole."""
        batch = Batch(self.incarnation, self.next_seq, payload)
        self.next_seq += 1
        if not for_good:
            self._kept.append(batch)
        return batch

    def restart(self) -> None:
        """The process dies and comes back."""
        self.incarnation += 1
        self.next_seq = 0
        self._kept.clear()

    def answer(self, start: int) -> list[Batch]:
        """What the replay socket says; nothing tells that the start was dropped already."""
        return [batch for batch in self._kept if batch.seq >= start]

    @property
    def answers_many(self) -> bool:
        """Whether a few hundred batches back can be asked for."""
        return (self._kept.maxlen or 0) > 256

    @property
    def keeps_all(self) -> bool:
        """Whether all that this incarnation has said can be replayed."""
        return len(self._kept) == self.next_seq


class ToyEngine:
    """Holds names; a batch says which it has stored and removed: `<time> <incarnation> +1 -2 ...`."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def step(self, ts: float, incarnation: int, names: list[int]) -> bytes:
        """Store those of the names that are not held, remove the others; returns the payload."""
        words = [repr(ts), str(incarnation)]
        for name in names:
            words.append(f"{'-' if name in self.held else '+'}{name}")
            self.held ^= {name}
        return " ".join(words).encode()

    def restart(self) -> None:
        self.held.clear()


def toy_time(payload: bytes) -> float:
    """When a toy engine made the batch."""
    return float(payload.split(b" ", 1)[0])


def apply_toy(held: set[int], payload: bytes) -> None:
    """What a batch of a toy engine makes of a copy of what it holds."""
    for word in payload.decode().split(" ")[2:]:
        if word[0] == "+":
            held.add(int(word[1:]))
        else:
            held.discard(int(word[1:]))
