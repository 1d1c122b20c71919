"""One Ray for all test modules of a process: starting and ending one each takes longer than many a test."""

from __future__ import annotations

import logging
import time

_END_S = 60.0
"""In which actors that are being killed have gone."""


class RayOfProcess:
    """A Ray on this machine that is up while somebody needs it. One thread."""

    def begin(self) -> None:
        """Starts it unless it is up."""
        import ray  # most tests need none

        if ray.is_initialized():
            return
        ray.init(
            address="local",  # never one that runs already
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=256 << 20,
        )

    def check_left(self) -> None:
        """Fails where actors with names are left, and ends the Ray, so that the next module has another."""
        from ray.util import list_named_actors

        until_s = time.monotonic() + _END_S
        while left := list_named_actors(all_namespaces=True):
            if time.monotonic() > until_s:
                self.end()
                raise AssertionError(f"expected no actor after the module, got {left}")
            time.sleep(0.05)

    def end(self) -> None:
        """Ends it; does nothing when it is not up."""
        import ray

        ray.shutdown()
