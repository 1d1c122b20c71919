"""Settings: what is wrong is said with its path."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.offload.storing.settings import StorageSettings, parse_settings


def test_a_root_alone_is_enough() -> None:
    settings = parse_settings({"root": "/mnt/kv"})
    assert settings == StorageSettings(root="/mnt/kv")
    assert settings.limits().capacity_bytes is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"tier: .*`root`"),
        ({"root": ""}, r"tier\.root: expected a folder"),
        ({"root": 5}, r"tier: .*str.*\$\.root"),
        ({"root": "/x", "rooot": "/y"}, r"tier: .*rooot"),
        ({"root": "/x", "time_limit_s": "ten"}, r"tier: .*\$\.time_limit_s"),
        ({"root": "/x", "readers": 0}, r"tier\.readers: expected from 1"),
        ({"root": "/x", "capacity_bytes": -1}, r"tier\.capacity_bytes: expected"),
        ({"root": "/x", "write_budget_s": 10.0}, r"tier\.write_budget_s: expected less than time_limit_s"),
        ({"root": "/x", "lease_s": 5.0, "touch_s": 1.0}, r"tier\.lease_s: expected more than time_limit_s"),
        ({"root": "/x", "breaker_s_min": 9, "breaker_s_max": 3}, r"tier\.breaker_s_max: expected"),
        ({"root": "/x", "events": "udp"}, r"tier\.events: expected engine, none or an endpoint"),
        ({"root": "/x", "locality": "NEAR"}, r"tier: .*\$\.locality"),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_settings(options, "tier")
