"""Who a topic says that a message is from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.ingest.wire.topic import TOPIC_BYTES_MAX, Topic, parse_topic


@pytest.mark.parametrize(
    ("topic", "pod", "model"),
    [
        (b"kv@pod0@tiny", "pod0", "tiny"),
        (b"kv@10.0.0.9:5557@meta-llama/Llama-3.1-8B", "10.0.0.9:5557", "meta-llama/Llama-3.1-8B"),
        (b"kv@[fd00::9]:5557@m", "[fd00::9]:5557", "m"),
        (b"kv@pod@org/model@revision@2", "pod", "org/model@revision@2"),
        (b"kv@pod@@", "pod", "@"),
        ("kv@pöd@模型".encode(), "pöd", "模型"),
        (b"kv@pod", "pod", None),
        (b"kv@pod@", "pod", None),
        (b"kv@@model", None, "model"),
        (b"kv@@", None, None),
        (b"kv@", None, None),
        (b"kv", None, None),
        (b"", None, None),
        (b"events", None, None),
        (b"other@pod@model", None, None),
        (b"KV@pod@model", None, None),
        (b" kv@pod@model", None, None),
        (b"@pod@model", None, None),
    ],
)
def test_a_topic_names_what_its_parts_name(topic: bytes, pod: str | None, model: str | None) -> None:
    assert parse_topic(topic) == Topic(pod, model)


def test_bytes_that_are_not_utf8_keep_two_pods_apart() -> None:
    first, second = parse_topic(b"kv@\xff@m\xc3"), parse_topic(b"kv@\xfe@m\xc3")
    assert first == Topic("\udcff", "m\udcc3")
    assert first.pod != second.pod


def test_a_topic_of_the_longest_length_is_read_and_a_longer_one_refused() -> None:
    longest = b"kv@pod@".ljust(TOPIC_BYTES_MAX, b"m")
    assert parse_topic(longest).model == "m" * (TOPIC_BYTES_MAX - 7)
    with pytest.raises(InputError, match=r"at most 1024 bytes, got 1025 bytes"):
        parse_topic(longest + b"m")


@given(st.binary(max_size=40).filter(lambda pod: b"@" not in pod), st.binary(max_size=40))
def test_any_pod_and_model_come_back_byte_for_byte(pod: bytes, model: bytes) -> None:
    topic = parse_topic(b"kv@" + pod + b"@" + model)
    assert (topic.pod or "").encode("utf-8", "surrogateescape") == pod
    assert (topic.model or "").encode("utf-8", "surrogateescape") == model
