"""What passes by in a pod's answer: how many parts, and the usage that its end tells."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

_TAIL_BYTES = 8192
"""Usage stands at the end of an answer."""
_EVENT_BYTES_MAX = 128 << 10
"""An event of a stream that is longer is handed on before it is whole."""
_END = b"\n\n"
_USAGE_WORD = b'"usage"'
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_json = json.JSONDecoder()


class Usage(NamedTuple):
    """As the pod says it; None: it does not say."""

    cached_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens: int | None = None


NO_USAGE = Usage()


def usage_in(text: bytes) -> Usage:
    """The last usage in the end of an answer; `NO_USAGE` where there is none."""
    found = None
    for found in _USAGE.finditer(text):  # noqa: B007 - the last one
        pass
    if found is None:
        return NO_USAGE
    try:
        told, _ = _json.raw_decode(text[found.end() :].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return NO_USAGE
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(_count(cached), _count(told.get("completion_tokens")), _count(told.get("prompt_tokens")))


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 32 else None


class WholeScan:
    """Looks on at an answer that comes as one JSON text."""

    def __init__(self, forward: Callable[[bytes], None]) -> None:
        self._forward = forward
        self._tail = b""
        self.parts = 0
        """Of a stream."""

    def take(self, data: bytes) -> None:
        self._forward(data)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def end(self) -> Usage:
        """What it has told."""
        return usage_in(self._tail)


class StreamScan:
    """Looks on at a stream of server-sent events, and takes out the one that the client did not ask for.

    A part that ends where an event ends, which is nearly each, is handed on as it came: it costs two
    searches. Only what may be, or be cut from, an event that tells usage is looked at closer.
    """

    def __init__(self, forward: Callable[[bytes], None], *, strips_usage: bool) -> None:
        """`strips_usage`: the event that tells nothing but usage is for us."""
        self._forward = forward
        self._strips = strips_usage
        self._held = b""
        self._usage = NO_USAGE
        self.parts = 0
        """Events that have passed: about as many as tokens."""

    def take(self, data: bytes) -> None:
        if not self._held and data.endswith(_END) and _USAGE_WORD not in data:
            self.parts += data.count(b"data:")
            self._forward(data)
            return
        self._take_events(self._held + data)

    def end(self) -> Usage:
        """What it has told; hands on what it still held."""
        held, self._held = self._held, b""
        if held:
            self._take_event(held)
        return self._usage

    def _take_events(self, data: bytes) -> None:
        whole, end, rest = data.rpartition(_END)
        if len(rest) > _EVENT_BYTES_MAX:
            whole, end, rest = data, b"", b""
        self._held = rest
        kept = [part for event in _events(whole + end) if (part := self._seen(event))]
        if kept:
            self._forward(b"".join(kept))

    def _take_event(self, event: bytes) -> None:
        if kept := self._seen(event):
            self._forward(kept)

    def _seen(self, event: bytes) -> bytes:
        """The event, or nothing where it is to be left out."""
        if _USAGE_WORD in event and (usage := usage_in(event)) is not NO_USAGE:
            self._usage = usage
            if self._strips and _NO_CHOICES.search(event):
                return b""
        self.parts += event.startswith(b"data:")
        return event


def _events(data: bytes) -> list[bytes]:
    return [event + _END for event in data.split(_END)[:-1]] if data.endswith(_END) else [data]
