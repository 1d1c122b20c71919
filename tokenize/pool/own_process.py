"""The tokenizers of this process: one set for each configuration, shared by all who ask for it."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import msgspec

from kvatlas.tokenize.pool.bounded_work import BoundedWork, WorkLimits

if TYPE_CHECKING:
    from kvatlas.tokenize.config import TokenizeConfig
    from kvatlas.tokenize.tokenizers import Tokenizers


class OwnProcess:
    """Tokenizers, and threads for those who cannot wait for them. They end with the last who holds this."""

    def __init__(self, config: TokenizeConfig, limits: WorkLimits) -> None:
        from kvatlas.tokenize.tokenizers import Tokenizers

        self.tokenizers = Tokenizers(config)
        self.work = BoundedWork(limits, name="tokenize")
        weakref.finalize(self, _end, self.tokenizers, self.work)


def _end(tokenizers: Tokenizers, work: BoundedWork) -> None:
    work.close()
    tokenizers.close()


_shared: weakref.WeakValueDictionary[bytes, OwnProcess] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def own_process(config: TokenizeConfig, limits: WorkLimits) -> OwnProcess:
    """That of this configuration, made when first asked for.

    So clients of one process share what is loaded and remembered.
    """
    key = msgspec.msgpack.encode((config, limits), order="deterministic")
    with _lock:
        own = _shared.get(key)
        if own is None:
            own = _shared[key] = OwnProcess(config, limits)
        return own
