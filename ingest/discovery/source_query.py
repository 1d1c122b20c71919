"""Asks a model server where its KV events come from: GET /kv_event_sources of vLLM 0.32 and later."""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from kvatlas.index.errors import InputError
from kvatlas.ingest.discovery.pods import SOURCES_MAX, DiscoveredPod, check_endpoint
from kvatlas.ingest.sockets.source_config import SourceConfig

_TCP = re.compile(r"tcp://(.+):(\d{1,5})")
_WILDCARDS = frozenset({"*", "0.0.0.0", "::", "[::]"})
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")
_READ_BYTES = 1 << 16
_OK = 200


class ToldSource(NamedTuple):
    """What a server says of one data-parallel rank."""

    rank: int
    endpoint: str
    replay_endpoint: str | None
    block_size_tokens: int | None


class _Told(msgspec.Struct, frozen=True):
    """The fields that count, of those that vLLM sends for a rank."""

    endpoint: str | None = None
    replay_endpoint: str | None = None
    enable_kv_cache_events: bool = True
    publisher: str | None = "zmq"
    block_size: int | None = None


def ask_sources(url: str, timeout_s: float, bytes_max: int) -> tuple[ToldSource, ...]:
    """What the server at http(s)://HOST:PORT[/PATH] says, with hosts that can be reached from here.

    Raises InputError when it does not answer in time, or says nothing that could be followed.
    """
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"url: expected http://HOST:PORT, got {url[:80]!r}")
    path = parts.path.rstrip("/") + "/kv_event_sources"
    try:
        body = _get(parts.scheme, host, parts.port, path, time.monotonic() + timeout_s, bytes_max)
        told = msgspec.json.decode(body, type=dict[int, _Told])
    except (OSError, ValueError, http.client.HTTPException) as error:
        detail = str(error) or type(error).__name__
        raise InputError(f"{url}: expected an answer at {path}, {detail[:200]}") from None
    ranks = {rank: said for rank, said in told.items() if said.enable_kv_cache_events}
    if not 0 < len(ranks) <= SOURCES_MAX:
        raise InputError(f"{url}: expected 1 to {SOURCES_MAX} ranks that publish events, got {len(ranks)}")
    return tuple(_source(rank, said, host) for rank, said in sorted(ranks.items()))


def told_pod(pod: DiscoveredPod, told: tuple[ToldSource, ...]) -> DiscoveredPod:
    """The pod with what its server says; what was known of it before goes first."""
    sources = tuple(
        SourceConfig(
            endpoint=one.endpoint,
            replay_endpoint=one.replay_endpoint,
            pod=pod.pod,
            overrides_topic=True,
            model=pod.model,
            rank=None if len(told) == 1 and one.rank == 0 else one.rank,
        )
        for one in told
    )
    sizes = {one.block_size_tokens for one in told}
    size = sizes.pop() if len(sizes) == 1 else None
    ranks = max((one.rank + 1 for one in told), default=1)
    serving = pod.serving
    if serving.ranks == 1 < ranks <= SOURCES_MAX:
        serving = msgspec.structs.replace(serving, ranks=ranks)
    size = pod.block_size_tokens or size
    return msgspec.structs.replace(pod, sources=sources, block_size_tokens=size, serving=serving)


def _source(rank: int, said: _Told, host: str) -> ToldSource:
    if said.publisher != "zmq" or said.endpoint is None:
        raise InputError(f"rank {rank}: expected a publisher over zmq, got {said.publisher!r}")
    if not 0 <= rank <= 65535:
        raise InputError(f"rank: expected 0 to 65535, got {rank}")
    if not _listens(said, host):
        raise InputError(
            f"rank {rank}: expected an endpoint where the server listens, got {said.endpoint[:80]!r}, "
            "which it dials: give the pod a source with bind"
        )
    endpoint = _reachable(said.endpoint, host)
    replay = None if said.replay_endpoint is None else _reachable(said.replay_endpoint, host)
    check_endpoint("endpoint", endpoint)
    if replay is not None:
        check_endpoint("replay_endpoint", replay)
    return ToldSource(rank, endpoint, replay, said.block_size or None)


def _listens(said: _Told, host: str) -> bool:
    """vLLM listens at wildcards and IPv6 shorthands, and dials all else; but where it was to choose a
    port (tcp://*:0) it tells its own address, as it does for the replay socket, which always listens."""
    endpoint = said.endpoint or ""
    if "*" in endpoint or "::" in endpoint or endpoint.startswith("ipc://"):
        return True
    found = _TCP.fullmatch(endpoint)
    if found is None:
        return False
    named = found[1]
    if named in _WILDCARDS:
        return True
    if named.startswith(_LOOPBACK):
        return False
    replay = _TCP.fullmatch(said.replay_endpoint or "")
    return named in (host, replay and replay[1]) or named.strip("[]") in _addresses(host)


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return set()


def _reachable(endpoint: str, host: str) -> str:
    found = _TCP.fullmatch(endpoint)
    if found is None or found[1] not in _WILDCARDS:
        return endpoint
    return f"tcp://[{host}]:{found[2]}" if ":" in host else f"tcp://{host}:{found[2]}"


class _Received:
    """What HTTPResponse needs of a socket: all bytes are here already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _get(scheme: str, host: str, port: int | None, path: str, end_s: float, bytes_max: int) -> bytes:
    """The body of a 200. Time and bytes are bounded as a whole, so that no trickle holds a thread."""
    port = port or (443 if scheme == "https" else 80)
    name = f"[{host}]" if ":" in host else host
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((host, port), timeout=_left_s(end_s)) as plain:
        if scheme == "https":
            stream: socket.socket = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        else:
            stream = plain
        with stream:
            stream.sendall(request.encode("ascii"))
            data = _read(stream, end_s, bytes_max)
    response = http.client.HTTPResponse(_Received(data))  # type: ignore[arg-type]
    response.begin()
    if response.status != _OK:
        raise ValueError(f"got status {response.status}")
    return response.read()


def _read(stream: socket.socket, end_s: float, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        stream.settimeout(_left_s(end_s))
        part = stream.recv(_READ_BYTES)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            raise ValueError(f"got more than {bytes_max} bytes")


def _left_s(end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s
