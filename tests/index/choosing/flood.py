"""Floods one chooser in a process of its own, and prints by how many bytes that has grown."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable

from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import KvatlasError
from tests.index.choosing.small_fleet import SmallFleet, prompt

CONFIG = ChoosingConfig(
    receipts_max=500,
    receipts_bytes_max=2 << 20,
    sessions_max=500,
    reservations_max=500,
    speculative_blocks_max=2000,
    history_blocks_max=2000,
)


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096


def receipts(fleet: SmallFleet, n: int) -> None:
    near = {f"{i}-{n}" + "x" * 400: "y" * 500 for i in range(60)}
    fleet.chooser.choose(
        prompt(2, n % 4000), model="m", request_id=f"{n}", near=near, cache_salt=f"{n}" * 500
    )
    fleet.chooser.completed(f"{n}")


def sessions(fleet: SmallFleet, n: int) -> None:
    fleet.chooser.choose(prompt(1), model="m", request_id="r", session=f"{n}" + "☃" * 4000)
    fleet.chooser.completed("r")


def history(fleet: SmallFleet, n: int) -> None:
    fleet.chooser.choose(prompt(200, n % 4000), model="blind", request_id="r")
    fleet.chooser.failed("r") if n % 3 == 0 else fleet.chooser.completed("r")


def abandoned(fleet: SmallFleet, n: int) -> None:
    fleet.chooser.choose(prompt(2), model="m", request_id=f"{n}" + "x" * 4000, reserve=bool(n % 2))


def refused(fleet: SmallFleet, n: int) -> None:
    with contextlib.suppress(KvatlasError):
        fleet.chooser.choose(prompt(1), model="m", labels={"z": f"{n}" + "x" * 500})
    with contextlib.suppress(KvatlasError):
        fleet.chooser.choose(prompt(1), model="m", pods=[f"{n}-{i}" for i in range(200)])


def models(fleet: SmallFleet, n: int) -> None:
    for model, lora in ((f"{n}" + "x" * 4000, None), ("m", f"{n}" + "x" * 4000)):
        try:
            fleet.chooser.choose(prompt(4), model=model, lora=lora, cache_salt=f"{n}", request_id="r")
        except KvatlasError:
            continue
        fleet.chooser.completed("r")


def multimodal(fleet: SmallFleet, n: int) -> None:
    features = [(f"{n}-{i}" + "x" * 1000, i, 1) for i in range(100)]
    fleet.chooser.choose(prompt(8), model="m", request_id=f"{n}", features=features)
    fleet.chooser.completed(f"{n}")


def late(fleet: SmallFleet, n: int) -> None:
    for _ in range(20):
        fleet.chooser.completed(f"{n}" + "x" * 10_000)
        fleet.chooser.routed(f"{n}", f"{n}")


def pods(fleet: SmallFleet, n: int) -> None:
    fleet.serve(f"pod{n}", speaks=False)
    fleet.chooser.choose(prompt(2), model="m", pods=[f"pod{n}"])
    fleet.atlas.set_serving(f"pod{n}", None)
    fleet.clock.now_s += 2
    fleet.chooser.tidy()


KINDS: dict[str, tuple[Callable[[SmallFleet, int], None], int]] = {
    "receipts": (receipts, 1500),
    "sessions": (sessions, 4000),
    "history": (history, 1500),
    "abandoned": (abandoned, 4000),
    "refused": (refused, 2000),
    "models": (models, 3000),
    "multimodal": (multimodal, 1500),
    "late": (late, 2000),
    "pods": (pods, 2000),
}


def main(kind: str) -> None:
    flood, times = KINDS[kind]
    with SmallFleet(("a", "b"), CONFIG) as fleet:
        fleet.serve("blind", "blind", speaks=False)
        for n in range(times):
            flood(fleet, n)
        gc.collect()
        before = resident_bytes()
        for n in range(times, 3 * times):
            flood(fleet, n)
        gc.collect()
        print(resident_bytes() - before)


if __name__ == "__main__":
    main(sys.argv[1])
