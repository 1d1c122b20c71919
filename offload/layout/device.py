"""What a server's platform says of its devices: their share of a fingerprint, and where they are."""

from __future__ import annotations

import platform as host
from collections.abc import Callable
from pathlib import Path
from typing import Any

_INSTRUCTION_SETS = ("amx_tile", "avx512f", "avx2", "asimd")  # the best first


def device_name(platform: Any, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """A device's share of a fingerprint: what may lay the cache out differently is named differently.

    "cuda:9.0", "cpu:x86_64:amx_tile" and the like, of vLLM's `current_platform`, by attribute.
    """
    kind = str(platform.device_type)
    if kind == "cpu":
        return ":".join([kind, host.machine(), *_instruction_set(cpuinfo)])
    capability = platform.get_device_capability()
    return kind if capability is None else f"{kind}:{capability.major}.{capability.minor}"


def numa_node_of_all(platform: Any) -> int:
    """The NUMA node of all devices that this process sees; -1: they differ, have none, or nobody knows.

    The same in vLLM's words: `current_platform.get_all_device_numa_nodes`, which not every platform has.
    """
    nodes_of: Callable[[], list[int] | None] | None = getattr(platform, "get_all_device_numa_nodes", None)
    try:
        nodes = set(nodes_of() or ()) if nodes_of is not None else set()
    except Exception:  # a driver that does not say: threads stay where they are
        return -1
    return int(nodes.pop()) if len(nodes) == 1 else -1


def _instruction_set(cpuinfo: Path) -> list[str]:
    try:
        with cpuinfo.open(encoding="ascii", errors="replace") as lines:
            features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return []
    have = set(features.split())
    return [name for name in _INSTRUCTION_SETS if name in have][:1]
