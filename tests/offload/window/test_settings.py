"""The window's settings: what is missing or wrong is named with its path."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.offload.window.settings import window_settings


def test_window_and_storage_are_read_from_the_servers_options() -> None:
    storage = {"root": "/mnt/kv", "name": "fleet"}
    options = {"window_bytes": 1 << 30, "wait_s_max": 1.5, "storage": storage}
    settings, store = window_settings({"spec_name": "KvatlasOffloadingSpec", "kvatlas": options})
    assert (settings.window_bytes, settings.wait_s_max, settings.folder) == (1 << 30, 1.5, "/dev/shm")
    assert (store.root, store.name) == ("/mnt/kv", "fleet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            None,
            r"kv_connector_extra_config\.kvatlas: expected an object with window_bytes and storage, got None",
        ),
        ({"window_bytes": 1}, r"kvatlas\.storage: expected an object with root, got None"),
        ({"storage": {"root": "/x"}}, "missing required field `window_bytes`"),
        ({"window_bytes": 0, "storage": {"root": "/x"}}, "window_bytes: expected more than 0, got 0"),
        ({"window_bytes": 1, "wait": 1, "storage": {"root": "/x"}}, "unknown field `wait`"),
        ({"window_bytes": 1, "wait_s_max": -1.0, "storage": {"root": "/x"}}, "wait_s_max: expected from 0"),
        (
            {"window_bytes": 1, "request_share": 2.0, "storage": {"root": "/x"}},
            "request_share: expected from",
        ),
        (
            {"window_bytes": 1, "folder": "shm", "storage": {"root": "/x"}},
            "folder: expected an absolute path",
        ),
        ({"window_bytes": 1, "storage": {"root": ""}}, r"kvatlas\.storage.*root: expected a folder"),
    ],
)
def test_what_is_wrong_is_named(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        window_settings({} if options is None else {"kvatlas": options})
