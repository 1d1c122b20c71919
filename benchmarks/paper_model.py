"""What report.py writes into docs/scaling.md: measured growth, and arithmetic for 1 000 pods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from results import Result, number

Results = Mapping[str, Result]
PODS, BLOCKS_OF_A_POD, SHARDS, PODS_EACH = 1000, 100_000, 16, 16
ROUTERS = 100
"""Processes that read, beside subscribers."""
BLOCKS_PER_S_OF_A_POD = 1250
"""10 000 prompt tokens a second computed: 625 blocks stored, and as many evicted from a full cache."""
BATCHES_PER_S_OF_A_POD = 50
LANES, LANES_LEASED = 65_534, 256
RAY_CALLS_PER_S = 1250
"""That one asyncio actor answers, on the machine of the benchmarks."""
READER_ASKS_EVERY_S = 3.0
RECORD_BYTES, KEY_BYTES = 24, 8
MB = 1e6


def growth_lines(results: Results) -> Iterator[str]:
    """One line a size."""
    columns = ("score", "rate", "visible/p50", "visible/p99", "tables", "processes", "view", "part")
    yield (
        "| shards x pods | client.score, us | M blocks/s | publish to score p50, ms | p99, ms | tables, MiB"
        " | private memory of all actors, MiB | whole view, bytes | largest part, bytes |"
    )
    yield "|---|" + "--:|" * len(columns)
    sizes = dict.fromkeys(
        row.split("/")[1] for row in results if row.startswith("growth/") and row.endswith("/score")
    )
    for size in sizes:
        shards, _, pods = size.partition("x")
        cells = [number(results[f"growth/{size}/{column}"].median) for column in columns]
        yield f"| {shards} x {pods} | " + " | ".join(cells) + " |"


def model_lines(results: Results) -> Iterator[str]:
    """A table: what, how it is computed, what comes out. Raises KeyError for what was not measured."""
    yield f"| {PODS} pods, {BLOCKS_OF_A_POD} blocks each, {SHARDS} shards | arithmetic | comes to |"
    yield "|---|---|--:|"
    for part in (_memory, _numbers, _events, _views, _recovery):
        for line in part(results):
            yield "| " + " | ".join(line) + " |"


Line = tuple[str, str, str]
SUBSCRIBERS = -(-PODS // PODS_EACH)
PAIRS = PODS * BLOCKS_OF_A_POD


def _memory(results: Results) -> Iterator[Line]:
    table = results["memory/table/distinct-block/64/counted"].median
    mirror = results["memory/mirrors/pair/64/counted"].median
    base = results["actors/subscriber/idle/uss"].median
    tables_mb = PAIRS * table / MB
    yield (
        "tables, nothing shared between pods",
        f"{PAIRS / MB:.0f} M blocks x {table:.1f} bytes",
        f"{tables_mb / 1e3:.1f} GB",
    )
    yield (
        "table of a shard; twice that for a moment when it grows",
        f"{tables_mb / 1e3:.1f} GB / {SHARDS}",
        f"{tables_mb / SHARDS:.0f} MB",
    )
    each_mb = PODS_EACH * BLOCKS_OF_A_POD * mirror / MB
    yield (
        "mirrors of a subscriber",
        f"{PODS_EACH} pods x {BLOCKS_OF_A_POD} x {mirror:.1f} bytes",
        f"{each_mb:.0f} MB",
    )
    yield (
        "all subscribers",
        f"{SUBSCRIBERS} x ({each_mb:.0f} MB + {base:.0f} MiB of an idle one)",
        f"{SUBSCRIBERS * (each_mb + base * 1.049) / 1e3:.1f} GB",
    )


def _numbers(_: Results) -> Iterator[Line]:
    leased = SUBSCRIBERS * LANES_LEASED
    yield (
        "lanes leased, one KV-cache group a model",
        f"{SUBSCRIBERS} subscribers x {LANES_LEASED}",
        f"{leased} of {LANES}",
    )
    yield (
        "restarts of all subscribers before lanes are short, within the 60 s that lanes rest",
        f"{LANES} / {leased} - 1",
        f"{LANES / leased - 1:.1f}",
    )


def _events(results: Results) -> Iterator[Line]:
    blocks = PODS * BLOCKS_PER_S_OF_A_POD
    core = results["subscriber/16"].median * 1e6
    ask_us = results["links/hello/socket"].median
    yield (
        "changes",
        f"{PODS} pods x {BLOCKS_PER_S_OF_A_POD} blocks/s, {BATCHES_PER_S_OF_A_POD} batches/s",
        f"{blocks / 1e6:.2f} M blocks/s, {PODS * BATCHES_PER_S_OF_A_POD} batches/s",
    )
    yield (
        "cores of a subscriber",
        f"{blocks / SUBSCRIBERS:.0f} blocks/s / {core / 1e6:.2f} M/s",
        f"{blocks / SUBSCRIBERS / core:.3f}",
    )
    asked = 1e6 / ask_us
    yield (
        "messages that a shard answers, one at a time",
        f"1 s / {ask_us:.0f} us",
        f"{asked:.0f} /s",
    )
    yield (
        "so a subscriber's changes gather before they leave, at the most",
        f"{SUBSCRIBERS} subscribers / {asked:.0f} /s",
        f"{SUBSCRIBERS / asked * 1e3:.0f} ms",
    )
    of_a_record = BLOCKS_PER_S_OF_A_POD / BATCHES_PER_S_OF_A_POD / 2
    wire = blocks * (KEY_BYTES + RECORD_BYTES / of_a_record) / MB
    yield (
        f"bytes to all shards, records of {of_a_record:g} blocks",
        f"{blocks / 1e6:.2f} M/s x ({KEY_BYTES} + {RECORD_BYTES} / {of_a_record:g})",
        f"{wire:.0f} MB/s",
    )


def _views(results: Results) -> Iterator[Line]:
    part = results["growth/4x16/part"].median
    whole, few = results["growth/8x16/view"].median, results["growth/4x16/view"].median
    layout = (whole - few) / 4 * SHARDS
    readers = ROUTERS + SUBSCRIBERS
    yield (
        "a reader's first view",
        f"{SUBSCRIBERS} parts x {part:.0f} bytes + {SHARDS} shards x {layout / SHARDS:.0f}",
        f"{(SUBSCRIBERS * part + layout) / 1e3:.0f} kB",
    )
    change = part + layout
    yield (
        "one change, to one reader",
        f"a part {part:.0f} + the layout {layout:.0f} bytes",
        f"{change / 1e3:.1f} kB",
    )
    yield (
        f"one change, to {ROUTERS} routers and {SUBSCRIBERS} subscribers",
        f"{readers} x {change / 1e3:.1f} kB",
        f"{readers * change / MB:.2f} MB",
    )
    quiet = SHARDS + SUBSCRIBERS + readers / READER_ASKS_EVERY_S
    yield (
        "calls to the directory, nothing changes",
        f"{SHARDS} + {SUBSCRIBERS} reports/s + {readers} readers / {READER_ASKS_EVERY_S:.0f} s",
        f"{quiet:.0f} /s of {RAY_CALLS_PER_S}",
    )
    yield (
        "views a second that all readers can be sent",
        f"({RAY_CALLS_PER_S} - {SHARDS + SUBSCRIBERS}) / {readers}",
        f"{(RAY_CALLS_PER_S - SHARDS - SUBSCRIBERS) / readers:.0f} /s of 20",
    )


def _recovery(results: Results) -> Iterator[Line]:
    heal, reshard = results["heal/kill/up"].median, results["heal/reshard/up"].median
    apply = results["links/delta16384"].median * 1e6
    own = PODS_EACH * BLOCKS_OF_A_POD / 1e6
    for what, s in (("a shard is killed", heal), ("another number of shards", reshard)):
        yield (
            f"{what}: each subscriber goes through its mirrors, all at once",
            f"{own:.1f} M blocks x {s:.2f} s measured for 1 M by one",
            f"{own * s:.1f} s",
        )
    yield (
        "the shard takes its content in",
        f"{PAIRS / SHARDS / 1e6:.2f} M blocks / {apply / 1e6:.0f} M/s",
        f"{PAIRS / SHARDS / apply:.1f} s",
    )
    load = results["checkpoint/load"].median
    late = results["recovery/late join"].median / 1e6
    yield (
        "a subscriber is lost: its checkpoint",
        f"{own:.1f} M blocks x {load:.2f} s a million",
        f"{own * load:.1f} s",
    )
    yield (
        "or, without one, every pod's replay, on one core",
        f"{PODS_EACH} x {late:.2f} s",
        f"{PODS_EACH * late:.1f} s",
    )
