"""The two routers that are compared, each with the time that a choice takes written to a file.

It is imported by processes of Ray that have vLLM.
"""

from __future__ import annotations

import os
import time
from typing import Any

from ray.serve.llm.request_router import KVAwareRouter

from kvatlas.cluster.serve.llm.router import KvatlasRouter

TIMES_VARIABLE = "KVATLAS_TEST_TIMES"
"""Folder in which each router writes the microseconds of each choice, one a line."""


class TimedRayRouter(KVAwareRouter):
    """Ray's own."""

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        began_s = time.perf_counter()
        groups: list[list[Any]] = await super().choose_replicas(candidate_replicas, pending_request)
        _write("ray", time.perf_counter() - began_s)
        return groups


class TimedKvatlasRouter(KvatlasRouter):
    """Ours."""

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        began_s = time.perf_counter()
        groups = await super().choose_replicas(candidate_replicas, pending_request)
        _write("kvatlas", time.perf_counter() - began_s)
        return groups


def _write(name: str, time_s: float) -> None:
    with open(os.path.join(os.environ[TIMES_VARIABLE], name), "a") as times:
        times.write(f"{1e6 * time_s:.1f}\n")
