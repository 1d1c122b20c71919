"""Which replay requests are in flight, which wait, and the way of the answers into their feeds."""

from __future__ import annotations

from collections import deque

from kvatlas.index.errors import KvatlasError
from kvatlas.ingest.sockets.batch_sink import ReplayWanted
from kvatlas.ingest.sockets.replay_answer import Answer
from kvatlas.ingest.sockets.replay_client import ReplayClient
from kvatlas.ingest.sockets.source import Source
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.ingest.sockets.subscriber_statistics import ReplayStatistics

_UNSURE_MAX = 4096


class Asked:
    """A request of a source, from when it is wanted until its answer is applied."""

    def __init__(self, source: Source, wanted: ReplayWanted, answer: Answer) -> None:
        self.source = source
        self.handler = wanted.handler
        self.number = wanted.number
        self.answer = answer

    @property
    def key(self) -> tuple[int, int]:
        """Of the request in its source: the handler is held, so that its id stays its own."""
        return id(self.handler), self.number


class ReplayDesk:
    """At most `replays_at_once` in flight, oldest first; of peers whose last answer failed at most half.

    So a peer that never answers keeps others waiting for a while, not for good. It belongs to the
    receiving thread; `statistics` from any.
    """

    def __init__(self, client: ReplayClient, limits: SubscriberConfig) -> None:
        self._client = client
        self._limits = limits
        self._unsure_at_once = max(1, limits.replays_at_once // 2)
        self._queue: deque[Asked] = deque()
        self._in_flight: list[Asked] = []
        self._unsure: set[str] = set()
        self._n_asked = self._n_complete = self._n_failed = self._n_obsolete = 0
        self._n_replies = self._n_bad = self._n_cut = 0

    def look(self, source: Source) -> None:
        """Bring what is asked in line with what the source's feed wants."""
        wanted = {(id(one.handler), one.number): one for one in source.feed.requests()}
        asked = source.asked
        if not wanted and not asked:
            return
        for key in [key for key in asked if key not in wanted]:
            self._drop(asked.pop(key))
        for key in wanted.keys() - asked.keys():
            self._enqueue(source, wanted[key])
        self._send()

    def forget(self, source: Source) -> None:
        """The source is gone."""
        for asked in source.asked.values():
            self._drop(asked)
        source.asked.clear()
        self._send()

    def deliver(self) -> bool:
        """Hand on a burst of each answer; whether there may be more."""
        waits = False
        for asked in self._in_flight.copy():
            if asked in self._in_flight:  # else what came for another one has made it obsolete
                ended = self._hand_on(asked)
                if ended:
                    self._end(asked)
                self.look(asked.source)
                waits |= not ended and len(asked.answer) > 0 and not asked.answer.is_dropped
        self._send()
        return waits

    def statistics(self) -> ReplayStatistics:
        return ReplayStatistics(
            asked=self._n_asked,
            complete=self._n_complete,
            failed=self._n_failed,
            obsolete=self._n_obsolete,
            replies=self._n_replies,
            bad_replies=self._n_bad,
            cut=self._n_cut,
            in_flight=len(self._in_flight),
            queued=len(self._queue),
            waiting_bytes=self._client.waiting_bytes,
        )

    def _enqueue(self, source: Source, wanted: ReplayWanted) -> None:
        handler, config = wanted.handler, source.config
        try:
            endpoint = config.replay_endpoint_of(handler.pod, handler.rank)
        except KvatlasError as error:
            self._n_failed += 1
            source.complain("replay", str(error))
            handler.failed(wanted.number, str(error))
            return
        curve = config.curve if config.curve is not None and config.curve.server_key else None
        asked = Asked(source, wanted, Answer(endpoint, wanted.start, curve))
        source.asked[asked.key] = asked
        self._queue.append(asked)

    def _send(self) -> None:
        while self._queue and len(self._in_flight) < self._limits.replays_at_once:
            n_unsure = sum(asked.answer.endpoint in self._unsure for asked in self._in_flight)
            may_be_unsure = n_unsure < self._unsure_at_once
            ready = (one for one in self._queue if may_be_unsure or one.answer.endpoint not in self._unsure)
            asked = next(ready, None)
            if asked is None:
                return
            self._queue.remove(asked)
            self._in_flight.append(asked)
            self._n_asked += 1
            asked.handler.began(asked.number)
            self._client.ask(asked.answer)

    def _drop(self, asked: Asked) -> None:
        self._n_obsolete += 1
        if asked in self._in_flight:
            self._in_flight.remove(asked)
            if not asked.answer.is_ended:
                self._note(asked.answer.endpoint, is_sure=len(asked.answer) > 0)
        else:
            self._queue.remove(asked)
        self._client.drop(asked.answer)

    def _hand_on(self, asked: Asked) -> bool:
        """A burst of the answer; whether that was all of it."""
        answer, bytes_left = asked.answer, self._limits.burst_bytes
        for _ in range(self._limits.burst_messages):
            ended = answer.is_ended  # looked at before: what is put comes before the end
            reply = answer.take()
            if reply is None:
                return ended
            self._n_replies += 1
            try:
                asked.handler.replayed(asked.number, *reply)
            except KvatlasError as error:
                asked.source.complain("reply", f"a replayed batch is refused: {error}")
            bytes_left -= len(reply.payload)
            if bytes_left <= 0:
                break
        return False

    def _end(self, asked: Asked) -> None:
        answer = asked.answer
        self._in_flight.remove(asked)
        del asked.source.asked[asked.key]
        self._note(answer.endpoint, is_sure=answer.is_complete)
        if answer.is_complete:
            self._n_complete += 1
            asked.handler.ended(asked.number)
            return
        self._n_failed += 1
        self._n_bad += answer.was_bad
        self._n_cut += answer.was_cut
        asked.source.complain("replay", answer.why)
        asked.handler.failed(asked.number, answer.why)

    def _note(self, endpoint: str, *, is_sure: bool) -> None:
        """How the last answer from there went."""
        if is_sure:
            self._unsure.discard(endpoint)
        elif len(self._unsure) < _UNSURE_MAX:
            self._unsure.add(endpoint)
