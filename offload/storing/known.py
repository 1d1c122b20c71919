"""What is known of a store's content: which keys are there, which are not, and what is yet to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kvatlas.offload._native import Catalogue, Lookups
from kvatlas.offload.backends.backend import PackedKeys, packed
from kvatlas.offload.storing.announcements import Announcements
from kvatlas.offload.storing.figures import Figures
from kvatlas.offload.storing.inventory import Inventory
from kvatlas.offload.storing.settings import StorageSettings

PRESENT, ABSENT, ASKED = Catalogue.PRESENT, Catalogue.ABSENT, Catalogue.ASKED

_FIGURES = ("entries_max", "present", "absent", "asked", "waiting", "evicted", "expired", "refused")


class Known:
    """Keys of a store by what was last heard of them, bounded; one thread. Nothing here asks the store."""

    def __init__(
        self,
        settings: StorageSettings,
        key_bytes: int,
        figures: Figures,
        inventory: Callable[[], Iterator[Sequence[bytes]]],
    ) -> None:
        self._key_bytes, self._figures = key_bytes, figures
        self._lengths = frozenset((key_bytes,))
        self._catalogue = Catalogue(settings.catalogue_entries, key_bytes, settings.absent_s)
        self.lookups = Lookups(self._catalogue)
        self.announcements = Announcements(settings.announcements_max, is_on=settings.events != "none")
        self._inventory = Inventory(inventory, settings.name) if settings.inventory else None
        self._inventory_keys_max = settings.inventory_keys_per_step

    def present_of(self, keys: Sequence[bytes], now_s: float) -> list[bytes]:
        """Those that are there, as far as is known; asks for nothing."""
        return self._catalogue.present_of(keys, now_s)

    def are_own(self, keys: Sequence[bytes]) -> bool:
        """Whether they can all be keys of this store at all."""
        return self._lengths.issuperset(map(len, keys))

    def take_asked(self, most: int) -> PackedKeys:
        """What lookups have asked for since the last call, each key once."""
        return PackedKeys(self._catalogue.take_asked(most), self._key_bytes)

    def stored(self, keys: Sequence[bytes], now_s: float) -> None:
        """These were written, or were found where they were to be written."""
        self._set(keys, PRESENT, now_s)
        self.announcements.add(keys, is_removal=False)

    def answered(self, keys: Sequence[bytes], outcomes: bytes, now_s: float) -> None:
        """A probe's: what it found is there, and whoever wrote it has told; the rest is not to be had."""
        self._catalogue.answer(packed(keys), outcomes, now_s)

    def unavailable(self, keys: Sequence[bytes], now_s: float) -> None:
        """These are not to be had for a while."""
        self._set(keys, ABSENT, now_s)

    def gone(self, keys: Sequence[bytes], now_s: float, *, is_told: bool = False) -> None:
        """The store has these no longer: evicted by whomever, or they were not what they should be."""
        keys = self._own(keys)
        self._set(keys, ABSENT, now_s)
        if not is_told:
            self.announcements.add(keys, is_removal=True)
        if keys and self._inventory is not None:
            self._inventory.forget(keys)

    def take_inventory(self, now_s: float) -> None:
        """Takes in a little of what was there at start."""
        if self._inventory is not None and not self._inventory.is_over:
            found = self._own(self._inventory.take(self._inventory_keys_max))
            self._figures.inventory += len(found)
            self.stored(found, now_s)

    @property
    def is_busy(self) -> bool:
        """Whether there is something to tell, or soon will be."""
        return bool(self.announcements) or (self._inventory is not None and self._inventory.is_moving)

    def close(self) -> None:
        if self._inventory is not None:
            self._inventory.close(0.5)

    def statistics(self) -> dict[str, float]:
        """The catalogue's: how many keys it knows, and what its bound has cost."""
        figures = self._catalogue.statistics()
        return {name: getattr(figures, name) for name in _FIGURES}

    def _own(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Names that others have put into a store can be those of keys of any length."""
        own = [key for key in keys if len(key) == self._key_bytes]
        self._figures.foreign_keys += len(keys) - len(own)
        return own

    def _set(self, keys: Sequence[bytes], state: int, now_s: float) -> None:
        if keys:
            self._catalogue.set(packed(keys), state, now_s)
