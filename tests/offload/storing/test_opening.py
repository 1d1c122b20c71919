"""Opening a store of files: where its threads run, and which failures are tried again."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import cpus_of_node
from kvatlas.offload.layout.space import open_space
from kvatlas.offload.storing.opening import _engine, open_storage
from kvatlas.offload.storing.settings import StorageSettings
from kvatlas.offload.storing.storage import Storage
from tests.offload.storing.files_at_hand import N_ROWS, ROW_BYTES, fields_of, wait_for


def await_pinned(storage: Storage, expected: bool) -> None:
    wait_for(lambda: storage.statistics().backend["is_pinned"] == expected)


def test_the_threads_stay_near_the_devices_unless_the_settings_say_where(tmp_path: Path) -> None:
    mine = os.sched_getaffinity(0) & set(cpus_of_node(0))
    memory = np.zeros((N_ROWS, ROW_BYTES), np.uint8)
    for said, expected in ((None, bool(mine)), (-1, False)):
        settings = StorageSettings(root=str(tmp_path), numa_node=said)
        storage = open_storage(settings, fields_of(), memory, numa_node=0)
        await_pinned(storage, expected)
        storage.close()


def test_an_engine_that_gets_no_descriptors_is_tried_again(tmp_path: Path) -> None:
    space = open_space(tmp_path, fields_of(), store="store")
    settings = StorageSettings(root=str(tmp_path), numa_node=-1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory = np.zeros((N_ROWS, ROW_BYTES), np.uint8)
    taken = os.open(tmp_path, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
    try:
        with pytest.raises(StoreError) as raised:
            _engine(settings, space, memory, bytes(16))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken)
    assert isinstance(raised.value.__cause__, OSError)  # what LateBackend tries again
