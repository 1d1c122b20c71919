"""A store that tells on a socket of its own: what a subscriber hears, also while the engine sleeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import BlockRemoved, BlockStored
from kvatlas.offload._native import chunk_name
from kvatlas.offload.events.store_events import StoreEvents
from kvatlas.offload.storing.announcer import Announcer
from kvatlas.offload.storing.known import ABSENT
from kvatlas.offload.storing.settings import StorageSettings
from kvatlas.offload.storing.storage import Storage
from tests.offload.storing import files_at_hand
from tests.offload.storing.scripted_backend import KEY_BYTES, ROW_BYTES, ScriptedBackend, key_of
from tests.ports import free_ports


class Listener:
    """A plain SUB socket; hashes by whether they were stored or removed."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self.topics: set[str] = set()
        self.stored: set[int] = set()
        self.removed: set[int] = set()

    def hear(self) -> None:
        while self._socket.poll(0):
            topic, _, payload = self._socket.recv_multipart()
            self.topics.add(topic.decode())
            for event in decode_batch(payload).events:
                if isinstance(event, BlockStored):
                    self.stored.update(event.block_hashes)
                elif isinstance(event, BlockRemoved):
                    self.removed.update(event.block_hashes)


@contextmanager
def listening(endpoint: str) -> Iterator[Listener]:
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(endpoint)
    try:
        yield Listener(socket)
    finally:
        socket.close(0)
        context.term()


def hash_of(key: bytes) -> int:
    return int.from_bytes(key[:-4][-8:], "big")


def test_stores_and_removals_of_a_real_store_are_heard(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    options: dict[str, Any] = {"events": f"tcp://*:{port}", "events_model": "acme/tiny", "name": "fleet"}
    opened = files_at_hand.open_process(tmp_path / "kv", **options)
    try:
        with listening(f"tcp://127.0.0.1:{port}") as listener:
            told: set[int] = set()

            def one_more_is_heard() -> bool:
                number = len(told)
                told.add(hash_of(files_at_hand.key_of(number)))
                opened.store(number)
                listener.hear()
                return bool(listener.stored)

            files_at_hand.wait_for(one_more_is_heard)  # a subscription takes a moment
            assert listener.stored <= told
            (topic,) = listener.topics
            assert topic.startswith("kv@store:fleet#") and topic.endswith("@acme/tiny")
            assert opened.storage.take_announcements() == []
            (path,) = (tmp_path / "kv").glob(f"*/all/{chunk_name(files_at_hand.key_of(0))}")
            path.unlink()
            opened.load(0)
            gone = {hash_of(files_at_hand.key_of(0))}

            def it_is_heard() -> bool:
                listener.hear()
                return listener.removed == gone

            files_at_hand.wait_for(it_is_heard)
    finally:
        opened.storage.close()


def test_what_is_evicted_while_the_engine_sleeps_is_heard_at_once() -> None:
    backend = ScriptedBackend()
    events = StoreEvents("tcp://127.0.0.1:*", None, store="fleet", model="acme/tiny", announcer="here")
    settings = StorageSettings(root="memory", inventory=False)
    storage = Storage(
        backend, settings, key_bytes=KEY_BYTES, row_bytes=ROW_BYTES, announcer=Announcer(backend, events)
    )
    try:
        with listening(events.endpoint) as listener:
            numbers = iter(range(1, 1_000_000))
            evicted: list[bytes] = []

            def one_more_is_heard() -> bool:
                evicted.append(key_of(next(numbers)))
                backend.removed.append(evicted[-1])
                listener.hear()
                return bool(listener.removed)

            files_at_hand.wait_for(one_more_is_heard)
            assert listener.removed <= {hash_of(key) for key in evicted}
            assert storage.statistics().counters["removed"] == 0, "the engine has made no step"
            storage.end_step()
            assert storage.statistics().counters["removed"] > 0
            assert storage.lookup(evicted[0]) == ABSENT
            assert storage.take_announcements() == [], "it was told already"
    finally:
        storage.close()
