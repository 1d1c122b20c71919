"""Tier, specs and connector beside the real classes of vLLM 0.32, and of 0.29, which Ray Serve LLM pins.

0.29 is loaded beside 0.32's dependencies, from the folder that KVATLAS_VLLM_029 names (`make e2e` fills it).
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(420)

_SCRIPT = Path(__file__).with_name("offload_contract.py")
_CHECKS = [
    node.name
    for node in ast.parse(_SCRIPT.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
]
_SECONDS_MAX = 300.0


@pytest.fixture(scope="module", params=["0.32", "0.29"])
def results(
    request: pytest.FixtureRequest,
    vllm_python: str,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """What the script has found in one release."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if request.param == "0.29":
        folder = os.environ.get("KVATLAS_VLLM_029")
        if not folder:
            pytest.skip("KVATLAS_VLLM_029 names no folder with vLLM 0.29: see `make e2e`")
        environment["PYTHONPATH"] = folder
    root = tmp_path_factory.mktemp("contract")
    ended = subprocess.run(
        [vllm_python, str(_SCRIPT), str(root), str(tiny_model)],
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        env=environment,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    assert found.pop("version").startswith(request.param)
    return found


@pytest.mark.parametrize("check", _CHECKS)
def test_it_fits(results: dict[str, str], check: str) -> None:
    assert results[check] == "ok", results[check]
