"""llm-d's pod entries: the fields of its hashes, byte for byte as its Go code writes them.

Source: llm-d-kv-cache, pkg/kvcache/kvblock: `PodEntry`, `RedisIndex`; Go's encoding/json.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from kvatlas.index.errors import InputError

ENTRY_BYTES_MAX = 1024
"""Longer fields are not looked at, and none is written."""
SPECULATIVE = 32
"""Tier bit of what was predicted and not told by an event."""
UNKNOWN = 16
_TIER_NAMES = {1: "gpu", 2: "cpu", 4: "disk", 8: "storage", UNKNOWN: "unknown", SPECULATIVE: "gpu"}
_TIER_BITS = {"gpu": 1, "cpu": 2, "cpu_pinned": 2, "disk": 4, "storage": 8, "external": 8, "unknown": UNKNOWN}
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in [*map(chr, range(32)), "<", ">", "&", "\u2028", "\u2029"]}
_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPES.update({ord('"'): '\\"', ord("\\"): "\\\\", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t"})


class PodEntry(NamedTuple):
    """Who holds a block, as llm-d has it."""

    pod: str
    tier: str
    is_speculative: bool = False
    group: int | None = None
    """KV-cache group, where one was told."""

    @property
    def tier_bit(self) -> int:
        """kvatlas's bit of the tier; what is speculative has only the bit that says so."""
        return SPECULATIVE if self.is_speculative else _TIER_BITS.get(self.tier.lower(), UNKNOWN)

    @property
    def has_known_tier(self) -> bool:
        return self.is_speculative or self.tier.lower() in _TIER_BITS


def encode_entry(pod: str, tier_bit: int, group: int | None = None) -> bytes:
    """The field of one copy: `tier_bit` is one bit, `group` None where none is told.

    Raises InputError for a pod whose field would be longer than llm-d's readers here look at.
    """
    speculative, has_group = _go_bool(tier_bit == SPECULATIVE), _go_bool(group is not None)
    field = (
        f'{{"PodIdentifier":{_go_string(pod)},"DeviceTier":"{_TIER_NAMES[tier_bit]}",'
        f'"Speculative":{speculative},"HasGroup":{has_group},"GroupIdx":{group or 0}}}'
    ).encode()
    if len(field) > ENTRY_BYTES_MAX:
        raise InputError(
            f"pod: expected an entry of at most {ENTRY_BYTES_MAX} bytes, got one of {len(field)}"
        )
    return field


def decode_entry(field: bytes) -> PodEntry | None:
    """What a field says, or None where Go's decoder would make no entry of it, or it is too long.

    As there: names of members in any case, in any order, unknown ones skipped, absent ones zero.
    """
    if len(field) > ENTRY_BYTES_MAX:
        return None
    try:
        told = json.loads(field)
    except (ValueError, RecursionError):  # ValueError is also bytes that are no UTF-8
        return None
    if not isinstance(told, dict):
        return None
    members = {name.lower(): value for name, value in told.items() if value is not None}
    pod, tier = members.get("podidentifier", ""), members.get("devicetier", "")
    speculative, has_group = members.get("speculative", False), members.get("hasgroup", False)
    group = members.get("groupidx", 0)
    texts = isinstance(pod, str) and isinstance(tier, str)
    flags = isinstance(speculative, bool) and isinstance(has_group, bool)
    if not texts or not flags or type(group) is not int or not -(2**63) <= group < 2**63:
        return None
    return PodEntry(pod, tier, speculative, group if has_group else None) if pod else None


def _go_string(text: str) -> str:
    """JSON as Go 1.22 and later write it: also safe inside of HTML, and U+FFFD for what is no Unicode."""
    return '"' + _SURROGATES.sub(r"\\ufffd", text.translate(_ESCAPES)) + '"'


def _go_bool(value: bool) -> str:
    return "true" if value else "false"
