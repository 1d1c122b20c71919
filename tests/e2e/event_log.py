"""A model server's own account of its events, asked from its replay socket.

The tests hold the atlas to it: it is read over another socket than the atlas listens on, unpacked by
another decoder, and counts blocks by the server's hashes instead of block keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgpack
import zmq

_END_OF_REPLAY = b"\xff" * 8
_REPLY_MS_MAX = 10_000

_Prefix = tuple[Any, ...]
"""Cache salt or None, then all tokens up to the end of a block."""


class EventLog:
    """All batches that the server has published, and the copies of blocks that follow from them.

    copies: for each medium ("GPU", "CPU", "STORAGE"), how many times each block hash is stored. A report of
    blocks already held counts as a copy here, so a log with reports in it says too much.
    """

    def __init__(self, endpoint: str) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.copies: dict[str, Counter[int]] = {}
        self._hashes: dict[_Prefix, int] = {}
        self._prefixes: dict[int, _Prefix] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.connect(endpoint)

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def catch_up(self) -> None:
        """Reads on until the server has nothing left to publish.

        One empty answer does not say so: the batch of a request just answered may still wait in the
        server's queue. Its publisher looks into that queue between two answers, and publishes what it
        finds, so two empty answers in a row do.
        """
        empty_answers = 0
        while empty_answers < 2:
            empty_answers = 0 if self._read_on() else empty_answers + 1

    def held(self, medium: str) -> set[int]:
        return set(self.copies.get(medium, ()))

    def leading_blocks(
        self, prompt: Sequence[int], block_size: int, *, cache_salt: str | None = None, medium: str = "GPU"
    ) -> int:
        """How many blocks from the start of the prompt are held."""
        held = self.held(medium)
        ends = range(block_size, len(prompt) + 1, block_size)
        for blocks, end in enumerate(ends):
            if self._hashes.get((cache_salt, *prompt[:end])) not in held:
                return blocks
        return len(ends)

    def copies_of(self, prompt: Sequence[int], medium: str = "GPU") -> int:
        """Copies of the block that ends where the prompt, without a cache salt, ends."""
        prefix = (None, *prompt)
        return self.copies[medium][self._hashes[prefix]]

    def count(self, event_type: str) -> int:
        """How many events of a type there were."""
        return sum(event["type"] == event_type for batch in self.batches for event in batch)

    def _read_on(self) -> bool:
        """Asks for the batches after the last known one; whether there were any."""
        known = len(self.batches)
        self._socket.send_multipart([b"", known.to_bytes(8, "big")])
        while True:
            if not self._socket.poll(_REPLY_MS_MAX):
                raise TimeoutError(f"no answer from the replay socket in {_REPLY_MS_MAX} ms")
            *_, sequence, payload = self._socket.recv_multipart()
            if sequence == _END_OF_REPLAY:
                return len(self.batches) > known
            assert int.from_bytes(sequence, "big") == len(self.batches), "replay is not contiguous"
            self._append(payload)

    def _append(self, payload: bytes) -> None:
        events = msgpack.unpackb(payload)[1]
        self.batches.append(events)
        for event in events:
            if event["type"] == "AllBlocksCleared":
                self.copies["GPU"] = Counter()
                continue
            copies = self.copies.setdefault(event["medium"], Counter())
            if event["type"] == "BlockStored":
                copies.update(event["block_hashes"])
                if event["medium"] == "GPU" and _is_dense(event):
                    self._learn(event)
            else:
                copies.subtract(event["block_hashes"])
            self.copies[event["medium"]] = +copies  # those that reached zero leave

    def _learn(self, stored: dict[str, Any]) -> None:
        """Notes which prompt each block hash stands for."""
        parent, size = stored["parent_block_hash"], stored["block_size"]
        salt = (stored["extra_keys"][0] or [None])[0]
        prefix = (salt,) if parent is None else self._prefixes[parent]
        for index, block_hash in enumerate(stored["block_hashes"]):
            prefix = (*prefix, *stored["token_ids"][index * size : (index + 1) * size])
            self._hashes[prefix] = block_hash
            self._prefixes[block_hash] = prefix


def _is_dense(stored: dict[str, Any]) -> bool:
    """Whether it names every block of its tokens: groups with a window leave some out, or all."""
    hashes: list[int] = stored["block_hashes"]
    return bool(hashes) and len(hashes) * stored["block_size"] == len(stored["token_ids"])
