"""Who a message is from, by its topic."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import InputError

TOPIC_BYTES_MAX = 1024
"""Longer ones are refused: a topic names a worker and is kept for as long as the worker is."""

_PREFIX = "kv"


class Topic(msgspec.Struct, frozen=True):
    """The names in a topic; None where it has none, so that configuration has to say."""

    pod: str | None
    model: str | None


def parse_topic(topic: bytes) -> Topic:
    """Takes `kv@<pod-id>@<model>` apart.

    The pod id ends at the first `@` behind it; the model is all the rest and may hold more of
    them. A topic that is empty or does not begin with `kv@` follows some other convention and
    names nobody; an empty part is one that is missing. Bytes that are not UTF-8 are kept apart as
    lone surrogates, so that two pods never become one.

    Raises InputError when the topic is longer than `TOPIC_BYTES_MAX`.
    Source: llm-d's topic convention.
    """
    if len(topic) > TOPIC_BYTES_MAX:
        raise InputError(f"topic: expected at most {TOPIC_BYTES_MAX} bytes, got {len(topic)} bytes")
    prefix, _, names = topic.decode("utf-8", "surrogateescape").partition("@")
    if prefix != _PREFIX:
        return Topic(None, None)
    pod, _, model = names.partition("@")
    return Topic(pod or None, model or None)


def is_text(name: str) -> bool:
    """Whether it has no lone surrogates: it can be told to others, in a message or a file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
