"""Opening an object store, whose store.json and config.json are those of a folder."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from kvatlas.index.errors import StoreError
from kvatlas.offload.backends.backend import Backend
from kvatlas.offload.backends.objects_backend import ObjectsBackend
from kvatlas.offload.backends.objects_capacity import ObjectsCapacity
from kvatlas.offload.backends.objects_chunk import ChunkForm
from kvatlas.offload.backends.objects_client import ObjectClient, ObjectError
from kvatlas.offload.layout.fingerprint import SpaceFields
from kvatlas.offload.layout.space import (
    CONFIG_FILE,
    STORE_FILE,
    check_config,
    new_identity,
    read_identity,
)
from kvatlas.offload.storing.settings import StorageSettings

_SMALL_BYTES_MAX = 16 << 20
_WRITER_BYTES = 16


def open_objects(
    settings: StorageSettings, fields: SpaceFields, memory: Any, *, part: str = "all"
) -> Backend:
    """The objects of a part of a space, for rows of `memory` [n_rows, row_bytes]. Waits for the network.

    Raises StoreError: with an OSError as its cause where the store does not answer, so that asking again may
    help; without, where it refuses, or is another. ConfigError: obstore is missing, an option is wrong.
    """
    client = ObjectClient(settings.root, settings.objects, settings.time_limit_s)
    try:
        _check_store(client, settings.name)
        space = fields.space_name()
        config = fields.encode()
        there = _written_once(client, f"{space}/{CONFIG_FILE}", config)
        check_config(f"{client.url}/{space}/{CONFIG_FILE}", there, fields)
    except ObjectError as error:
        message = f"{client.url}: {error}"
        raise StoreError(message) from None if error.is_refused else ConnectionError(str(error))
    folder = f"{space}/{part}"
    form = ChunkForm(
        fingerprint=fields.fingerprint(part),
        row_bytes=fields.row_bytes,
        blocks=fields.blocks_per_chunk,
        writer=secrets.token_bytes(_WRITER_BYTES),
    )
    capacity = ObjectsCapacity(client, folder, form.object_bytes, settings.limits())
    capacity.start()
    return ObjectsBackend(
        client,
        form,
        folder,
        memory,
        capacity=capacity,
        readers=settings.readers,
        writers=settings.writers,
        staging_bytes=settings.staging_bytes,
        queued_max=settings.queued_max,
        time_limit_s=settings.time_limit_s,
    )


def _check_store(client: ObjectClient, name: str) -> None:
    where = f"{client.url}/{STORE_FILE}"
    content = _written_once(client, STORE_FILE, msgspec.json.encode(new_identity(name)))
    read_identity(where, content, name)


def _written_once(client: ObjectClient, path: str, content: bytes) -> bytes:
    # What is there is read first: rights to read are enough then.
    for _ in range(2):
        there = client.read(path, _SMALL_BYTES_MAX)
        if there is not None:
            if there[1] > _SMALL_BYTES_MAX:
                expected = f"expected at most {_SMALL_BYTES_MAX} bytes"
                raise StoreError(f"{client.url}/{path}: {expected}, got {there[1]}")
            return bytes(there[0])
        if client.write_new(path, content):
            return content
    raise StoreError(f"{client.url}/{path}: removed as soon as it was written")
