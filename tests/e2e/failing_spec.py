"""KvatlasOffloadingSpec whose device copies fail while a file says so: `fail-loads`, `fail-stores` in the
server's folder.

Runs inside the model server's own Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kvatlas.offload.spec import KvatlasOffloadingSpec
from kvatlas.offload.window.copies import Copies


class FailingSpec(KvatlasOffloadingSpec):
    def get_worker(self, kv_caches: Any) -> Any:
        worker = super().get_worker(kv_caches)
        worker._copies.submit = _failing(worker._copies)
        return worker


def _failing(copies: Copies) -> Any:
    """Copies to rows that do not exist: they fail in the device's code, as they would without memory."""
    submit = copies.submit

    def submit_or_fail(job: int, blocks: Any, rows: Any, *, is_load: bool, **more: Any) -> None:
        if Path("fail-loads" if is_load else "fail-stores").exists():
            rows = np.full_like(rows, 1 << 30)
        submit(job, blocks, rows, is_load=is_load, **more)

    return submit_or_fail
