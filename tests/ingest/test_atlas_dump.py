"""A dump that an embedded atlas shows, beside what it hears itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kvatlas import Atlas
from kvatlas.index.dumps.dump_file import DumpReader, write_dump
from kvatlas.index.errors import DumpError, InputError
from kvatlas.index.groups import Group
from kvatlas.index.view import WorkerView
from kvatlas.ingest.config import AtlasConfig, ModelConfig
from tests.ingest.plain_batches import batch, stored

MODEL = "m"
BLOCK_SIZE = 4
CONFIG = AtlasConfig(hash_seed="seed", models={MODEL: ModelConfig(block_size_tokens=BLOCK_SIZE)})
TOKENS = list(range(100, 141))
"""Ten blocks and a token more."""


def tell(atlas: Atlas, pod: str, n_blocks: int, seq: int = 0) -> None:
    tokens = TOKENS[: n_blocks * BLOCK_SIZE]
    event = stored([seq * 100 + block for block in range(n_blocks)], tokens, block_size=BLOCK_SIZE)
    atlas.ingest(f"kv@{pod}@{MODEL}".encode(), seq, batch(event))


def shown(atlas: Atlas, **asked: object) -> dict[str, float]:
    return dict(atlas.score(TOKENS, model=MODEL, **asked))  # type: ignore[arg-type]


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Of an atlas that has heard two pods."""
    there = Atlas(CONFIG)
    tell(there, "a", 10)
    tell(there, "b", 6)
    there.dump(tmp_path / "dump")
    there.close()
    return tmp_path / "dump"


@pytest.fixture
def here() -> Iterator[Atlas]:
    atlas = Atlas(CONFIG)
    yield atlas
    atlas.close()


def test_what_was_dumped_is_found_and_vouched_for_by_nobody(dump: Path, here: Atlas) -> None:
    report = here.load_dump(dump)
    assert (report.workers, report.heard) == (2, 0)
    assert shown(here) == {"a": 10.0, "b": 6.0}
    assert shown(here, pods=["b"]) == {"b": 6.0}
    assert {match.truth for match in here.score(TOKENS, model=MODEL).matches} == {"DEGRADED"}
    explained = here.explain(TOKENS, model=MODEL)
    assert "from a dump of" in str(explained)


def test_atlas_that_knows_no_model_takes_the_block_size_of_the_dump(dump: Path) -> None:
    bare = Atlas(AtlasConfig(hash_seed="seed"))
    bare.load_dump(dump)
    assert shown(bare) == {"a": 10.0, "b": 6.0}
    bare.close()


def test_worker_is_given_up_when_it_is_heard(dump: Path, here: Atlas) -> None:
    here.load_dump(dump)
    tell(here, "a", 3)
    assert shown(here) == {"a": 3.0, "b": 6.0}
    assert [view.pod for view in here.explain(TOKENS, model=MODEL).workers].count("a") == 1
    keys = sum(len(held) for held in here.residency(MODEL).values())
    assert keys == 3  # the mirrors know nothing of a dump


def test_worker_that_was_heard_before_is_not_shown_and_its_lane_is_its_own(dump: Path, here: Atlas) -> None:
    tell(here, "b", 2)
    report = here.load_dump(dump)
    assert (report.workers, report.heard) == (1, 1)
    assert shown(here) == {"a": 10.0, "b": 2.0}
    tell(here, "b", 4, seq=1)
    tell(here, "c", 5)
    assert shown(here) == {"a": 10.0, "b": 4.0, "c": 5.0}


def test_lanes_that_were_given_up_are_empty_for_who_gets_them_next(dump: Path, here: Atlas) -> None:
    here.load_dump(dump)
    tell(here, "a", 1)
    tell(here, "b", 1)
    for number in range(4):
        tell(here, f"new-{number}", 2)
    assert shown(here) == {"a": 1.0, "b": 1.0, **{f"new-{number}": 2.0 for number in range(4)}}


def test_next_dump_takes_the_place_of_the_one_before(dump: Path, here: Atlas, tmp_path: Path) -> None:
    here.load_dump(dump)
    there = Atlas(CONFIG)
    tell(there, "b", 9)
    there.dump(tmp_path / "next")
    there.close()
    assert here.load_dump(tmp_path / "next").workers == 1
    assert shown(here) == {"b": 9.0}


def test_dump_that_is_torn_or_of_another_seed_changes_nothing(dump: Path, here: Atlas) -> None:
    here.load_dump(dump)
    torn = dump.with_name("torn")
    torn.write_bytes(dump.read_bytes()[:-20])
    with pytest.raises(DumpError, match="cut short"):
        here.load_dump(torn)
    assert shown(here) == {"a": 10.0, "b": 6.0}
    strange = Atlas(AtlasConfig(hash_seed="another"))
    with pytest.raises(DumpError, match="hash_seed"):
        strange.load_dump(dump)
    assert shown(strange) == {}
    strange.close()


def test_worker_that_no_roster_takes_scores_nothing_and_others_do(
    dump: Path, here: Atlas, tmp_path: Path
) -> None:
    with DumpReader(dump) as reader:
        sections, (part,) = list(reader), reader.meta.parts
        odd = WorkerView(number=9, pod="odd", rank=0, model=MODEL, groups=tuple(map(Group, range(100, 200))))
        parts = (msgspec.structs.replace(part, workers=(odd, *part.workers)),)
        write_dump(tmp_path / "odd", msgspec.structs.replace(reader.meta, parts=parts), sections)
    assert here.load_dump(tmp_path / "odd").workers == 3
    assert shown(here) == {"a": 10.0, "b": 6.0}


def test_dump_of_more_workers_than_there_may_be_is_refused(dump: Path) -> None:
    small = Atlas(AtlasConfig(hash_seed="seed", workers_max=1))
    with pytest.raises(InputError, match="expected at most 1, got 2 with the dump's"):
        small.load_dump(dump)
    assert shown(small) == {}
    small.close()


def test_dump_that_is_loaded_again_or_over_a_newer_one_is_what_is_shown(
    dump: Path, here: Atlas, tmp_path: Path
) -> None:
    newer = Atlas(CONFIG)
    tell(newer, "a", 2)
    newer.dump(tmp_path / "newer")
    newer.close()
    for path, expected in ((dump, {"a": 10.0, "b": 6.0}), (tmp_path / "newer", {"a": 2.0})):
        for _ in range(2):
            here.load_dump(path)
            assert shown(here) == expected
    here.load_dump(dump)
    assert shown(here) == {"a": 10.0, "b": 6.0}


def test_dump_with_block_sizes_that_it_has_no_keys_of_is_refused(
    here: Atlas, dump: Path, tmp_path: Path
) -> None:
    """Else its sizes would be everybody's, and nothing be found any more."""
    with DumpReader(dump) as reader:
        write_dump(tmp_path / "odd", msgspec.structs.replace(reader.meta, keyspaces={}), list(reader))
    with pytest.raises(DumpError, match="expected a print of its 4-token keys, got none"):
        here.load_dump(tmp_path / "odd")
    assert shown(here) == {}
