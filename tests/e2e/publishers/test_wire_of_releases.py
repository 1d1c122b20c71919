"""What the real publishers of many releases say is understood, batch by batch, without a subscriber."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from kvatlas import Atlas, AtlasConfig, ModelConfig
from tests.e2e.publishers.publisher import MODEL, POD, Publisher
from tests.e2e.publishers.releases import Release
from tests.e2e.publishers.said import HASH_SEED, LORA_NUMBERS, Said, longer, prompt

# asyncio leaves the transport of a connection that was accepted while the link was cut to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TOPIC = f"kv@{POD}@{MODEL}".encode()


def atlas_of(publisher: Publisher) -> Atlas:
    """An atlas that was given every batch of the replay."""
    names = {number: name for name, number in LORA_NUMBERS.items()}
    atlas = Atlas(AtlasConfig(hash_seed=HASH_SEED, models={MODEL: ModelConfig(lora_names=names)}))
    for *_, sequence, payload in publisher.replay():
        atlas.ingest(TOPIC, int.from_bytes(sequence, "big"), payload)
    return atlas


def residency(atlas: Atlas) -> dict[int, int]:
    return atlas.residency(MODEL).get((POD, 0, 0), {})


def sent(publisher: Publisher, *batches: list[dict[str, Any]]) -> None:
    publisher.publish(*batches)
    publisher.wait_until_sent(len(batches) - 1)


def test_events_and_replies_have_the_form_of_the_release(release: Release, publisher: Publisher) -> None:
    said = Said()
    sent(publisher, [said.store(prompt("a", 2))], [said.clear()])
    heading = [b"", TOPIC] if release.replies_have_topic else [b""]
    first, second = publisher.replay()
    assert [*first[:-2], *second[:-2]] == heading * 2
    assert [reply[-2] for reply in (first, second)] == [bytes(8), bytes(7) + b"\x01"]
    _, (event,), rank = msgpack.unpackb(first[-1])
    assert rank == 0
    assert type(event) is (dict if release.events_are_maps else list)
    assert publisher.replay(1) == [second]
    assert publisher.replay(2) == []


@pytest.mark.parametrize("hashes_are_bytes", [False, True], ids=["numbers", "bytes"])
def test_chains_are_stored_prolonged_copied_and_removed(publisher: Publisher, hashes_are_bytes: bool) -> None:
    said = Said()
    first = prompt("a", 4, hashes_are_bytes=hashes_are_bytes)
    grown = longer(first, 3)
    other = prompt("b", 3, hashes_are_bytes=hashes_are_bytes)
    sent(
        publisher,
        [said.store(first), said.store(other)],
        [said.store(grown, 4)],
        [said.store(grown, 6)],  # a second copy of the last block
        [said.remove(grown, 6), said.remove(other, 2), said.remove(other, 1), said.store(prompt("c", 1))],
    )
    atlas = atlas_of(publisher)
    assert residency(atlas) == said.held()
    assert len(said.held()) == 9
    scores = atlas.score([*grown.tokens, 1, 2, 3], model=MODEL)
    assert dict(scores) == {POD: 7.0}


def test_a_lora_and_a_clear_are_understood(publisher: Publisher) -> None:
    plain = prompt("a", 3)
    tuned = prompt("a", 3, lora="a lora")
    before, said = Said(), Said()
    sent(
        publisher,
        [before.store(plain), before.store(tuned)],
        [before.clear()],
        [said.store(tuned, 0, 2), said.store(plain, 0, 1)],
    )
    atlas = atlas_of(publisher)
    assert residency(atlas) == said.held()
    assert dict(atlas.score([*tuned.tokens, 1], model=MODEL, lora="a lora")) == {POD: 2.0}
    assert dict(atlas.score([*tuned.tokens, 1], model=MODEL)) == {POD: 1.0}


def test_a_salt_makes_other_blocks_where_the_release_tells_it(release: Release, publisher: Publisher) -> None:
    plain = prompt("a", 3)
    salted = prompt("a", 3, cache_salt="a tenant")
    both = prompt("a", 3, cache_salt="a tenant", lora="a lora")
    said = Said()
    sent(publisher, [said.store(plain, 0, 1), said.store(salted), said.store(both, 0, 2)])
    atlas = atlas_of(publisher)
    if release.has_extra_keys:
        assert residency(atlas) == said.held()
    else:  # they look plain
        assert not atlas.score(salted.tokens, model=MODEL, cache_salt="a tenant")
        assert dict(atlas.score([*plain.tokens, 1], model=MODEL)) == {POD: 3.0}
