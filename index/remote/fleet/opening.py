"""Opens an index that processes share in a Redis or Valkey."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.index.prompts import Tokenizing
from kvatlas.index.remote.compact.remote_index import RemoteIndex
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.fleet.board import Board
from kvatlas.index.remote.fleet.common_keys import known_seed
from kvatlas.index.remote.fleet.now import Keyed
from kvatlas.index.remote.fleet.reading import RemoteReading
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from kvatlas.index.remote.fleet.settings import SharingSettings

_FIRST_S = 5.0


def open_index(
    url: str,
    *,
    hash_seed: str | None = None,
    tokenizers: Tokenizing | None = None,
    tier_weights: Mapping[str, float] | None = None,
    sharing: SharingSettings | None = None,
    clock_s: Callable[[], float] = time.monotonic,
    **settings: Any,
) -> RemoteAtlas:
    """A reader of an index that atlases with `IndexConfig(kind="remote")` write; close it.

    `url` and `settings`: of `RemoteSettings`. `hash_seed`: where the writers were given one. Raises
    ConfigError for settings, a missing redis-py, or another seed than the writers'; RemoteIndexError
    when the server cannot be asked, or nobody has written there yet.
    """
    try:
        remote = msgspec.convert({"url": url, **settings}, RemoteSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"index server: {error}") from None
    if remote.format != "kvatlas":
        raise ConfigError("format: expected kvatlas; what llm-d has written is read by LlmdReader, got llmd")
    connection = RemoteConnection(remote)
    try:
        return reader_of(
            connection,
            hash_seed,
            tokenizers=tokenizers,
            tier_weights=tier_weights,
            sharing=sharing,
            clock_s=clock_s,
        )
    except BaseException:
        connection.close()
        raise


def reader_of(
    connection: RemoteConnection,
    hash_seed: str | None,
    *,
    tokenizers: Tokenizing | None,
    tier_weights: Mapping[str, float] | None,
    sharing: SharingSettings | None,
    clock_s: Callable[[], float],
) -> RemoteAtlas:
    """As `open_index`, over a connection, which the reader closes."""
    settings = connection.settings
    board = Board(connection, settings.namespace)

    def agree() -> Keyed:
        return Keyed(*known_seed(board, hash_seed), tier_weights or {})

    keyed, index = agree(), RemoteIndex(connection, settings)
    reading = RemoteReading(
        board, index, keyed, sharing or SharingSettings(), clock_s, agree=agree, is_alone=True
    )
    reading.wait_first(_FIRST_S)
    return RemoteAtlas(reading, tokenizers=tokenizers, closes=connection.close)
