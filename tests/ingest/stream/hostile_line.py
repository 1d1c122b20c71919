"""A publisher, a feed, and between them a line that does whatever a network does, and worse.

Live batches are lost, doubled, delayed and put out of order; answers of the replay socket are cut,
thinned, doubled and put out of order, or never end; connections break, told or not; the publisher
restarts, also so often that its numbers overtake the old ones while nobody looks.

What it leaves out, because nobody could notice it: the first batch of another incarnation that comes
with the very next number though no reconnect was told, and an answer whose first batch alone is lost.
A TCP connection does neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kvatlas.index.errors import KvatlasError
from tests.models.publisher import Batch, PublisherModel


class Handler(Protocol):
    """Takes the answers to a feed's requests."""

    def began(self, number: int) -> None: ...
    def replayed(self, number: int, topic: bytes | None, seq: int, payload: bytes) -> None: ...
    def ended(self, number: int) -> None: ...
    def failed(self, number: int, why: str) -> None: ...


class Request(Protocol):
    """What a feed wants to be in flight."""

    @property
    def handler(self) -> Handler: ...
    @property
    def number(self) -> int: ...
    @property
    def start(self) -> int: ...


class Door(Protocol):
    """The side of a feed that a subscriber drives."""

    def receive(self, topic: bytes, seq: int, payload: bytes) -> object: ...
    def opened(self) -> None: ...
    def closed(self) -> None: ...
    def tick(self) -> None: ...
    def requests(self) -> Sequence[Request]: ...


