"""An embedded atlas' index as a dump: what the mirrors hold, under names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kvatlas.index.dumps.diffing import Dumped, diff
from kvatlas.index.dumps.dump_file import DumpReader
from kvatlas.index.shards import ShardedIndex
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.fleet_dump import dump_fleet
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import CountedNumbers
from kvatlas.ingest.outlet import TableOutlet
from tests.ingest.plain_batches import batch, stored


class Embedded:
    def __init__(self, shards: int) -> None:
        self.index = ShardedIndex(shards, table_bytes_max=16 << 20)
        self.mirror = FleetMirror(AtlasConfig(), TableOutlet(self.index), CountedNumbers(), hash_seed="seed")
        self.told: dict[str, int] = {}

    def tell(self, pod: str, *hashes: int) -> None:
        tokens = [token for number in hashes for token in range(16 * number, 16 * number + 16)]
        number = self.told.setdefault(pod, 0)
        self.mirror.ingest(f"kv@{pod}@m".encode(), number, batch(stored(list(hashes), tokens)))
        self.told[pod] += 1

    def dump(self, to: Path) -> int:
        return dump_fleet(self.mirror, self.index, to, algorithm="fold64", hash_seed="seed").pairs


def differences(left: Path, right: Path) -> dict[str, tuple[int, int, int]]:
    """By pod."""
    with DumpReader(left) as first, DumpReader(right) as second:
        rows = diff(Dumped(first.meta.parts, first), Dumped(second.meta.parts, second))
    return {row.owner.pod: (row.only_left, row.only_right, row.both) for row in rows}


def test_dump_of_an_atlas_is_what_its_servers_told_whatever_its_number_of_shards(tmp_path: Path) -> None:
    one, five = Embedded(1), Embedded(5)
    for atlas in (one, five):
        atlas.tell("a", 1, 2, 3)
    five.tell("b", 1)
    one.tell("b", 1)
    assert (one.dump(tmp_path / "1"), five.dump(tmp_path / "5")) == (4, 4)
    assert differences(tmp_path / "1", tmp_path / "5") == {"a": (0, 0, 3), "b": (0, 0, 1)}
    five.tell("a", 7, 8)
    five.dump(tmp_path / "5")
    assert differences(tmp_path / "1", tmp_path / "5") == {"a": (0, 2, 3), "b": (0, 0, 1)}


def test_fleet_that_changes_while_it_is_dumped_is_dumped_with_the_lanes_of_its_content(
    tmp_path: Path,
) -> None:
    atlas = Embedded(2)
    atlas.tell("a", 1)

    class Growing:
        """Each look at the index finds one more pod."""

        def export(self) -> Iterator[bytes]:
            if len(atlas.told) < 5:
                atlas.tell(f"b{len(atlas.told)}", 1)
            return atlas.index.export()

    totals = dump_fleet(atlas.mirror, Growing(), tmp_path / "d", algorithm="fold64", hash_seed="seed")
    with DumpReader(tmp_path / "d") as dumped:
        assert len(dumped.meta.parts[0].workers) == totals.pairs == 5
