"""A publisher, a line and a stream with a clock moved by hand, for tests that say each step."""

from __future__ import annotations

from kvatlas.ingest.stream.limits import StreamLimits
from kvatlas.ingest.stream.stream import Stream
from tests.ingest.stream.hostile_line import HostileLine
from tests.ingest.stream.stream_alone import StreamAlone
from tests.models.publisher import PublisherModel, ToyEngine

_TICK_S = 0.1


class StreamRig:
    """Nothing arrives and nothing is answered unless a test says so."""

    def __init__(
        self,
        *,
        buffer_steps: int = 1000,
        has_replay: bool = True,
        is_open: bool = True,
        limits: StreamLimits | None = None,
    ) -> None:
        self.now_s = 100.0
        self.engine = ToyEngine()
        self.publisher = PublisherModel(buffer_steps)
        self.listener = StreamAlone(limits or StreamLimits(), lambda: self.now_s, has_replay=has_replay)
        self.line = HostileLine(self.publisher, self.listener, b"t", has_replay=has_replay, reorders=True)
        if is_open:
            self.line.reopen()

    @property
    def stream(self) -> Stream:
        return self.listener.stream

    @property
    def state(self) -> str:
        return self.listener.truth.state

    @property
    def reasons(self) -> set[str]:
        return {reason.name for reason in self.listener.truth.reasons}

    @property
    def held(self) -> set[int]:
        return self.listener.sink.held

    def say(self, *names: int, for_good: bool = False) -> None:
        """The engine stores or removes these; the batch is on its way."""
        self.now_s += 0.001
        payload = self.engine.step(self.now_s, self.publisher.incarnation, list(names))
        batch = self.publisher.publish(payload, for_good=for_good)
        if not for_good:
            self.line.send(batch)

    def hear(self, *names: int) -> None:
        """The same, and it arrives."""
        self.say(*names)
        self.arrive()

    def arrive(self) -> None:
        """All that is on its way."""
        while self.line.flight:
            self.line.deliver(0)

    def lose(self) -> None:
        """All that is on its way."""
        self.line.flight.clear()

    def answer(self) -> None:
        """The replay socket answers whatever is asked, and what is asked a moment after a connect."""
        self.line.run_answers()
        if self.listener.truth.stands("joining"):
            self.now_s += StreamLimits().join_s
            self.listener.tick()
            self.line.run_answers()

    def restart(self, *names: int) -> None:
        """The engine restarts, and stores one name a batch while nobody is connected."""
        self.engine.restart()
        self.line.restart(told=True)
        for name in names:
            self.say(name)

    def reconnect(self) -> None:
        self.line.reopen()

    def wait(self, seconds: float, *, answered: bool = False) -> None:
        """Time passes, the timers run; `answered`: the replay socket answers meanwhile."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += _TICK_S
            self.listener.tick()
            if answered:
                self.answer()

    def is_exact(self) -> bool:
        """Says so, and is right."""
        if self.state == "EXACT":
            assert self.held == self.engine.held
        return self.state == "EXACT"


def flowing(**options: object) -> StreamRig:
    """A rig that has heard three batches, 0 to 2, and says EXACT."""
    rig = StreamRig(**options)  # type: ignore[arg-type]
    rig.answer()
    for name in (0, 1, 2):
        rig.hear(name)
        rig.answer()
    assert rig.is_exact()
    return rig
