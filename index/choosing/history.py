"""What workers were sent: it stands in for events that have not come yet, or never come.

Both remember block keys of prompts by worker, in a bounded radix tree (native/history.hpp).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from math import inf

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import History
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.keys import Feature, TokenIds, keyspace

Keys = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.uint32]
Tokens = npt.NDArray[np.float32]

_BLOCK_SIZE_TOKENS = 16
"""Of models whose block size nobody has told: history only needs to agree with itself."""


class Speculation:
    """Chosen workers are taken to hold the prompt for `speculative_s`; by then their events say so.

    So siblings of a burst that come before the first event find where their prefix is being computed.
    Any thread may call it.
    """

    def __init__(self, config: ChoosingConfig) -> None:
        self._history = History(config.speculative_blocks_max)
        self._lasts_s = config.speculative_s

    def note(self, slot: int, keys: Keys, now_s: float) -> int:
        """A request with these block keys [n_blocks] goes to the worker of this slot.

        Returns the note's number, for `failed`.
        """
        return self._history.note(slot, keys, now_s, now_s + self._lasts_s)

    def hints(self, keys: Keys, slots: Slots, now_s: float, block_size: int) -> Tokens | None:
        """Leading tokens that each worker [n] was sent of late: float32 [n]. None: nobody any."""
        return self._history.hints(keys, slots, now_s, block_size)

    def failed(self, slot: int, keys: Keys, note: int) -> None:
        """A request was not served: what only it was noted for will not come."""
        self._history.drop(slot, keys, note)

    def forget(self, slot: int) -> None:
        """The worker is gone, or empty."""
        self._history.forget(slot)

    def statistics(self) -> dict[str, int]:
        return self._history.statistics()


class RoutingHistory:
    """What workers without events were sent: they are taken to hold it until newer prompts push it out.

    An approximation: nobody knows what their engines have dropped. Any thread may call it.
    """

    def __init__(self, config: ChoosingConfig) -> None:
        self._history = History(config.history_blocks_max)
        self._seed = secrets.token_hex(16)

    def keys(
        self,
        model: str,
        token_ids: TokenIds,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
    ) -> Keys:
        """Block keys of a prompt whose model no events have told the block size of.

        Raises InputError for token ids that are none.
        """
        space = keyspace(model, _BLOCK_SIZE_TOKENS, "fold64", self._seed)
        return space.keys(token_ids, lora, cache_salt, features)

    @property
    def block_size_tokens(self) -> int:
        """Of `keys`."""
        return _BLOCK_SIZE_TOKENS

    def limit(self, slot: int, kv_tokens_max: int | None, block_size: int) -> None:
        """How much the worker's cache holds; None: not known, then the whole history."""
        if kv_tokens_max is not None:
            self._history.set_limit(slot, kv_tokens_max // max(block_size, 1))

    def note(self, slot: int, keys: Keys, now_s: float) -> int:
        """A request with these block keys [n_blocks] goes to the worker of this slot.

        Returns the note's number, for `failed`.
        """
        return self._history.note(slot, keys, now_s, inf)

    def hints(self, keys: Keys, slots: Slots, now_s: float, block_size: int) -> Tokens | None:
        """Leading tokens that each worker [n] was sent and may still hold. None: nobody any."""
        return self._history.hints(keys, slots, now_s, block_size)

    def failed(self, slot: int, keys: Keys, note: int) -> None:
        """A request was not served: what only it was noted for is not there."""
        self._history.drop(slot, keys, note)

    def forget(self, slot: int) -> None:
        """The worker is gone, or empty."""
        self._history.forget(slot)

    def statistics(self) -> dict[str, int]:
        return self._history.statistics()
