"""Asking a cluster about texts: what a client holds, and lets go of."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kvatlas.actors.orders import encode
from kvatlas.actors.reading.connection import Connection
from kvatlas.actors.tokenizer.cluster_tokenizing import ClusterTokenizing
from kvatlas.actors.tokenizer.settings import TokenizerSettings


@pytest.mark.parametrize("has_pool", [True, False])
def test_it_is_freed_with_its_last_holder_and_not_by_the_collector(has_pool: bool) -> None:
    """What the collector frees it frees in whatever thread it runs, which may be one that is waited for."""
    reader: Any = SimpleNamespace(
        tokenizer_settings=encode(TokenizerSettings(has_pool=has_pool)), tokenizers=()
    )
    connection = SimpleNamespace(calls=SimpleNamespace(cluster="c"), reader=lambda: reader)
    texts = ClusterTokenizing(cast(Connection, connection))
    texts.statistics()
    gc.disable()
    try:
        freed = weakref.ref(texts)
        del texts
        assert freed() is None
    finally:
        gc.enable()
