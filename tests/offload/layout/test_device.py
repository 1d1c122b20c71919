"""The device's share of a fingerprint."""

from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvatlas.offload.layout.device import device_name, numa_node_of_all


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512f amx_tile", ":amx_tile"),
        ("flags\t\t: fpu sse2 avx2 avx512f", ":avx512f"),
        ("flags\t\t: fpu sse2", ""),
        ("Features\t: fp asimd crc32", ":asimd"),
        ("", ""),
    ],
)
def test_cpus_differ_by_machine_and_instruction_set(tmp_path: Path, line: str, ending: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\nbugs\t: amx_tile\n")
    name = device_name(SimpleNamespace(device_type="cpu"), tmp_path / "cpuinfo")
    assert name == f"cpu:{platform.machine()}{ending}"


def test_a_machine_that_does_not_say_is_named_without(tmp_path: Path) -> None:
    name = device_name(SimpleNamespace(device_type="cpu"), tmp_path / "absent")
    assert name == f"cpu:{platform.machine()}"


def test_gpus_differ_by_capability() -> None:
    def gpu(capability: object) -> SimpleNamespace:
        return SimpleNamespace(device_type="cuda", get_device_capability=lambda: capability)

    assert device_name(gpu(SimpleNamespace(major=9, minor=0))) == "cuda:9.0"
    assert device_name(gpu(None)) == "cuda"


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [([1, 1], 1), ([0], 0), ([0, 1], -1), ([], -1), (None, -1)],
)
def test_the_numa_node_is_that_of_all_devices(nodes: list[int] | None, expected: int) -> None:
    assert numa_node_of_all(SimpleNamespace(get_all_device_numa_nodes=lambda: nodes)) == expected


def test_a_platform_that_does_not_know_of_numa_has_no_node() -> None:
    def fails() -> list[int]:
        raise RuntimeError("no driver")

    assert numa_node_of_all(SimpleNamespace()) == -1
    assert numa_node_of_all(SimpleNamespace(get_all_device_numa_nodes=fails)) == -1
