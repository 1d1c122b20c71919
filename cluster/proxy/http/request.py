"""A request of a client: while it arrives, and whole; and the room that bodies take."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvatlas.cluster.proxy.http.head import Headers, header


@dataclass(slots=True)
class Request:
    """One request of a client, whole."""

    method: bytes
    target: bytes
    """Path and query, as they came."""
    headers: Headers
    body: bytes = b""
    is_kept_alive: bool = True
    is_chunked_fine: bool = True
    """Whether its client knows chunks: HTTP/1.1."""

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("latin-1")

    def header(self, name: bytes) -> bytes | None:
        return header(self.headers, name)


class BodyRoom:
    """Bytes of bodies that one proxy holds at one time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def take(self, size: int) -> bool:
        if self.held + size > self.most:
            return False
        self.held += size
        return True


@dataclass(slots=True)
class Arriving:
    target: bytes = b""
    headers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    """Not its parts: one of two bytes takes thirty times as much by itself."""
    has_head: bool = False
