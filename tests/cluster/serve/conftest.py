"""Ray Serve's modules warn of themselves where they are first imported; tests take warnings for errors."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray.serve  # noqa: F401
