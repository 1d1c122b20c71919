"""From settings to a storage: which backend a root means, and what if the store cannot be reached."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any

import msgspec

from kvatlas.index.errors import StoreError, quoted
from kvatlas.offload._native import Engine
from kvatlas.offload.backends.backend import Backend
from kvatlas.offload.backends.files import FilesBackend
from kvatlas.offload.backends.late import LateBackend
from kvatlas.offload.capacity.capacity import Capacity
from kvatlas.offload.events.store_events import StoreEvents
from kvatlas.offload.layout.fingerprint import SpaceFields
from kvatlas.offload.layout.space import Space, open_space
from kvatlas.offload.storing.announcer import Announcer
from kvatlas.offload.storing.settings import StorageSettings
from kvatlas.offload.storing.storage import Storage

_WRITER_BYTES = 16


def open_storage(
    settings: StorageSettings,
    fields: SpaceFields,
    memory: Any,
    *,
    tells_engine: bool = True,
    data_parallel_rank: int = 0,
    numa_node: int = -1,
) -> Storage:
    """The store of the settings, for rows of `memory` (a writable buffer [n_rows, fields.row_bytes]).

    `tells_engine`: the engine takes announcements for its own stream, where the settings want that.
    `numa_node`: that of the engine's devices, -1 where they have none; the settings may say another.
    Waits up to the time limit. Raises StoreError for a store that is not what was configured, and where it is
    required also for one that cannot be reached; else it is opened later, by a thread of its own. Raises
    ConfigError for endpoints of events that cannot be used.
    """
    name = settings.name or settings.root.rstrip("/").rpartition("/")[2]
    events = settings.events if tells_engine or settings.events != "engine" else "none"
    node = numa_node if settings.numa_node is None else settings.numa_node
    settings = msgspec.structs.replace(settings, name=name, events=events, numa_node=node)
    late = LateBackend(
        lambda: _open(settings, fields, memory), name, settings.breaker_s_min, settings.breaker_s_max
    )
    backend: Backend | None = late.wait(settings.time_limit_s)
    if backend is None:
        if settings.required or late.is_refused:
            late.close(0.0)
            raise StoreError(_refusal(settings, late.error)) from late.error
        backend = late
    try:
        announcer = _announcer(settings, fields, backend, data_parallel_rank)
    except BaseException:
        backend.close(0.0)
        raise
    return Storage(
        backend, settings, key_bytes=fields.key_bytes, row_bytes=fields.row_bytes, announcer=announcer
    )


def _announcer(
    settings: StorageSettings, fields: SpaceFields, backend: Backend, rank: int
) -> Announcer | None:
    if settings.events in ("engine", "none"):
        return None
    events = StoreEvents(
        _of_rank(settings.events, rank),
        _of_rank(settings.events_replay, rank) or None,
        store=settings.name,
        model=settings.events_model,
        announcer=f"{socket.gethostname()}-{os.getpid()}",
        chunk_blocks=fields.blocks_per_chunk,
        is_there=backend.is_there,
    )
    return Announcer(backend, events)


def _of_rank(endpoint: str, rank: int) -> str:
    """As vLLM has it: each data-parallel rank adds its number to the port."""
    address, _, port = endpoint.rpartition(":")
    return f"{address}:{int(port) + rank}" if port.isdecimal() else endpoint


def _refusal(settings: StorageSettings, error: Exception | None) -> str:
    if error is None:
        return (
            f"store {settings.name} at {settings.root}: expected an answer within {settings.time_limit_s} s, "
            "got none (required: false serves without it)"
        )
    return f"store {settings.name} at {settings.root}: {quoted(error)}"


def _open(settings: StorageSettings, fields: SpaceFields, memory: Any) -> Backend:
    scheme, found, _ = settings.root.partition("://")
    if not found:
        return _open_files(settings, fields, memory)
    if scheme == "file":
        return _open_files(msgspec.structs.replace(settings, root=settings.root[7:]), fields, memory)
    from kvatlas.offload.backends.objects import open_objects  # its client is an extra

    return open_objects(settings, fields, memory)


def _open_files(settings: StorageSettings, fields: SpaceFields, memory: Any) -> Backend:
    root, writer = Path(settings.root), secrets.token_bytes(_WRITER_BYTES)
    space = open_space(root, fields, store=settings.name)
    engine = _engine(settings, space, memory, writer)
    try:
        capacity = Capacity(root, settings.limits(), writer=writer, folder=space.part_folder)
    except BaseException:
        engine.close(0.0)
        raise
    return FilesBackend(engine, capacity, space, fields.row_bytes)


def _engine(settings: StorageSettings, space: Space, memory: Any, writer: bytes) -> Engine:
    assert settings.numa_node is not None
    try:
        return Engine(
            memory,
            space.fields.row_bytes,
            str(space.part_folder),
            space.fingerprint,
            writer=writer,
            key_bytes=space.fields.key_bytes,
            blocks=space.fields.blocks_per_chunk,
            readers=settings.readers,
            writers=settings.writers,
            reads_per_write=settings.reads_per_write,
            staging_bytes=settings.staging_bytes,
            queued_max=settings.queued_max,
            time_limit_s=settings.time_limit_s,
            direct=settings.direct,
            uring=settings.uring,
            sync=settings.sync,
            numa_node=settings.numa_node,
        )
    except StoreError as error:  # no memory, threads or descriptors now: this is not final (LateBackend)
        raise StoreError(str(error)) from OSError(str(error))
