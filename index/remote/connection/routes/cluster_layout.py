"""Which node of a cluster serves which slot, as its nodes tell."""

from __future__ import annotations

from typing import Any

from kvatlas.index.remote.connection.commands import N_SLOTS
from kvatlas.index.remote.connection.failures import ServerError
from kvatlas.index.remote.connection.url import Address


class ClusterLayout:
    """An address a slot; immutable but for slots that a node says have moved."""

    def __init__(self, addresses: list[Address | None]) -> None:
        assert len(addresses) == N_SLOTS
        self._addresses = addresses

    @staticmethod
    def of(answer: Any, asked: Address) -> ClusterLayout:
        """From the answer to CLUSTER SLOTS; a node without a name is the one that was asked.

        Raises ServerError where it is none. Source: https://redis.io/docs/latest/commands/cluster-slots/
        """
        addresses: list[Address | None] = [None] * N_SLOTS
        try:
            for low, high, (host, port, *_), *_ in answer:
                name = (host or b"").decode()
                address = Address(asked.host if name in ("", "?") else name, int(port))
                if not 0 <= low <= high < N_SLOTS:
                    raise ValueError(f"slots {low} to {high}")
                addresses[low : high + 1] = [address] * (high + 1 - low)
        except (TypeError, ValueError, AttributeError) as error:
            words = f"{asked}: expected ranges of slots with their nodes, got {str(answer)[:100]!r} ({error})"
            raise ServerError(words, "garbled") from None
        return ClusterLayout(addresses)

    def address(self, slot: int) -> Address | None:
        return self._addresses[slot]

    def move(self, slot: int, address: Address) -> None:
        self._addresses[slot] = address

    def masters(self) -> list[Address]:
        """All that serve a slot, in the order of their first."""
        return list(dict.fromkeys(address for address in self._addresses if address is not None))


def redirection(words: str, asked: Address) -> tuple[int, Address] | None:
    """Slot and node of `MOVED 3999 host:port` or `ASK ...`; None where it is neither."""
    parts = words.split()
    if len(parts) != 3 or not parts[1].isdigit():
        return None
    host, colon, port = parts[2].rpartition(":")
    slot = int(parts[1])
    if not colon or not port.isdigit() or slot >= N_SLOTS:
        return None
    return slot, Address(asked.host if host in ("", "?") else host, int(port))
