"""What is seen of a passing answer does not depend on how the network has cut it."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.cluster.proxy.answer_scan import NO_USAGE, StreamScan, Usage, WholeScan, usage_in

_TEXTS = st.lists(st.text(max_size=20), max_size=8)
_USAGE = {"prompt_tokens": 40, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 32}}
_TOLD = Usage(cached_tokens=32, output_tokens=7, prompt_tokens=40)


def event(value: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(value).encode()


def part(text: str) -> bytes:
    return event({"choices": [{"index": 0, "text": text}]})


USAGE_EVENT = event({"choices": [], "usage": _USAGE})
DONE = b"data: [DONE]\n\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(bounds)]


@given(_TEXTS, st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_a_stream_loses_the_event_that_is_for_us_and_nothing_else(
    texts: list[str], places: list[int], strips: bool
) -> None:
    parts = [part(text) for text in texts]
    stream = b"".join([*parts, USAGE_EVENT, DONE])
    passed: list[bytes] = []
    scan = StreamScan(passed.append, strips_usage=strips)
    for piece in cut(stream, places):
        scan.take(piece)
    assert scan.end() == _TOLD
    kept = [*parts, *([] if strips else [USAGE_EVENT]), DONE]
    assert b"".join(passed) == b"".join(kept)
    assert scan.parts == len(kept)


def test_a_text_that_speaks_of_usage_is_no_usage() -> None:
    passed: list[bytes] = []
    scan = StreamScan(passed.append, strips_usage=True)
    stream = part('"usage": {"completion_tokens": 9}, "choices": []') + DONE
    scan.take(stream)
    assert scan.end() == NO_USAGE
    assert b"".join(passed) == stream


def test_usage_beside_a_part_stays_with_it() -> None:
    both = event({"choices": [{"index": 0, "text": "a"}], "usage": _USAGE})
    passed: list[bytes] = []
    scan = StreamScan(passed.append, strips_usage=True)
    scan.take(both)
    assert (scan.end(), b"".join(passed)) == (_TOLD, both)


def test_an_event_that_never_ends_is_handed_on_and_not_kept() -> None:
    passed: list[bytes] = []
    scan = StreamScan(passed.append, strips_usage=True)
    for _ in range(40):
        scan.take(b"x" * (64 << 10))
    assert sum(map(len, passed)) >= 1 << 20
    scan.end()
    assert sum(map(len, passed)) == 40 * (64 << 10)


@given(st.lists(st.integers(0, 100_000), max_size=8))
def test_the_usage_of_a_whole_answer_is_found_at_its_end(places: list[int]) -> None:
    answer = json.dumps({"choices": [{"text": "a" * 20_000}], "usage": _USAGE}).encode()
    passed: list[bytes] = []
    scan = WholeScan(passed.append)
    for piece in cut(answer, places):
        scan.take(piece)
    assert (scan.end(), b"".join(passed)) == (_TOLD, answer)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"usage": null}',
        b'{"usage": {',
        b'{"usage": {"prompt_tokens_details": null, "completion_tokens": "many"}}',
        b'{"usage": {"prompt_tokens_details": {"cached_tokens": -1}, "completion_tokens": true}}',
        b'{"usage": {"a": ' + b"[" * 100_000,
    ],
)
def test_usage_that_makes_no_sense_tells_nothing(text: bytes) -> None:
    assert usage_in(text) == NO_USAGE
