"""Reads a cluster: token ids in, scores out, over the tables of its shards wherever they lie.

Looks blocks up in shared memory where a shard lies on this node, which costs no call; other shards
are asked, one message for all requests that wait. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from kvatlas.actors.orders import ReaderSecrets, RouterAt
from kvatlas.actors.reading.fetcher import Fetched
from kvatlas.actors.reading.follow import FetchView
from kvatlas.actors.reading.reader_status import ReaderStatus
from kvatlas.actors.reading.reading_state import Now, ReadingState
from kvatlas.actors.reading.replicas import OpenLink, Replicas
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.actors.reading.shard_sources import TablesIndex
from kvatlas.index.choosing.looking import Look
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.errors import TableFileError
from kvatlas.index.fleet_view import FleetView
from kvatlas.index.keys import TokenIds
from kvatlas.index.reading import Asked, AskedExplanation, AskedMany, PromptReader, Question, match
from kvatlas.index.scores import Explanation, Scores
from kvatlas.index.scores_batch import ScoresBatch
from kvatlas.index.shards import Matches
from kvatlas.index.view import WorkerView

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
_LOOKS_MAX = 4
_FIRST_VIEW_S = 10.0


class ClusterReader:
    """Answers from a cluster's shards. Any thread may call any method; a call before the first view
    waits for it.

    A shard that is missing, or not whole yet, counts as far as it has something: the scores are sound,
    and say so (`Scores.is_whole`). While the directory cannot be asked, answers go on; when its last
    word is older than `view_s_max`, every worker is DEGRADED.
    """

    def __init__(
        self,
        fetch_view: FetchView,
        secrets: ReaderSecrets,
        *,
        node_id: str,
        open_link: OpenLink | None = None,
        settings: ReaderSettings | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`node_id`: of the own node; tables there are looked at. `open_link`: how others are asked."""
        self.tokenizer_settings = secrets.tokenizer
        """msgpack of TokenizerSettings, as the directory has given them out."""
        self.secrets = secrets
        self._clock_s = clock_s
        settings = settings or ReaderSettings()
        replicas = Replicas(node_id, open_link, settings)
        self._state = ReadingState(fetch_view, secrets, replicas, settings, clock_s)

    def score(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Scores:
        """As `kvatlas.Atlas.score`."""
        now = self._state.now or self._first()
        question = now.reader.question(token_ids, **asked)
        matches, reader = self._look(now, [question], lambda index: match(index, question))
        return reader.scores(question, matches)

    def score_many(self, prompts: Sequence[TokenIds] | TokenIds, **asked: Unpack[AskedMany]) -> ScoresBatch:
        """As `kvatlas.Atlas.score_many`; all that must be asked for is asked at once."""
        now = self._state.now or self._first()
        questions = now.reader.questions(prompts, **asked)
        found, reader = self._look(now, questions, lambda index: [match(index, asked) for asked in questions])
        return reader.scores_batch(questions, found)

    def explain(self, token_ids: TokenIds, **asked: Unpack[AskedExplanation]) -> Explanation:
        """As `kvatlas.Atlas.explain`."""
        now = self._state.now or self._first()
        question, pods = _to_explain(now, token_ids, asked)
        (held, matches), reader = self._look(
            now, [question], lambda index: (index.lookup(question.keys), match(index, question))
        )
        return reader.explanation(asked["model"], question, pods, held, matches)

    def look(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Look:
        """A prompt's matches and the workers of that moment; as `score`, without what it is worth."""
        now = self._state.now or self._first()
        question = now.reader.question(token_ids, **asked)
        matches, reader = self._look(now, [question], lambda index: match(index, question))
        return self._looked(question, matches, reader)

    def question(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Question:
        """The prompt as keys; its block size is 0 where no server has announced the model."""
        return (self._state.now or self._first()).reader.question(token_ids, **asked)

    # The same for event loops.

    async def score_async(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Scores:
        """As `score`: what must be asked for is awaited, what lies in shared memory answers at once."""
        now = self._state.now or await self._first_async()
        question = now.reader.question(token_ids, **asked)
        matches, reader = await self._look_async(now, [question], lambda index: match(index, question))
        return reader.scores(question, matches)

    async def score_many_async(
        self, prompts: Sequence[TokenIds] | TokenIds, **asked: Unpack[AskedMany]
    ) -> ScoresBatch:
        """As `score_many`. It holds the event loop for the time of the matches, some 10 us each."""
        now = self._state.now or await self._first_async()
        questions = now.reader.questions(prompts, **asked)
        found, reader = await self._look_async(
            now, questions, lambda index: [match(index, asked) for asked in questions]
        )
        return reader.scores_batch(questions, found)

    async def explain_async(self, token_ids: TokenIds, **asked: Unpack[AskedExplanation]) -> Explanation:
        """As `explain`."""
        now = self._state.now or await self._first_async()
        question, pods = _to_explain(now, token_ids, asked)
        (held, matches), reader = await self._look_async(
            now, [question], lambda index: (index.lookup(question.keys), match(index, question))
        )
        return reader.explanation(asked["model"], question, pods, held, matches)

    async def look_async(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Look:
        """As `look`."""
        now = self._state.now or await self._first_async()
        question = now.reader.question(token_ids, **asked)
        matches, reader = await self._look_async(now, [question], lambda index: match(index, question))
        return self._looked(question, matches, reader)

    # What it knows.

    def pods(self) -> tuple[WorkerView, ...]:
        """Every worker of the cluster, by pod and rank."""
        now = self._state.now or self._first()
        views = self._believed(now).fleet.workers()
        return tuple(sorted(views, key=lambda view: (view.pod, view.rank, view.model)))

    def serving_pods(self) -> Mapping[str, ServingPod]:
        """Pods that discovery has described, and those whose events are heard. Do not change it."""
        return (self._state.now or self._first()).serving

    @property
    def serving_version(self) -> Hashable:
        """Equal ones mean that `serving_pods` says the same."""
        return (self._state.now or self._first()).serving_version

    @property
    def known_pods(self) -> Collection[str]:
        """Those of `serving_pods`, without waiting for a first view."""
        now = self._state.now
        return () if now is None else now.serving

    @property
    def routers(self) -> tuple[RouterAt, ...]:
        """Processes that choose and publish their loads, as far as is known."""
        return self._state.routers

    def subscriber_of(self, pod: str) -> str | None:
        """Name of the subscriber that follows a pod; None: nobody, as far as is known."""
        now = self._state.now
        return None if now is None else now.subscribers.get(pod)

    @property
    def tokenizers(self) -> tuple[int, ...]:
        """Numbers of the tokenizers that can be asked."""
        if self._state.now is None:
            self._first()
        return self._state.tokenizers

    def status(self) -> ReaderStatus:
        """How this process reads the cluster now."""
        return self._state.status()

    def wait_ready(self, timeout_s: float) -> None:
        """Wait for the first view. Raises ClusterError when none comes in time."""
        self._state.wait_ready(timeout_s)

    @property
    def is_superseded(self) -> bool:
        """The cluster was started anew under its name: nothing is read any more, make another reader."""
        return self._state.is_superseded

    def close(self) -> None:
        """Let go of tables and links. Twice is fine; later reads raise ClusterError."""
        self._state.close()

    # Looking.

    def _first(self) -> Now:
        return self._state.wait_ready(_FIRST_VIEW_S)

    async def _first_async(self) -> Now:
        return await asyncio.get_running_loop().run_in_executor(None, self._first)

    def _look(
        self, now: Now, questions: Sequence[Question], look: Callable[[TablesIndex], T]
    ) -> tuple[T, PromptReader[FleetView]]:
        """What is seen in the shards, and who says what it is worth."""
        for left in reversed(range(_LOOKS_MAX)):
            index = now.tables
            if now.sources.asked:
                asked = now.sources.ask([question.keys for question in questions])
                answers = {shard: answer.result() for shard, answer in asked.items()}
                if left and self._is_outdated(now, answers):
                    now = self._state.now or now
                    continue
                index = index.with_fetched(answers)
            try:
                return look(index), self._seen(now, index)
            except TableFileError:  # its writer is gone
                now = self._without_stale(now)
        return look(now.tables.of_nothing()), self._believed(now)

    async def _look_async(
        self, now: Now, questions: Sequence[Question], look: Callable[[TablesIndex], T]
    ) -> tuple[T, PromptReader[FleetView]]:
        for left in reversed(range(_LOOKS_MAX)):
            index = now.tables
            if now.sources.asked:
                asked = now.sources.ask([question.keys for question in questions])
                answers = await _results(asked)
                if left and self._is_outdated(now, answers):
                    now = self._state.now or now
                    continue
                index = index.with_fetched(answers)
            try:
                return look(index), self._seen(now, index)
            except TableFileError:
                now = self._without_stale(now)
        return look(now.tables.of_nothing()), self._believed(now)

    def _is_outdated(self, now: Now, answers: Mapping[int, Fetched | None]) -> bool:
        """Somebody has not answered who is perhaps not even meant any more."""
        return self._state.now is not now and None in answers.values()

    def _without_stale(self, now: Now) -> Now:
        self._state.replace_stale(now)
        return self._state.now or self._first()

    def _looked(self, question: Question, matches: Matches, reader: PromptReader[FleetView]) -> Look:
        fleet = reader.fleet
        return Look(question, matches, fleet, reader.weights, fleet.version, self._state.age_s)

    def _seen(self, now: Now, index: TablesIndex) -> PromptReader[FleetView]:
        if index is not now.tables:
            index.report_use()
        return self._believed(now)

    def _believed(self, now: Now) -> PromptReader[FleetView]:
        """Asked after looking: the process may have been paused meanwhile."""
        return now.reader if self._clock_s() <= self._state.trusted_until_s else now.distrusted


def _to_explain(now: Now, token_ids: TokenIds, asked: AskedExplanation) -> tuple[Question, set[str] | None]:
    pods = asked.get("pods")
    chosen = None if pods is None else {pods} if isinstance(pods, str) else set(pods)
    again = asked.copy()
    again["pods"] = chosen
    return now.reader.question(token_ids, **again), chosen


async def _results(asked: Mapping[int, Future[Fetched | None]]) -> dict[int, Fetched | None]:
    answers = await asyncio.gather(*(asyncio.wrap_future(answer) for answer in asked.values()))
    return dict(zip(asked, answers, strict=True))
