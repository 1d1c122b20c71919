"""The write path of an atlas: whose batch it is, whether it fits, and its way into the mirror."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from kvatlas.index.errors import InputError
from kvatlas.ingest._native import Decoder
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.early_files import in_storage, names_a_group, tell_early
from kvatlas.ingest.feed import Feed, FeedNames
from kvatlas.ingest.fleet_state import FleetState
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.topic import is_text, parse_topic
from kvatlas.ingest.worker_state import WorkerState


class Intake:
    """What all feeds of an atlas write through. All but `counts` is used under `lock`."""

    def __init__(
        self,
        config: AtlasConfig,
        fleet: FleetState,
        clock_s: Callable[[], float],
        changed: threading.Event | None = None,
    ) -> None:
        """`changed` is set after every batch."""
        self.lock = threading.RLock()
        self.decoder = Decoder()
        self.counts: Counter[str] = Counter()
        self.clock_s = clock_s
        self.limits = config.stream
        self.fleet = fleet
        self._config = config
        self._changed = changed

    def name(self, topic: bytes, names: FeedNames) -> tuple[str, str]:
        """Pod and model of a topic: its own words, else its feed's names, else the configuration's.

        Of a feed whose names override, the other way round. Raises InputError where a name is missing, or
        is no text: others are told of it, and nobody could be told of its neighbours.
        """
        config = self._config
        topics = parse_topic(topic)
        told = (topics.pod, topics.model), (names.pod, names.model)
        first, second = told[::-1] if names.overrides else told
        pod = first[0] or second[0] or config.default_pod
        configured = self.fleet.pods.get(pod) if pod is not None else None
        model = first[1] or second[1] or (configured and configured.model) or config.default_model
        if pod is None or model is None:
            missing = "pod" if pod is None else "model"
            raise InputError(
                f"topic {topic!r}: expected kv@<pod>@<model>, or the {missing} in the configuration"
            )
        if not (is_text(pod) and is_text(model)):
            raise InputError(f"topic {topic!r}: expected names that are UTF-8")
        return pod, model

    def worker(self, feed: Feed, pod: str, model: str, rank: int) -> WorkerState:
        """The worker of these names; a new one belongs to this feed. Raises InputError without room."""
        fleet = self.fleet
        worker = fleet.find(model, pod, rank)
        if worker is None:
            worker = fleet.add(model, pod, rank, feed)
            feed.add(worker)
        return worker

    def receive(self, worker: WorkerState, seq: int, payload: bytes) -> None:
        """A live batch of the worker, which is in the decoder. Raises InputError as `apply`."""
        decoder = self.decoder
        ts = decoder.ts
        if ts is not None:
            worker.lag.note(ts, time.time())
        self.counts["batches"] += 1
        if worker.stream.receive(seq, decoder.checksum, ts, payload, self.clock_s()):
            try:
                self._apply(worker, ts, payload)
            except InputError as error:
                worker.stream.unread(str(error), self.clock_s())
                raise

    def apply(self, worker: WorkerState, payload: bytes) -> float | None:
        """Decode and apply a batch of the worker; returns its time.

        Raises DecodeError when it is no batch, InputError when there is no lane for what it names.
        """
        self.decoder.decode(payload)
        ts = self.decoder.ts
        self._apply(worker, ts, payload)
        return ts

    def _apply(self, worker: WorkerState, ts: float | None, payload: bytes) -> None:
        decoder = self.decoder
        worker.batches += 1
        worker.last_event_ts = ts
        if worker.learns_block_size:
            self.fleet.learn_block_size(worker, decoder.dense_block_size)
        mirror = worker.mirror
        if mirror is None:
            self._leave_out(worker, payload)
        elif worker.unseen_groups & decoder.group_mask or not mirror.apply(decoder):
            self.fleet.prepare(worker, decoder)
            mirror.apply(decoder, told=True)
        if not decoder.clean:
            self._count_unread(worker)
        worker.observe_changes()
        if self._changed is not None:
            self._changed.set()

    def _leave_out(self, worker: WorkerState, payload: bytes) -> None:
        """Nothing can be placed before the model's block size is known; files of a store can wait."""
        batch = decode_batch(payload)
        store = self.fleet.early_store(worker, any(map(in_storage, batch.events)))
        others = [event for event in batch.events if store is None or not in_storage(event)]
        if store is not None:
            self.counts.update(tell_early(store, batch, worker.config.offload_chunk_blocks))
        self.counts["no_block_size"] += len(others)
        if any(names_a_group(event) or in_storage(event) for event in others):
            worker.truth.doubt("missed", self.clock_s(), "what came before its block size was known")

    def _count_unread(self, worker: WorkerState) -> None:
        decoder, counts = self.decoder, self.counts
        counts["bad_event"] += decoder.bad_events
        counts["unknown_events"] += decoder.unknown_events
        counts["broken_payload"] += decoder.broken
        worker.stream.unread("bad, unknown or broken events in a batch", self.clock_s())
