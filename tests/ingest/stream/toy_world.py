"""One toy engine, its publisher, a hostile line and a stream, with a clock moved by hand."""

from __future__ import annotations

import random

from kvatlas.ingest._native import checksum
from kvatlas.ingest.stream.limits import StreamLimits
from tests.ingest.stream.hostile_line import HostileLine
from tests.ingest.stream.random_stories import Story
from tests.ingest.stream.stream_alone import StreamAlone
from tests.models.publisher import PublisherModel, ToyEngine

TOPIC = b"kv@toy@m"
PAUSES_S = (0.01, 0.05, 0.2, 0.6, 2.5, 6.0, 11.0)
WEIGHTS = {
    "publish": 12,
    "hole": 0.3,
    "restart": 0.6,
    "restart_quietly": 0.4,
    "overtake": 1.2,
    "mingle": 0.4,
    "break_off": 1,
    "break_off_untold": 0.6,
    "reopen": 3,
    "deliver": 12,
    "repeat": 1,
    "lose": 2,
    "lose_all": 0.5,
    "forge": 0.3,
    "answer": 10,
    "answer_late": 1,
    "thin": 0.7,
    "double": 0.7,
    "shuffle": 0.5,
    "cut": 0.7,
    "lose_end": 0.3,
    "deafen": 0.2,
    "hear": 0.4,
    "wait": 5,
    "resync": 0.2,
}
"""How often what happens."""


