"""An object backend over a real server, with a proxy between them: rows, keys, and the ends of jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from kvatlas.offload._native import chunk_name
from kvatlas.offload.backends.backend import Backend, Finished, Outcome
from kvatlas.offload.backends.objects import open_objects
from kvatlas.offload.storing.settings import StorageSettings
from tests.offload.backends.object_server import BUCKET, FaultyProxy, ObjectServer
from tests.offload.storing.files_at_hand import N_ROWS, ROW_BYTES, content_of, fields_of, key_of

PART = f"fleet/{fields_of().space_name()}/all"
"""Where the chunks lie in the bucket."""

_END_S = 60.0


def settings_of(port: int, **options: object) -> StorageSettings:
    said = {
        "root": f"s3://{BUCKET}/fleet",
        "name": "s1",
        "time_limit_s": 8.0,
        "objects": {"endpoint": f"http://127.0.0.1:{port}", "region": "us-east-1"},
        "readers": 4,
        "writers": 4,
        **options,
    }
    return msgspec.convert(said, StorageSettings)


class Rig:
    """One process's view of the store. Row n holds, or gets, chunk n."""

    def __init__(self, server: ObjectServer, **options: object) -> None:
        self.server = server
        self.proxy = FaultyProxy(server.port)
        self.settings = settings_of(self.proxy.port, **options)
        self.memory = bytearray(N_ROWS * ROW_BYTES)
        self.view = memoryview(self.memory)
        self.backend: Backend = open_objects(self.settings, fields_of(), self.view)
        self._job = 0
        self._ended: dict[int, Finished] = {}

    def close(self) -> None:
        self.backend.close(5.0)
        self.proxy.close()

    def row(self, number: int) -> memoryview:
        return self.view[number * ROW_BYTES : (number + 1) * ROW_BYTES]

    def fill(self, *numbers: int) -> None:
        for number in numbers:
            self.row(number)[:] = content_of(number).data

    def submit_store(self, *numbers: int) -> int:
        self.fill(*numbers)
        assert self.backend.may_store(len(numbers))
        self._job += 1
        assert self.backend.submit_store(self._job, keys(numbers), np.array(numbers, np.int32))
        return self._job

    def submit_load(self, *numbers: int) -> int:
        for number in numbers:
            self.row(number)[:] = bytes(ROW_BYTES)
        self._job += 1
        assert self.backend.submit_load(self._job, keys(numbers), np.array(numbers, np.int32))
        return self._job

    def store(self, *numbers: int) -> list[Outcome]:
        return outcomes(self.end(self.submit_store(*numbers)))

    def load(self, *numbers: int) -> list[Outcome]:
        ended = outcomes(self.end(self.submit_load(*numbers)))
        for number, outcome in zip(numbers, ended, strict=True):
            expected = content_of(number).tobytes() if outcome is Outcome.OK else bytes(ROW_BYTES)
            assert self.row(number) == expected
        return ended

    def probe(self, *numbers: int) -> list[Outcome]:
        self._job += 1
        assert self.backend.submit_probe(self._job, keys(numbers))
        return outcomes(self.end(self._job))

    def end(self, job: int) -> Finished:
        deadline_s = time.monotonic() + _END_S
        while time.monotonic() < deadline_s:
            self._ended.update((ended.job, ended) for ended in self.backend.finished())
            if job in self._ended:
                return self._ended.pop(job)
            time.sleep(0.001)
        raise AssertionError(f"job {job} has no end")

    def get(self, number: int) -> bytes:
        """The object, as the server has it."""
        return self.server.request("GET", path_of(number))

    def put(self, number: int, content: bytes) -> None:
        self.server.request("PUT", path_of(number), content)
        assert self.get(number) == content


def keys(numbers: Sequence[int]) -> list[bytes]:
    return [key_of(number) for number in numbers]


def outcomes(ended: Finished) -> list[Outcome]:
    return [Outcome(one) for one in ended.outcomes]


def path_of(number: int) -> str:
    return f"/{BUCKET}/{PART}/{chunk_name(key_of(number))}"
