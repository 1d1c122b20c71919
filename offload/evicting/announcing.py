"""Telling indexes what lies in a store and what was evicted, on sockets of the service's own.

A socket speaks for one model: removals as they happen, and all that is there (an inventory) when the service
begins and after each `crawl_s`. What a killed service could not tell any more the next one's inventory does.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import chunk_name
from kvatlas.offload.capacity.control import read_small
from kvatlas.offload.events.store_events import StoreEvents, StoreEventsStatistics
from kvatlas.offload.evicting.crawler import Part, crawl, parts_of
from kvatlas.offload.evicting.settings import AnnouncedModel, StoreToEvict
from kvatlas.offload.layout.fingerprint import SpaceFields
from kvatlas.offload.layout.space import STORE_FILE, read_identity, read_space


class Announcing:
    """The announcers of one store, one for each model that is announced.

    `removed` is the deleter's thread's, `tell_all` another's. Raises StoreError, ConfigError, InputError.
    """

    def __init__(self, store: StoreToEvict) -> None:
        root = Path(store.root)
        identity = read_identity(root / STORE_FILE, read_small(root / STORE_FILE))
        self._crawl_s = store.limits.crawl_s
        self._models: dict[str, _ModelEvents] = {}
        self.progress_s = time.monotonic()
        self.unannounced = 0
        """Removed keys of models that nobody is told of here."""
        try:
            for one in store.announce:
                self._models[one.model] = _ModelEvents(root, identity.name, one)
        except Exception:
            self.close()
            raise

    @property
    def endpoints(self) -> dict[str, tuple[str, str | None]]:
        """By model: of events, and of replays."""
        return {name: (one.events.endpoint, one.events.replay_endpoint) for name, one in self._models.items()}

    def removed(self, space: str, keys: Sequence[bytes]) -> None:
        """These are gone from the space."""
        for one in self._models.values():
            if one.is_of(space):
                one.events.removed(keys)
                return
        self.unannounced += len(keys)

    def tell_all(self) -> float:
        """Names all files of all its models; returns when to do so again. Raises OSError."""
        for one in self._models.values():
            self.progress_s = time.monotonic()  # the pause before was no hanging
            one.events.inventory(self._getting_on(one.keys()))
        return max(self._crawl_s, 1.0)

    def statistics(self) -> dict[str, StoreEventsStatistics]:
        """By model."""
        return {name: one.events.statistics() for name, one in self._models.items()}

    def close(self) -> None:
        for one in self._models.values():
            one.events.close()

    def _getting_on(self, batches: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
        for batch in batches:
            self.progress_s = time.monotonic()
            yield batch


class _ModelEvents:
    """One model's spaces and its socket."""

    def __init__(self, root: Path, store: str, announced: AnnouncedModel) -> None:
        self._root = root
        self._model = announced.model
        self._fields: dict[str, SpaceFields] = {}
        blocks = {fields.blocks_per_chunk for _, fields in self._spaces()}
        if len(blocks) > 1:
            raise StoreError(
                f"{root}: expected files of one number of blocks for {self._model!r}, got {sorted(blocks)}"
            )
        self.events = StoreEvents(
            announced.endpoint,
            announced.replay_endpoint,
            store=store,
            model=announced.served_name or announced.model,
            announcer=f"evict-{socket.gethostname()}",
            chunk_blocks=max(blocks, default=announced.blocks_per_chunk),
            is_there=self._is_there,
        )

    def is_of(self, space: str) -> bool:
        """Whether it is one of this model's, as far as its config.json can be read."""
        if space not in self._fields:
            try:
                self._fields[space] = read_space(self._root / space)
            except StoreError:
                return False
        return self._fields[space].model == self._model

    def keys(self) -> Iterator[list[bytes]]:
        """Of files that every part of their space has: others cannot be loaded."""
        for space, _ in self._spaces():
            parts = [part for part in parts_of(self._root) if part.space == space]
            for listing in crawl(self._root, parts=parts[:1]):
                yield [key for key in listing.keys if _is_in_all(parts[1:], key)]

    def _spaces(self) -> list[tuple[str, SpaceFields]]:
        spaces = sorted({part.space for part in parts_of(self._root)})
        return [(space, self._fields[space]) for space in spaces if self.is_of(space)]

    def _is_there(self, key: bytes) -> bool:
        """Called on the socket's own thread."""
        for space in list(self._fields):
            if self.is_of(space):
                parts = [part for part in parts_of(self._root) if part.space == space]
                if parts and _is_in_all(parts, key):
                    return True
        return False


def _is_in_all(parts: Sequence[Part], key: bytes) -> bool:
    name = chunk_name(key)
    return all(os.path.lexists(f"{part.path}/{name}") for part in parts)