class ToyWorld:
    """After each step, whoever says EXACT must be right about the last batch applied."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.now_s = 100.0
        self.has_replay = rng.random() < 0.8
        limits = StreamLimits(buffer_batches_max=rng.choice([2, 5, 1000]))
        self.engine = ToyEngine()
        self.publisher = PublisherModel(rng.choice([0, 1, 3, 8, 1000, 1000, 1000, 1000]))
        self.listener = StreamAlone(limits, lambda: self.now_s, has_replay=self.has_replay)
        self.line = HostileLine(
            self.publisher, self.listener, TOPIC, has_replay=self.has_replay, reorders=self.has_replay
        )
        self.line.checked = self.check
        # With a long replay buffer a mixture of two engines is found out, though only at the next question.
        self.line.mixes = self.has_replay and self.publisher.answers_many and rng.random() < 0.3
        self.in_quiet = False
        self.said: dict[tuple[int, int], frozenset[int]] = {}
        self.has_holes = self.tail_is_hole = False
        if rng.random() < 0.7:
            self.line.reopen()

    # What may happen.

    def publish(self, number: int) -> None:
        names = [number % 7, number // 7 % 7, number // 49 % 7][: 1 + number % 3]
        self._say(names, for_good=False)

    def hole(self, number: int) -> None:
        if self.line.is_strict:
            return
        self.has_holes = True
        self._say([number % 7], for_good=True)

    def _say(self, names: list[int], *, for_good: bool) -> None:
        self.now_s += 0.001
        payload = self.engine.step(self.now_s, self.publisher.incarnation, names)
        batch = self.publisher.publish(payload, for_good=for_good)
        self.tail_is_hole = for_good
        self.said[batch.seq, checksum(payload)] = frozenset(self.engine.held)
        if not for_good:
            self.line.send(batch)

    def restart(self, _: int, *, told: bool = True) -> None:
        self.engine.restart()
        self.has_holes = self.tail_is_hole = False
        self.line.restart(told=told)

    def restart_quietly(self, _: int) -> None:
        self.restart(0, told=not self.has_replay)

    def overtake(self, number: int) -> None:
        """The engine restarts and publishes about as much as before, while nobody looks."""
        last = min(self.listener.stream.last or 0, 100)
        self.restart(0)
        for i in range(last + number % 4):
            self.publish(number * 31 + i * 7)
        if number & 16:
            self.line.reopen()
            self.publish(number)
            self.line.deliver(0)

    def mingle(self, number: int) -> None:
        """What was left of the old connection is read late, and the new engine's number fits behind it."""
        if not self.line.mixes or self.publisher.next_seq:
            return
        self.line.reopen()
        self.publish(number)
        old = self.line.flight.pop()
        self.restart(0)
        self.line.reopen()
        self.line.answer_on(0, 9)
        self.line.flight = [old]
        self.line.deliver(0)
        self.publish(number + 1)
        self.lose_all(0)
        self.publish(number + 2)
        self.line.deliver(0)

    def break_off(self, _: int) -> None:
        self.line.break_off(told=True)

    def break_off_untold(self, _: int) -> None:
        self.line.break_off(told=False)

    def reopen(self, _: int) -> None:
        self.line.reopen()

    def deliver(self, number: int) -> None:
        for _ in range(1 + number % 3):
            self.line.deliver(number // 3 if number % 5 == 0 else 0)

    def repeat(self, number: int) -> None:
        self.line.repeat(number)

    def lose(self, number: int) -> None:
        self.line.lose(number)

    def lose_all(self, _: int) -> None:
        for _ in range(len(self.line.flight)):
            self.line.lose(0)

    def forge(self, number: int) -> None:
        self.line.forge((1 << 40) + number, f"{self.now_s if number % 2 else 0.0} -1".encode())

    def answer(self, number: int) -> None:
        self.line.answer_on(0, 1 + number % 12)

    def answer_late(self, number: int) -> None:
        self.line.answer_late(number)

    def thin(self, number: int) -> None:
        self.line.thin(number)

    def double(self, number: int) -> None:
        self.line.double(number)

    def shuffle(self, number: int) -> None:
        self.line.shuffle(number)

    def cut(self, number: int) -> None:
        self.line.cut(number)

    def lose_end(self, number: int) -> None:
        self.line.lose_end(number)

    def deafen(self, _: int) -> None:
        self.line.deaf = True

    def hear(self, _: int) -> None:
        self.line.deaf = False

    def wait(self, number: int) -> None:
        self.now_s += PAUSES_S[number % len(PAUSES_S)]
        self.listener.tick()
        self.check()

    def resync(self, _: int) -> None:
        self.listener.stream.resync(self.now_s)

    # What must hold.

    def check(self) -> None:
        """At any time: compared with what the engine held behind the last batch applied."""
        state = self.listener.truth.state
        if state not in ("EXACT", "PARTIAL") or (self.line.mixes and not self.in_quiet):
            return
        position, held = self.listener.stream.position, self.listener.sink.held
        assert position is not None or state == "PARTIAL", f"{state}, though nothing has been heard"
        true = self.said.get(position, frozenset()) if position is not None else frozenset()
        assert held <= true, f"{state} holds {held - true} too much"
        assert state == "PARTIAL" or held == true, f"{state} lacks {true - held}"

    def end(self) -> None:
        """All heals, and time passes: now it is what the engine holds that counts."""
        end_s = self.now_s
        self.line.heal()
        if self.tail_is_hole:  # nobody can notice before the next batch
            self.publish(1)
            self.line.deliver(0)
        for pause_s in [0.3] * 12 + [1.0] * 12 + [3.0] * 24:
            self.line.run_answers()
            self.in_quiet = self.now_s > end_s + 5
            self.now_s += pause_s
            self.listener.tick()
            self.check()
        self.line.run_answers()
        self.check_quiet()

    def check_quiet(self) -> None:
        truth, held, true = self.listener.truth, self.listener.sink.held, self.engine.held
        reasons = {reason.name for reason in truth.reasons}
        if truth.state in ("EXACT", "PARTIAL"):
            assert held <= true, f"{truth.state} holds {held - true} too much, in quiet"
        if truth.state == "EXACT":
            assert held == true, f"EXACT lacks {true - held}, in quiet"
        if self.has_replay:
            if self.publisher.next_seq and self.publisher.keeps_all:
                assert truth.state == "EXACT", (
                    f"{truth.state} because of {reasons}, though all can be asked for"
                )
            fit = {"missed", "never_heard"} | ({"lost"} if self.has_holes else set())
        else:
            fit = {"missed", "never_heard", "lost", "silent", "lost_contact"}
        assert reasons <= fit, f"{reasons - fit} do not fit"


def tell(seed: int, story: Story) -> None:
    world = ToyWorld(seed)
    for name, number in story:
        getattr(world, name)(number)
        world.check()
    world.end()
