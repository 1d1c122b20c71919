"""Where the tables of a cluster lie in shared memory, and what is done when there is no room."""

from __future__ import annotations

import logging
import os
import re

from kvatlas.actors.orders import ShardAsks
from kvatlas.index._native import Table, remove_dead_tables
from kvatlas.index.errors import ConfigError, TableFileError

_CLUSTER = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_log = logging.getLogger(__name__)


def table_prefix(cluster: str) -> str:
    """How the names of a cluster's tables begin. Raises ConfigError for a name that is no file's."""
    if not _CLUSTER.fullmatch(cluster):
        raise ConfigError(f"cluster: expected 1 to 64 letters, digits, '_', '.', '-', got {cluster!r}")
    return f"kvatlas-{os.getuid()}-{cluster}@"


def open_table(folder: str, cluster: str, asks: ShardAsks, incarnation: int, bytes_max: int) -> Table:
    """A table of its own name in shared memory; in private memory when there is no room, or no folder.

    What dead processes of this cluster and user have left in the folder is removed.
    """
    prefix = table_prefix(cluster)
    if not folder:
        return Table(budget_bytes=bytes_max)
    path = os.path.join(folder, f"{prefix}{asks.layout}-{asks.shard}-{asks.replica}-{incarnation}")
    remove_left(folder, cluster)
    try:
        return Table(budget_bytes=bytes_max, path=path)
    except TableFileError as error:
        _log.warning("the table is in private memory, readers of this node ask by messages: %s", error)
        return Table(budget_bytes=bytes_max)


def remove_left(folder: str, cluster: str) -> None:
    """Remove what dead processes of this cluster and user have left in a folder; never what is in use."""
    if not folder:
        return
    try:
        removed = remove_dead_tables(folder, table_prefix(cluster))
    except TableFileError as error:
        _log.warning("tables of dead processes stay: %s", error)
        return
    if removed:
        _log.info("%s: removed %d tables of dead processes", folder, removed)
