"""Books of loads as routers have them, and frames that other routers might send."""

from __future__ import annotations

import numpy as np

from kvatlas.actors.loads.sums import LoadRow, LoadSums, encode_sums
from kvatlas.index._native import Candidates, LoadBook

PODS = ("a", "b", "c", "d")
Load = tuple[float, float, int]
"""Prefill tokens, decode tokens, requests."""


def frame(router: int, number: int, *rows: LoadRow, whole: bool = False, leaves: bool = False) -> bytes:
    return encode_sums(LoadSums(router, number, whole, leaves, rows))


def reserve(book: LoadBook, pod: str, request_id: str, prefill_tokens: int = 100, rank: int = 0) -> bool:
    return book.reserve(
        book.slot(pod, rank),
        request_id=request_id,
        prefill_tokens=prefill_tokens,
        prompt_tokens=prefill_tokens,
        output_tokens=10,
        now_s=1.0,
    )


def loads(book: LoadBook, pods: tuple[str, ...] = PODS) -> dict[str, Load]:
    """What rank 0 of each pod has to do, others' shares included."""
    n = len(pods)
    candidates = Candidates(
        numbers=np.arange(n, dtype=np.uint32),
        slots=np.array([book.slot(pod, 0) for pod in pods], np.uint32),
        discounts=np.ones(n, np.float32),
        limits=np.full(n, np.inf),
        requests_max=np.zeros(n, np.uint32),
        rates=np.zeros(n),
        offsets=np.zeros(n),
    )
    told = book.snapshot(candidates)
    columns = (told.prefill_tokens.tolist(), told.decode_tokens.tolist(), told.requests.tolist())
    return {
        pod: (prefill, decode, requests)
        for pod, prefill, decode, requests in zip(pods, *columns, strict=True)
        if (prefill, decode, requests) != (0, 0, 0)
    }
