"""The OpenAI-compatible proxy: where it listens, whom it lets in, and its bounds."""

from __future__ import annotations

import msgspec

from kvatlas.cluster.config.actors_config import Resources
from kvatlas.cluster.config.ranges import (
    Count,
    Placement,
    Port,
    ProxyCount,
    RequestRoom,
    Room,
    Seconds,
    check_fields,
)


class ProxyLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients and pods may take of one proxy, in room and in time."""

    connections_max: Count = 4096
    """Of clients, at one time; more are told 503 and closed."""
    head_bytes_max: RequestRoom = 64 << 10
    """Of a request's line and headers (431)."""
    body_bytes_max: RequestRoom = 32 << 20
    """Of one request's body (413)."""
    bodies_bytes_max: Room = 512 << 20
    """Of all bodies that are held at one time (503)."""
    json_parts_max: Count = 1 << 18
    """Brackets and braces that a body may open, so that a small one cannot become much memory (413)."""
    head_s_max: Seconds = 10.0
    """From a request's first byte to the end of its headers (408)."""
    body_s_max: Seconds = 60.0
    """From there to the end of its body (408)."""
    idle_s_max: Seconds = 75.0
    """Between two requests of a client's connection."""
    reading_s_max: Seconds = 60.0
    """How long a client may take nothing of what waits for it."""
    connect_s_max: Seconds = 2.0
    """For a pod to accept a connection; then the next best is tried."""
    answer_s_max: Seconds = 600.0
    """For a pod to begin its answer, which for requests that do not stream is all of its work (504)."""
    silence_s_max: Seconds = 120.0
    """Between two parts of a pod's answer."""
    pod_idle_s_max: Seconds = 4.0
    """How long a connection to a pod is kept for the next request: less than the pod's own, 5 s in vLLM."""
    attempts_max: Count = 3
    """Pods that are tried for one request."""
    avoid_s: Seconds = 2.0
    """A pod that did not accept a connection is left out for so long, each time doubled, up to a minute."""

    def __post_init__(self) -> None:
        check_fields(self)


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One URL for a fleet: takes OpenAI's requests and passes each to the pod that was chosen for it."""

    count: ProxyCount = 0
    """Proxies that the cluster runs, each on a node of its own as long as there are some: all listen at
    the same port. 0: none."""
    host: str = "0.0.0.0"
    """Address that it listens at."""
    port: Port = 8100
    """Of every proxy."""
    tokens_file: str | None = None
    """File on the nodes of the proxies, a line for each caller: the tenant's name, a space, its bearer
    token. Read again when it changes. None: anybody may ask."""
    pod_token_file: str | None = None
    """File that holds the bearer token that pods want. None: without `tokens_file` the client's own
    goes on to them, else none does."""
    paths: tuple[str, ...] = ("/v1/embeddings", "/v1/responses", "/tokenize", "/detokenize")
    """POST paths besides completions and chat completions that go to the least loaded pod of the model.
    Others answer 404: a pod's own administration is not for its users."""
    produced_tokens: Count = 32
    """Tokens of a stream after which the load is told of them."""
    limits: ProxyLimits = ProxyLimits()
    nodes: tuple[str, ...] = ()
    """Ray ids of the nodes that proxies may be on. Empty: any."""
    placement: Placement = "spread"
    """`spread` over the nodes, or `pack` onto few (then of several, all but one find the port taken)."""
    resources: Resources = Resources()
    """Of each proxy."""

    def __post_init__(self) -> None:
        check_fields(self)
