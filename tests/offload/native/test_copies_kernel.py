"""The kernel that the extension carries is that of gather.cu, and assembles for the GPUs of today."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.offload.native import kernel_source

pytestmark = pytest.mark.native


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name}")
    return path


def test_the_carried_kernel_was_made_of_this_source() -> None:
    assert f"// {kernel_source.source_digest()}." in kernel_source.CARRIER.read_text()


@pytest.mark.slow
def test_the_carried_kernel_is_what_the_compiler_gives() -> None:
    nvcc = tool("nvcc")
    release = kernel_source.release_of(nvcc)
    if f"nvcc {release} " not in kernel_source.CARRIER.read_text():
        pytest.skip(f"written by another nvcc than {release}")
    assert kernel_source.compiled(nvcc) == kernel_source.carried()


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_the_carried_kernel_assembles(architecture: str, tmp_path: Path) -> None:
    ptxas = tool("ptxas")
    source = tmp_path / "gather.ptx"
    source.write_text(kernel_source.carried())
    command = [ptxas, f"-arch={architecture}", str(source), "-o", str(tmp_path / "gather.cubin")]
    subprocess.run(command, check=True, env=kernel_source.without_preload())
