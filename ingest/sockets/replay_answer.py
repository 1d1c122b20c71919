"""The answer of a replay socket on its way from the thread that receives it to the one that applies it.

request   [b"", start: 8 bytes big-endian]
replies   [b"", topic, sequence, payload], or of older servers [b"", sequence, payload]
the end   [b"", b"", ff * 8, b""], or [b"", ff * 8, b""]
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from kvatlas.index.errors import InputError
from kvatlas.ingest.sockets.curve import CurveConfig

SEQUENCE_BYTES = 8
END_OF_REPLAY = b"\xff" * SEQUENCE_BYTES

_FRAMES = (3, 4)
_REPLY_BYTES = 250


class Reply(NamedTuple):
    """A batch of an answer."""

    topic: bytes | None
    """None where the server's answers have none."""
    seq: int
    payload: bytes

    @property
    def size_bytes(self) -> int:
        """What it costs while it waits, its objects included."""
        return _REPLY_BYTES + len(self.payload) + len(self.topic or b"")


def parse_reply(frames: list[bytes]) -> Reply | None:
    """A message of an answer; None: the end marker. Raises InputError when it is neither."""
    if len(frames) not in _FRAMES:
        raise InputError(f"replay: expected a reply of 3 or 4 frames, got {len(frames)}")
    if frames[0]:
        raise InputError(f"replay: expected a reply with an empty first frame, got {len(frames[0])} bytes")
    sequence = frames[-2]
    if len(sequence) != SEQUENCE_BYTES:
        raise InputError(f"replay: expected a sequence number of {SEQUENCE_BYTES} bytes, got {len(sequence)}")
    if sequence == END_OF_REPLAY:
        return None
    topic = frames[1] if len(frames) == _FRAMES[1] else None
    return Reply(topic, int.from_bytes(sequence, "big"), frames[-1])


class Answer:
    """A question and what has come of its answer.

    One thread puts, ends and fails it, another takes and drops it.
    """

    def __init__(self, endpoint: str, start: int, curve: CurveConfig | None) -> None:
        self.endpoint = endpoint
        self.start = start
        self.curve = curve
        self.put_bytes = 0
        """Written by the thread that puts."""
        self.taken_bytes = 0
        """Written by the thread that takes."""
        self.is_dropped = False
        """Nobody wants it any more. Written by the thread that takes."""
        self.is_complete = False
        """The end marker has come, behind all that was put."""
        self.why = ""
        """Why it has failed, behind all that was put; empty: it has not."""
        self.was_cut = self.was_bad = False
        self._replies: deque[Reply] = deque()

    def __len__(self) -> int:
        """Batches that wait."""
        return len(self._replies)

    @property
    def is_ended(self) -> bool:
        """Nothing more will be put."""
        return self.is_complete or bool(self.why)

    @property
    def is_done(self) -> bool:
        """It holds nothing any more, and never will."""
        return self.is_dropped or (self.is_ended and not self._replies)

    @property
    def waiting_bytes(self) -> int:
        return self.put_bytes - self.taken_bytes

    def put(self, reply: Reply) -> None:
        self._replies.append(reply)
        self.put_bytes += reply.size_bytes

    def take(self) -> Reply | None:
        if not self._replies:
            return None
        reply = self._replies.popleft()
        self.taken_bytes += reply.size_bytes
        return reply

    def fail(self, why: str) -> None:
        """The first reason counts."""
        self.why = self.why or why
