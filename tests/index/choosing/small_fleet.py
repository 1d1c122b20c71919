"""A chooser over an atlas of a few pods, a clock that a test sets, and what the pods are said to hold."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvatlas import Atlas, AtlasConfig
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.receipts.receipt import CandidateAccount, Receipt
from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.prompts import Tokenizing
from tests.ingest.plain_batches import batch, stored

BLOCK = 16
CONFIG = ChoosingConfig(tier_costs={"cpu": 0.0, "disk": 0.0, "storage": 0.0})


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def prompt(blocks: int, family: int = 0) -> list[int]:
    """Prompts of one family share their first blocks, and have one more token."""
    return [1 + family * 1_000_000 + i for i in range(blocks * BLOCK)] + [7]


class SmallFleet:
    """Pods, their atlas and a chooser. Use as a context."""

    def __init__(
        self,
        pods: Iterable[str] = ("a", "b", "c"),
        config: ChoosingConfig = CONFIG,
        *,
        model: str = "m",
        tokenizers: Tokenizing | None = None,
    ) -> None:
        self.clock = Clock()
        self.atlas = Atlas(AtlasConfig(hash_seed="s"), clock_s=self.clock)
        self.chooser = Chooser(self.atlas, config, tokenizers=tokenizers, clock_s=self.clock)
        self._numbers: dict[tuple[str, int], int] = {}
        for pod in pods:
            self.serve(pod, model)

    def serve(
        self,
        pod: str,
        model: str = "m",
        serving: Serving | None = None,
        *,
        labels: dict[str, str] | None = None,
        speaks: bool = True,
    ) -> None:
        """A pod can be chosen; one that speaks is EXACT from now on."""
        told = ServingPod(pod=pod, model=model, serving=serving or Serving(), labels=labels or {})
        self.atlas.set_serving(pod, told)
        for rank in range(told.serving.ranks if speaks else 0):
            self.hold(pod, 1, family=900, model=model, rank=rank)

    def hold(self, pod: str, blocks: int, family: int = 0, *, model: str = "m", rank: int = 0) -> None:
        """A worker says that it holds so many blocks of a family."""
        tokens = prompt(blocks, family)[:-1]
        names = [family * 10_000 + i for i in range(1, blocks + 1)]
        self.say(pod, stored(names, tokens), model=model, rank=rank)

    def say(self, pod: str, *events: object, model: str = "m", rank: int = 0, lost: int = 0) -> None:
        """A batch of events, after some that were lost."""
        number = self._numbers.get((pod, rank), 0) + lost
        self._numbers[pod, rank] = number + 1
        self.atlas.ingest(f"kv@{pod}@{model}".encode(), number, batch(*events, rank=rank))

    def receipt(self, request_id: str) -> Receipt:
        """As JSON would carry it."""
        raw = msgspec.json.encode(self.chooser.receipt(request_id))
        return msgspec.json.decode(raw, type=Receipt)

    def account(self, request_id: str, pod: str, rank: int = 0) -> CandidateAccount:
        receipt = self.receipt(request_id)
        return next(c for c in receipt.candidates if (c.pod, c.rank) == (pod, rank))

    def load(self, pod: str, rank: int = 0) -> tuple[float, float, int]:
        """Tokens to prefill, tokens held while decoding, requests: what this chooser has sent there."""
        slots, prefill, decode, requests = self.chooser.loads.own()
        slot = self.chooser.loads.slot(pod, rank)
        for at, found in enumerate(slots.tolist()):
            if found == slot:
                return float(prefill[at]), float(decode[at]), int(requests[at])
        return 0.0, 0.0, 0

    def __enter__(self) -> SmallFleet:
        return self

    def __exit__(self, *exception: object) -> None:
        self.atlas.close()
