"""What a choice must know of a pod besides its cache: how requests reach it, and what it can take."""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["both", "prefill", "decode"]


class Serving(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pod serves. Nothing here changes how its events are followed."""

    url: str | None = None
    """http://HOST:PORT of its OpenAI API, where a proxy sends requests."""
    role: Role = "both"
    """What it does where prefill and decode are split."""
    adapters: tuple[str, ...] | None = None
    """LoRA adapters that it can serve. None: not known, then any."""
    ranks: int = 1
    """Data-parallel ranks, each a worker with a cache of its own."""
    kv_tokens_max: int | None = None
    """Tokens that the gpu cache of one worker holds. None: not known."""
    batch_tokens_max: int | None = None
    """Tokens that one worker computes in one step (`max_num_batched_tokens`). None: not known."""
    requests_max: int | None = None
    """Requests that one worker works on at a time; more wait in its queue. None: not known."""
    prefill_tokens_per_s: float | None = None
    """Of one worker, where it is known beforehand; measured rates take its place."""
    is_draining: bool = False
    """It gets no new requests."""


class ServingPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that requests can be sent to."""

    pod: str
    model: str
    serving: Serving = Serving()
    labels: dict[str, str] = {}
    """What filters look at: zone, rack, hardware."""
    node: str = ""
    """Where it runs: an IP address or Ray's node id; empty: not known."""
