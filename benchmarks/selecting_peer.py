"""The peer that chooses: Dynamo's SelectionService, in this process, fed by events over ZeroMQ as engines do.

Source of its calls: the stub file of dynamo._core.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import Sequence
from typing import Any

import zmq
from results import PEER
from workload import BLOCK_TOKENS, MODEL, Held, events, payload

_NAMES = {"model_name": MODEL, "tenant_id": "default"}
_HEARD_S = 60.0
_EVENT_BLOCKS = 512


class SelectingPeer:
    """A service whose workers hold what they have told. One event loop."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self._context = zmq.Context()

    async def hear(self, sequences: Sequence[Held], workers: int) -> None:
        """The workers announce their sequences; returns when the service knows all of them."""
        sockets = [self._context.socket(zmq.XPUB) for _ in range(workers)]
        for worker, socket in enumerate(sockets):
            socket.sndhwm = 0
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            await self._service.upsert_worker(
                {
                    **_NAMES,
                    "worker_id": worker,
                    "endpoint": f"tcp://pod-{worker}",
                    "block_size": BLOCK_TOKENS,
                    "max_num_batched_tokens": 8192,
                    "data_parallel_start_rank": 0,
                    "data_parallel_size": 1,
                    "kv_events_endpoints": {0: f"tcp://127.0.0.1:{port}"},
                }
            )
            assert socket.poll(5000), "the service does not subscribe"
        numbers = [0] * workers
        for event in events(sequences, _EVENT_BLOCKS):
            worker = event.held.worker
            sockets[worker].send_multipart([b"", numbers[worker].to_bytes(8, "big"), payload(event)])
            numbers[worker] += 1
        last = {held.worker: held for held in sequences}
        for held in last.values():
            await self._knows(held)

    async def _knows(self, held: Held) -> None:
        deadline_s, found = time.monotonic() + _HEARD_S, {}
        while time.monotonic() < deadline_s:
            told = await self._service.overlap_scores({**_NAMES, "token_ids": held.tokens.tolist()})
            found = {one["worker_id"]: one["device_blocks"] for one in told["workers"]}
            if found.get(held.worker) == len(held.keys):
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"worker {held.worker}: expected {len(held.keys)} blocks, got {found}")

    def begin(self, name: str, token_ids: list[int]) -> Any:
        """A choice with its reservation, to be awaited. What this call takes blocks the event loop."""
        return self._service.select_and_reserve(
            {**_NAMES, "selection_id": name, "token_ids": token_ids, "expected_output_tokens": 256}
        )

    async def end(self, name: str) -> None:
        await self._service.free_reservation(name)

    def close(self) -> None:
        self._service.shutdown()
        self._context.destroy(linger=0)


def load_selecting_peer() -> SelectingPeer | None:
    """None after a line that says that it is missing. Needs a running event loop."""
    os.environ.setdefault("DYN_LOG", "error")  # else it writes a line for each choice
    try:
        service = importlib.import_module("dynamo.llm").SelectionService(indexer_threads=4)
    except ImportError as error:
        print(f"{PEER} is left out: {error}. `pip install 'kvatlas[bench]'` brings it.\n")
        return None
    return SelectingPeer(service)
