"""A tokenizer: token ids, block keys and scores of texts and chats, for clients that have none themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import Any

import ray
from ray.exceptions import RayError

from kvatlas.actors.orders import TokenizerOrders, TokenizerReport, decode, encode
from kvatlas.actors.reading.connection import DirectoryCalls, connection_to
from kvatlas.actors.tokenizer.figures import TokenizerFigures
from kvatlas.actors.tokenizer.parcels import (
    Packed,
    PackedPrompt,
    PackedText,
    bytes_of,
    model_of,
    pack_answer,
    unpack,
)
from kvatlas.actors.tokenizer.settings import TokenizerSettings
from kvatlas.index.reading import Asked, AskedExplanation
from kvatlas.index.scores import Explanation, Scores
from kvatlas.tokenize.pool.bounded_work import BoundedWork, WorkStatistics
from kvatlas.tokenize.pool.prompt_service import PromptService
from kvatlas.tokenize.tokenizers import Tokenizers

_DRAIN_S_MAX = 2.5
"""Less than the directory waits before it ends what it does not want."""
_LOOK_S = 0.02

_log = logging.getLogger(__name__)


class _TokenizerActor:
    """Holds tokenizers and a reader. Calls wait in a bounded queue for its threads; the event loop only
    passes them on, so that ping, reports and refusals never wait.

    It keeps nothing: a restarted one learns the memo again. Texts are str, chats bytes of `Chat` in
    msgpack. `may_spill`: the caller has another tokenizer to go to. All calls but `ping` and
    `statistics` raise OverloadedError at once when the queue is full.
    """

    async def __init__(self, cluster: str, number: int, settings: bytes) -> None:  # type: ignore[misc]
        """`settings`: msgpack of TokenizerSettings."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        self._settings = decode(settings, TokenizerSettings)
        self._number = number
        self._calls = DirectoryCalls(cluster)
        self._connection = connection_to(cluster, self._settings.reading)
        self._tokenizers = Tokenizers(self._settings.tokenize)
        self._service = PromptService(self._tokenizers, self._connection.reader)
        self._work = BoundedWork(self._settings.work, name=f"tokenizer {number}")
        context = ray.get_runtime_context()
        self._node_id = context.get_node_id()
        self._itself = context.current_actor
        self._reports_lost = 0
        self._reporting = asyncio.create_task(self._report())

    async def encode(
        self, text: str, model: str, add_special_tokens: bool = True, *, may_spill: bool = False
    ) -> PackedPrompt:
        """Ids of a plain completion."""
        answer: PackedPrompt = await self._do("encode", text, may_spill, model, add_special_tokens)
        return answer

    async def encode_many(
        self, texts: list[str], model: str, add_special_tokens: bool = True, *, may_spill: bool = False
    ) -> list[PackedPrompt]:
        """Ids of many plain completions."""
        answer: list[PackedPrompt] = await self._do(
            "encode_many", texts, may_spill, model, add_special_tokens
        )
        return answer

    async def tokenize(self, text: PackedText, model: str, *, may_spill: bool = False) -> PackedPrompt:
        """Ids of a completion or a chat completion."""
        answer: PackedPrompt = await self._do("tokenize", text, may_spill, model)
        return answer

    async def block_keys(self, text: PackedText, asked: Asked, *, may_spill: bool = False) -> bytes:
        """Keys of its full blocks, uint64: the ids do not travel."""
        answer: bytes = await self._do("block_keys", text, may_spill, asked)
        return answer

    async def score(self, text: PackedText, asked: Asked, *, may_spill: bool = False) -> Scores:
        """As `kvatlas.Atlas.score`."""
        answer: Scores = await self._do("score", text, may_spill, asked)
        return answer

    async def explain(
        self, text: PackedText, asked: AskedExplanation, *, may_spill: bool = False
    ) -> Explanation:
        """As `kvatlas.Atlas.explain`."""
        answer: Explanation = await self._do("explain", text, may_spill, asked)
        return answer

    async def statistics(self) -> bytes:
        """msgpack of TokenizerFigures."""
        tokenizers = await asyncio.to_thread(self._tokenizers.statistics)
        return encode(TokenizerFigures(work=self._work.statistics(), tokenizers=tokenizers))

    async def ping(self) -> int:
        """Its process id."""
        return os.getpid()

    async def _do(self, method: str, text: Packed, may_spill: bool, *arguments: Any) -> Any:
        call = getattr(self._service, method)
        piece = self._work.submit(
            lambda: pack_answer(method, call(unpack(text), *arguments)),
            bytes_of(text),
            is_slow=not self._tokenizers.is_at_hand(model_of(arguments)),
            may_spill=may_spill,
        )
        return await asyncio.wrap_future(piece)

    # What it tells the directory.

    async def _report(self) -> None:
        """Once a second; ends the actor when the directory says so, or is gone with an owned cluster."""
        told, told_s = self._work.statistics(), time.monotonic()
        heard_s = told_s
        while True:
            now, now_s = self._work.statistics(), time.monotonic()
            report = self._report_of(told, now, now_s - told_s)
            told, told_s = now, now_s
            try:
                orders = decode(await self._calls.call_async("report_tokenizer", report), TokenizerOrders)
            except Exception as error:  # of Ray too, which has many kinds: the next report tries again
                _log.warning("tokenizer %d: not reported: %s", self._number, error)
                self._reports_lost += 1
                if not self._calls.is_gone():
                    heard_s = now_s
                if self._settings.owned and now_s - heard_s > self._settings.directory_gone_s_max:
                    return await self._end("its cluster is gone")
            else:
                heard_s = now_s
                if orders.goes:
                    return await self._end("it is not wanted any more")
            await asyncio.sleep(self._settings.report_s)

    def _report_of(self, told: WorkStatistics, now: WorkStatistics, passed_s: float) -> bytes:
        busy_s = now.busy_s - told.busy_s
        tokenizers = self._tokenizers.statistics()
        return encode(
            TokenizerReport(
                number=self._number,
                process=os.getpid(),
                node_id=self._node_id,
                threads=now.threads,
                waiting=now.waiting,
                busy_share=min(1.0, busy_s / (now.threads * passed_s)) if passed_s else 0.0,
                refused=now.counts.get("refused", 0) - told.counts.get("refused", 0),
                bytes=now.bytes,
                models=len(tokenizers.loaded),
                counts={**now.counts, "reports_lost": self._reports_lost},
            )
        )

    async def _end(self, why: str) -> None:
        """For good, when what waits is answered; clients have been sent elsewhere meanwhile."""
        _log.warning("tokenizer %d ends: %s", self._number, why)
        deadline_s = time.monotonic() + _DRAIN_S_MAX
        while not self._work.is_idle and time.monotonic() < deadline_s:
            await asyncio.sleep(_LOOK_S)
        self._work.close()
        with contextlib.suppress(RayError):
            ray.kill(self._itself, no_restart=True)


TokenizerActor = ray.remote(_TokenizerActor)
