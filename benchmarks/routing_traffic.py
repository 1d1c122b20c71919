"""What is routed: chats of one's own making, and the public trace of a chat service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from kvatlas.cluster.demo.traffic import TrafficConfig, generate_turns
from kvatlas.ingest.simulator.timed_fleet import Arrival

TRACE_BLOCK_TOKENS = 512


class _Line(msgspec.Struct):
    """One request of the trace."""

    timestamp: int
    """ms"""
    input_length: int
    output_length: int
    hash_ids: list[int]
    """Of its blocks of 512 tokens; equal ids mean equal beginnings."""


class Traffic(NamedTuple):
    """Requests, and the blocks that they are cached in."""

    name: str
    arrivals: list[Arrival]
    block_size: int
    pod_tokens: int
    """That one pod's cache holds."""


def trace(seconds: float) -> Traffic | None:
    """The first so many seconds of the trace; None: it is not on this machine."""
    path = Path(os.environ.get("KVATLAS_SHARED", "")) / "traces" / "mooncake_conversation.jsonl"
    if "KVATLAS_SHARED" not in os.environ or not path.is_file():
        return None
    decoder = msgspec.json.Decoder(_Line)
    with path.open("rb") as file:
        lines = [line for line in map(decoder.decode, file) if line.timestamp < seconds * 1000]
    return Traffic("trace", [_arrival(line) for line in lines], TRACE_BLOCK_TOKENS, 500_000)


def _arrival(line: _Line) -> Arrival:
    """Token ids that are equal where the trace's blocks are."""
    starts = np.array(line.hash_ids, np.uint32) * TRACE_BLOCK_TOKENS
    ids = (starts[:, None] + np.arange(TRACE_BLOCK_TOKENS, dtype=np.uint32)).ravel()
    return Arrival(line.timestamp / 1000, ids[: line.input_length], line.output_length)


def chats(name: str, turns: int, open_chats: int, requests_per_s: float) -> Traffic:
    """So many chats at once that share a few system prompts; turns come at random, so often on average."""
    config = TrafficConfig(turns=turns, open_chats=open_chats, system_prompts=12, system_prompt_tokens=2048)
    return Traffic(name, list(_chat_arrivals(config, requests_per_s)), 16, 60_000)


def _chat_arrivals(config: TrafficConfig, requests_per_s: float) -> Iterator[Arrival]:
    gaps = np.random.default_rng(config.seed).exponential(1 / requests_per_s, config.turns)
    for at_s, turn in zip(np.cumsum(gaps).tolist(), generate_turns(config), strict=True):
        answer = turn.answer.tolist()
        yield Arrival(at_s, turn.prompt, len(answer), f"chat {turn.chat}", answer)
