"""What routers tell each other: how much of each worker's load is theirs. Source: docs/load_sharing.md.

    frame := magic "kvl1" | msgpack [router, number, whole, leaves, [row...]]
    row   := [pod, rank, prefill tokens, decode tokens, requests]

Sums, not changes: a frame that is lost makes others late by a moment, never wrong for long.
"""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import DecodeError

ROWS_MAX = 65_536
FRAME_BYTES_MAX = 16 << 20
_MAGIC = b"kvl1"
_COUNT_MAX = 1 << 32
_TOKENS_MAX = 10**12
"""As in the book: all peers' together are still whole numbers there."""
_RANKS_MAX = 4096
"""Each takes a place in the book."""


class LoadRow(msgspec.Struct, frozen=True, array_like=True):
    """One router's share of one worker's load."""

    pod: str
    rank: int
    prefill_tokens: float
    """Still to be prefilled."""
    decode_tokens: float
    """In the caches of requests that are being decoded."""
    requests: int


class LoadSums(msgspec.Struct, frozen=True, array_like=True):
    """What one router has reserved just now."""

    router: int
    """Number of this life of the process."""
    number: int
    """Of the message: rises by one with each."""
    whole: bool
    """What is not named is nothing; else it is as told before."""
    leaves: bool
    """The router ends: nothing is its any more."""
    rows: tuple[LoadRow, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LoadSums)


def encode_sums(sums: LoadSums) -> bytes:
    return _MAGIC + _encoder.encode(sums)


def decode_sums(frame: bytes) -> LoadSums:
    """Raises DecodeError for what is no such frame, or holds numbers that no load can be."""
    if frame[: len(_MAGIC)] != _MAGIC:
        raise DecodeError(f"loads: expected {_MAGIC!r}, got {frame[: len(_MAGIC)]!r}")
    try:
        sums = _decoder.decode(memoryview(frame)[len(_MAGIC) :])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"loads: expected the sums of a router, {error}") from error
    if not 0 < sums.router < 1 << 63 or len(sums.rows) > ROWS_MAX:
        raise DecodeError(f"loads: expected at most {ROWS_MAX} rows of a router, got {len(sums.rows)}")
    for row in sums.rows:
        is_amount = all(0 <= sum_ <= _TOKENS_MAX for sum_ in (row.prefill_tokens, row.decode_tokens))
        if not (is_amount and 0 <= row.requests < _COUNT_MAX and 0 <= row.rank < _RANKS_MAX):
            raise DecodeError(f"loads: expected sums of at least 0, got {row!r:.200}")
    return sums
