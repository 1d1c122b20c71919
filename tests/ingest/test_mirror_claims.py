"""What a mirror claims of its own exactness: as the plain model says, and true of an engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas.index.keys import Algorithm
from tests.ingest.mirror_beside_model import MirrorBesideModel, algorithms, announced, worlds
from tests.models import announcements as say
from tests.profiles import examples


class ClaimsBesideTheModel(RuleBasedStateMachine):
    """Random announcements, clears, doubts and restarts of one worker."""

    @initialize(world=worlds, algorithm=algorithms)
    def start(self, world: say.World, algorithm: Algorithm) -> None:
        self.beside = MirrorBesideModel(world, algorithm)

    @rule(batch=st.lists(announced, min_size=1, max_size=3))
    def announce(self, batch: list[say.Announcement]) -> None:
        self.beside.tell(batch)

    @rule(run=say.runs, cut=st.integers(1, 5), gone=st.booleans(), head=st.booleans())
    def store_out_of_order(self, run: say.Run, cut: int, gone: bool, head: bool) -> None:
        """The tail comes before its head, if that comes at all, and some is removed meanwhile."""
        self.beside.tell([say.Dense(replace(run, start=cut), group=0, twice=False)])
        if gone:
            self.beside.tell([say.Removed(replace(run, start=cut), 0, None, None)])
        if head:
            self.beside.tell([say.Dense(replace(run, start=0, length=cut), group=0, twice=False)])

    @rule(run=say.runs, group=say.groups, report=st.booleans(), medium=st.sampled_from([None, "CPU"]))
    def store_and_remove(self, run: say.Run, group: int, report: bool, medium: str | None) -> None:
        """A removal takes what a report has made unsure."""
        run = replace(run, start=0)
        self.beside.tell([say.Dense(run, group, twice=False)])
        if report:
            self.beside.tell([say.Dense(run, group, twice=False)])
        self.beside.tell([say.Offloaded(run, group, "CPU", None, described=True)])
        self.beside.tell([say.Removed(run, group, medium, None)])

    @rule()
    def doubt(self) -> None:
        self.beside.doubt()

    @precondition(lambda self: len(self.beside.naive.copies) > 5 and self.beside.world.limits.ghosts > 100)
    @rule()
    def clear(self) -> None:
        self.beside.tell([say.Cleared(0)])

    @precondition(lambda self: len(self.beside.naive.copies) > 8)
    @rule()
    def restart(self) -> None:
        self.beside.restart()

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        self.beside.check()


TestClaimsBesideTheModel = pytest.mark.slow(pytest.mark.native(ClaimsBesideTheModel.TestCase))
TestClaimsBesideTheModel.settings = settings(max_examples=examples(300), stateful_step_count=25)
