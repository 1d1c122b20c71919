"""Room for file descriptors: a process may often open only 1 024, without being asked for more."""

from __future__ import annotations

import logging
import resource

_SPARE = 256

_log = logging.getLogger(__name__)


def make_room(descriptors: int) -> None:
    """Raise the process's soft limit so that so many, and some to spare, can be open.

    Not beyond its hard limit: then a warning says what may be missing.
    """
    wanted = descriptors + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if raised > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    if raised < wanted:
        _log.warning("file descriptors: expected room for %d, got %d (ulimit -n)", wanted, raised)
