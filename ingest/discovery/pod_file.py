"""The text of a file of pods, YAML or JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from kvatlas.index.errors import InputError
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.discovery.pods import DiscoveredPod

_VERSION = 1
_VALUES_MAX = 1_000_000
_DEPTH_MAX = 32
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class PodFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What such a file holds; a list alone is its `pods`."""

    pods: tuple[PodEntry, ...]
    """The pods. A file without any says `pods: []`; an empty file is taken for a half written one."""
    version: int = _VERSION
    """Of the format."""


def parse_pods(content: bytes, found_by: str) -> list[DiscoveredPod]:
    """The pods of a file. Raises InputError, with the place, when anything in it is wrong."""
    raw = _values(content)
    if isinstance(raw, list):
        raw = {"pods": raw}
    try:
        read = msgspec.convert(raw, PodFile)
    except msgspec.ValidationError as error:
        raise InputError(f"expected a file of pods, {error}") from None
    if read.version != _VERSION:
        raise InputError(f"version: expected {_VERSION}, got {read.version}")
    return [entry.discovered(found_by) for entry in read.pods]


def _values(content: bytes) -> Any:
    if not content.strip():
        raise InputError("expected `pods:`, got an empty file")
    if content.lstrip()[:1] in (b"{", b"["):
        try:
            return msgspec.json.decode(content)
        except (msgspec.DecodeError, RecursionError):
            pass  # YAML may begin so too
    try:
        _check_depth(content)
        raw = yaml.load(content, Loader=_LOADER)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"expected YAML or JSON, {' '.join(str(error).split())[:200]}") from None
    _check_size(raw)
    return raw


def _check_depth(content: bytes) -> None:
    """Raises InputError before the C loader, which recurses without a bound, could overflow its stack."""
    depth = 0
    for event in yaml.parse(content, Loader=_LOADER):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > _DEPTH_MAX:
                raise InputError(f"expected YAML at most {_DEPTH_MAX} deep, got more")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1


def _check_size(raw: Any) -> None:
    """Raises InputError for aliases that unfold into more than could be meant."""
    stack, count = [(raw, 0)], 0
    while stack:
        value, depth = stack.pop()
        count += 1
        if count > _VALUES_MAX or depth > _DEPTH_MAX:
            raise InputError(f"expected at most {_VALUES_MAX} values, {_DEPTH_MAX} deep, got more")
        if isinstance(value, dict):
            stack += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            stack += [(inner, depth + 1) for inner in value]
