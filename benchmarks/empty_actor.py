"""An actor that does nothing: what Ray itself costs. Imports next to nothing, as it is measured too."""

from __future__ import annotations

import importlib
import os
from typing import Any

import ray


class Empty:
    """Imports what it is told to."""

    def __init__(self, module: str = "") -> None:
        if module:
            importlib.import_module(module)

    def nothing(self) -> None:
        """An empty call."""

    def pid(self) -> int:
        return os.getpid()


def empty_actor(module: str = "") -> Any:
    """Ray's handle of one; needs no CPU."""
    kind: Any = ray.remote(Empty)
    return kind.options(num_cpus=0).remote(module)
