"""Names of those that announce the files of a store, and are no workers: evictors, connectors.

    store:<store>#<announcer>        as the pod of a topic, "kv@store:nfs#evictor-0@model"

Without a store it is the one of all pods of its model that name none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvatlas.index.errors import InputError

if TYPE_CHECKING:  # this is also loaded where only what announces is
    from kvatlas.ingest.config import PodConfig

_PREFIX = "store:"
_SEPARATOR = "#"


def announcer_name(store: str, announcer: str) -> str:
    """What an announcer of a store is called. Raises InputError for names that cannot be told apart."""
    for what, name, marks in (("store", store, "@"), ("announcer", announcer, "@#")):
        if any(mark in name for mark in marks) or not name.isprintable():
            raise InputError(f"{what}: expected a printable name without any of {marks!r}, got {name!r}")
    if not announcer:
        raise InputError("announcer: expected a name, got ''")
    return f"{_PREFIX}{store}{_SEPARATOR}{announcer}"


def announced_store(pod: str, config: PodConfig | None = None) -> str | None:
    """The store whose files it announces, "" for its model's own; None: it is a worker's pod."""
    if config is not None and config.announces:
        return config.stores[0] if config.stores else ""
    if not pod.startswith(_PREFIX) or _SEPARATOR not in pod:
        return None
    return pod[len(_PREFIX) :].rpartition(_SEPARATOR)[0]