class Answer:
    """One request on its way to the replay socket, or its answer on the way back."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.sent = False
        self.batches: list[Batch] | None = None
        """None: the replay socket has not read the request."""
        self.begun = False
        """Its first batch has arrived."""
        self.mute = False
        """Nothing of it will ever come."""


class HostileLine:
    """Every method may be called at any time with any numbers; what does not apply does nothing."""

    def __init__(
        self, publisher: PublisherModel, door: Door, topic: bytes, *, has_replay: bool, reorders: bool
    ) -> None:
        self.publisher = publisher
        self.door = door
        self.topic = topic
        self.has_replay = has_replay
        self.reorders = reorders
        self.flight: list[Batch] = []
        self.answers: list[Answer] = []
        self.late: list[Answer] = []
        self.is_up = False
        self.mixes = False
        """What was on its way when the connection broke may still come when it stands again."""
        self.deaf = False
        """The replay socket does not answer."""
        self.refused = 0
        self._told_closed = False
        self._strict = False  # the publisher has restarted and nobody was told: in order, without loss
        self.checked: Callable[[], None] = lambda: None
        """Called after whatever the feed is told."""

    # The publisher.

    def send(self, batch: Batch) -> None:
        if self.is_up:
            self.flight.append(batch)

    def restart(self, *, told: bool) -> None:
        """`told`: the connection breaks as well, and it may be that nobody is told before it stands again."""
        self.publisher.restart()
        if told or not self.is_up:
            self.break_off(told=True)
        else:
            self._strict = True

    # The connection.

    def break_off(self, *, told: bool) -> None:
        self.is_up = False
        if not self.reorders:
            self.flight.clear()
        if told and not self._told_closed:
            self._told_closed = True
            self._tell(self.door.closed)

    def reopen(self) -> None:
        if self.is_up:
            return
        if not self._told_closed:
            self._tell(self.door.closed)
        self.is_up, self._told_closed, self._strict = True, False, False
        if not self.mixes:
            self.flight.clear()
        self._tell(self.door.opened)

    def move(self, door: Door) -> None:
        """Another listener, which has not connected yet."""
        self.door = door
        self.is_up, self._told_closed, self._strict = False, True, False
        self.flight, self.answers, self.late = [], [], []

    # Live batches.

    def deliver(self, pick: int) -> None:
        if self.flight:
            self._receive(self.flight.pop(self._chosen(pick)))

    def repeat(self, pick: int) -> None:
        if self.flight and (self.reorders and not self._strict):
            self._receive(self.flight[self._chosen(pick)])

    @property
    def is_strict(self) -> bool:
        """The publisher has restarted and nobody was told."""
        return self._strict

    def lose(self, pick: int) -> None:
        if self.flight and not self._strict:
            self.flight.pop(self._chosen(pick))

    def forge(self, seq: int, payload: bytes) -> None:
        """A batch that nobody has published."""
        self._receive(Batch(-1, seq, payload))

    def _chosen(self, pick: int) -> int:
        return pick % len(self.flight) if self.reorders and not self._strict else 0

    def _receive(self, batch: Batch) -> None:
        try:
            self.door.receive(self.topic, batch.seq, batch.payload)
        except KvatlasError:
            self.refused += 1
        if batch.incarnation == self.publisher.incarnation:
            self._strict = False
        self.checked()

    # The replay socket.

    def follow_requests(self) -> None:
        """Send what the feed wants; what it wants no more may still be answered, too late."""
        wanted = {(id(request.handler), request.number): request for request in self.door.requests()}
        for answer in list(self.answers):
            if (id(answer.request.handler), answer.request.number) not in wanted:
                self.answers.remove(answer)
                self.late = [*self.late[-3:], answer]
        known = {(id(answer.request.handler), answer.request.number) for answer in self.answers}
        self.answers += [Answer(request) for key, request in wanted.items() if key not in known]

    def answer_on(self, pick: int, steps: int = 1) -> None:
        """So many steps of one answer: it is sent, read, comes batch by batch, and ends."""
        for _ in range(steps):
            self.follow_requests()
            if self.answers:
                self._step(self.answers[pick % len(self.answers)])

    def answer_late(self, pick: int) -> None:
        if self.late:
            answer = self.late[pick % len(self.late)]
            if answer.sent and answer.batches is None:
                answer.batches = self.publisher.answer(answer.request.start)
            if answer.sent:
                self._hand_over(answer)

    def thin(self, pick: int) -> None:
        """The next batch of an answer is lost, as at a high-water mark: never the first one."""
        self._disturb(pick, lambda batches: batches.pop(0))

    def double(self, pick: int) -> None:
        self._disturb(pick, lambda batches: batches.insert(0, batches[0]))

    def shuffle(self, pick: int) -> None:
        self._disturb(pick, lambda batches: batches.append(batches.pop(0)))

    def cut(self, pick: int) -> None:
        """An answer breaks off, and the feed is told."""
        self.follow_requests()
        if self.answers:
            answer = self.answers.pop(pick % len(self.answers))
            self._tell(lambda: answer.request.handler.failed(answer.request.number, "cut"))

    def lose_end(self, pick: int) -> None:
        """Nothing more comes of an answer, and nobody is told."""
        if self.answers:
            self.answers[pick % len(self.answers)].mute = True

    def _disturb(self, pick: int, change: Callable[[list[Batch]], object]) -> None:
        begun = [answer for answer in self.answers if answer.begun and answer.batches]
        if begun:
            batches = begun[pick % len(begun)].batches
            assert batches is not None
            change(batches)

    def _step(self, answer: Answer) -> None:
        if not answer.sent:
            answer.sent = True
            self._tell(lambda: answer.request.handler.began(answer.request.number))
        elif self.deaf or answer.mute:
            return
        elif answer.batches is None:
            answer.batches = self.publisher.answer(answer.request.start)
        else:
            self._hand_over(answer)

    def _hand_over(self, answer: Answer) -> None:
        handler, number = answer.request.handler, answer.request.number
        if answer.batches:
            batch = answer.batches.pop(0)
            answer.begun = True
            self._tell(lambda: handler.replayed(number, self.topic, batch.seq, batch.payload))
            return
        if answer in self.answers:
            self.answers.remove(answer)
        self._tell(lambda: handler.ended(number))

    def _tell(self, what: Callable[[], object]) -> None:
        what()
        self.checked()

    # The end.

    def heal(self) -> None:
        """Whatever is on its way arrives, and nothing more goes wrong."""
        self.deaf = False
        for answer in self.answers:
            answer.mute = False
        self.reopen()
        while self.flight:
            self.deliver(0)

    def run_answers(self, steps_max: int = 10_000) -> None:
        """Answer all that is asked now, and what is asked because of the answers."""
        for _ in range(steps_max):
            self.follow_requests()
            if not self.answers:
                return
            self._step(self.answers[0])
        raise AssertionError(f"still asking after {steps_max} steps: {[a.request for a in self.answers]}")
