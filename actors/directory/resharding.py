"""What layout of shards is wanted, and the way from the one that serves to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from kvatlas.actors.directory.layouts import Generation, Layouts, Shape
from kvatlas.actors.directory.placement import Placement


class Resharding:
    """Builds the wanted layout beside the one that serves. One thread at a time; what it has changed is for
    its caller to keep."""

    def __init__(
        self,
        wanted: Shape,
        placement: Placement,
        counts: Counter[str],
        *,
        issue_layout: Callable[[], int],
        clock_s: Callable[[], float],
    ) -> None:
        """`issue_layout` gives a number that was never given before."""
        self.wanted = wanted
        self._placement = placement
        self._counts = counts
        self._issue_layout = issue_layout
        self._clock_s = clock_s

    def want(
        self, n_shards: int | None, replicas_per_node: int | None, off_nodes: tuple[str, ...] | None
    ) -> None:
        """None: as it is wanted now. Raises InputError for numbers out of range."""
        wanted = Shape(
            self.wanted.n_shards if n_shards is None else n_shards,
            self.wanted.replicas_per_node if replicas_per_node is None else replicas_per_node,
            self.wanted.off_nodes if off_nodes is None else tuple(sorted(set(off_nodes))),
        )
        self._placement.check(wanted, self.wanted)
        self.wanted = wanted

    def new_layout(self) -> Generation:
        """The wanted one, without anybody in its slots."""
        number = self._issue_layout()
        slots = self._placement.slots(number, self.wanted)
        return Generation(number, self.wanted, slots, began_s=self._clock_s())

    def build(self, layouts: Layouts) -> None:
        """Begin the layout that is wanted, where it is not the one that serves or is being built."""
        building = layouts.building
        if self.wanted == layouts.serving.shape:
            layouts.give_up()
        elif building is None or building.shape != self.wanted:
            self._counts["layouts_begun"] += 1
            layouts.build(self.new_layout())

    def commit(self, layouts: Layouts, *, is_filled: bool) -> None:
        """The layout that was built serves from now on. REQUIRES: that is kept: nothing in between can come
        back."""
        self._counts["layouts_committed"] += 1
        self._counts["layouts_committed_unfilled"] += not is_filled
        layouts.commit()

    def move_slots(self, layouts: Layouts) -> bool:
        """Nodes have come or gone: where it matters on which they are, replicas are wanted elsewhere; whether
        some are."""
        moved = False
        for one in filter(None, (layouts.serving, layouts.building)):
            if self._placement.nodes_for(one.shape):
                moved |= one.move(self._placement.slots(one.number, one.shape, one.slots))
        return moved
