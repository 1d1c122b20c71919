"""What a guest keeps of what it has told."""

from __future__ import annotations

from kvatlas.actors.guest.told_copy import ToldCopy
from tests.models.table import ADD, Record, delta


def test_content_on_its_way_keeps_no_snapshot_so_that_two_layouts_can_be_loaded_at_a_time() -> None:
    copy = ToldCopy(8 << 20)
    copy.tell(delta([Record(ADD, 3, 1, (11, 12), 11)]))
    contents = [copy.content(), copy.content()]
    told = [next(content) for content in contents]
    assert [one.lanes for one in told] == [(3,), (3,)]
    assert copy.statistics()["snapshot_bytes"] == 0
    assert [next(content, None) for content in contents] == [None, None]
    copy.close()
