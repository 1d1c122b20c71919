"""KvatlasRouter in Ray Serve LLM with two real engines, then Ray's own router on the same traffic.

Each deployment takes minutes, so the tests share one and build on each other's order.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e_serve.serve_llm import ServeLlm
from tests.e2e_serve.traffic import Outcome, run_chats

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]

BLOCKS = 128
"""Of each engine; not all chats fit into one of them."""
SEED = 1
TEXT = "which server holds the blocks of this prompt " * 12
TOO_LONG = [{"role": "user", "content": "the " * 9000}]
NO_ROLE = [{"role": "alien", "content": "take me to your leader"}]


@pytest.fixture(scope="module")
def ours(served: ServeLlm) -> tuple[ServeLlm, Outcome]:
    """KvatlasRouter, after the chats."""
    took_s = served.deploy("kvatlas", blocks=BLOCKS, arrival_s_max=2.0)
    print(f"\nkvatlas: deployed in {took_s:.0f} s")
    return served, run_chats(served, SEED)


@pytest.fixture
def server(ours: tuple[ServeLlm, Outcome]) -> ServeLlm:
    return ours[0]


def figures(server: ServeLlm) -> dict[str, Any]:
    (told,) = server.command("statistics")
    found: dict[str, Any] = told
    return found


def until(server: ServeLlm, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The statistics as soon as they are so."""
    deadline_s = time.monotonic() + 30
    while not condition(told := figures(server)):
        assert time.monotonic() < deadline_s, told
        time.sleep(0.05)
    return told


def settled(server: ServeLlm) -> dict[str, Any]:
    """Every request has ended, so its events have come or are about to."""
    return until(server, lambda told: told["open_requests"] == 0)


def test_chats_reuse_their_histories_and_what_is_predicted_is_reused(ours: tuple[ServeLlm, Outcome]) -> None:
    server, outcome = ours
    assert outcome.failed == ()
    told = settled(server)
    assert told["chosen"] == told["completed"] == outcome.requests
    assert not told["fallbacks"]
    assert told["cached_tokens"] == outcome.cached_tokens
    # While siblings run at once a prediction counts blocks that are being computed.
    assert abs(told["predicted_tokens"] - told["cached_tokens"]) <= 0.1 * outcome.cached_tokens


def test_a_receipt_tells_what_was_predicted_and_what_was_reused(server: ServeLlm) -> None:
    server.complete(TEXT, x_request_id="before")
    settled(server)
    reply = server.complete(TEXT, x_request_id="again")
    settled(server)
    receipt = server.command("receipt", "again")
    assert reply.cached_tokens > 0
    assert receipt["predicted_cached_tokens"] == receipt["actual_cached_tokens"] == reply.cached_tokens
    assert len(receipt["candidates"]) == 2


@pytest.mark.parametrize("prompt", [list(range(50, 450)), [TEXT + "a", TEXT + "b"], [[7] * 300, [8] * 300]])
def test_token_ids_and_batches_are_sent_where_their_blocks_are(server: ServeLlm, prompt: Any) -> None:
    assert server.complete(prompt).status == 200
    before = settled(server)
    again = server.complete(prompt)
    told = settled(server)
    assert again.cached_tokens > 0
    assert told["without_ids"] == before["without_ids"]
    assert told["predicted_tokens"] > before["predicted_tokens"]


def test_salted_prompts_are_scored_by_their_salt(server: ServeLlm) -> None:
    for number, salt in enumerate(("mine", "mine", "yours")):
        server.complete(TEXT, x_request_id=f"salted {number}", cache_salt=salt)
        settled(server)
    assert server.command("receipt", "salted 1", "mine")["predicted_cached_tokens"] > 0
    assert server.command("receipt", "salted 2", "yours")["predicted_cached_tokens"] == 0
    with pytest.raises(RuntimeError, match="this tenant's"):
        server.command("receipt", "salted 1", "yours")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": TOO_LONG},
        {"messages": NO_ROLE},
        {"prompt": [-1, 5]},
        {"prompt": {"a": 1}},
        {"prompt": "text", "max_tokens": -3},
        {},
    ],
)
def test_what_a_client_does_wrong_stays_4xx_with_the_engines_words(
    server: ServeLlm, body: dict[str, Any]
) -> None:
    reply = server.post("/v1/chat/completions" if "messages" in body else "/v1/completions", body)
    assert 400 <= reply.status < 500
    assert reply.body["error"]["message"]


def test_ids_that_are_used_twice_at_once_are_served(server: ServeLlm) -> None:
    with ThreadPoolExecutor(3) as pool:
        replies = list(
            pool.map(lambda _: server.complete(TEXT, max_tokens=60, x_request_id="same"), range(3))
        )
    assert [reply.status for reply in replies] == [200, 200, 200]
    settled(server)


def test_who_hangs_up_or_never_reaches_an_engine_is_no_load(server: ServeLlm) -> None:
    before = settled(server)
    with server.hanging(TEXT, max_tokens=1500):
        until(server, lambda told: told["open_requests"] == 1)
    assert settled(server)["completed"] == before["completed"] + 1
    server.post("/v1/completions", {"prompt": [-1]})  # refused before an engine sees it
    settled(server)
    assert figures(server)["never_arrived"] > before["never_arrived"]


def test_rays_own_router_on_the_same_traffic(ours: tuple[ServeLlm, Outcome]) -> None:
    server, outcome = ours
    server.command("remove")
    took_s = server.deploy("ray", blocks=BLOCKS)
    rays = run_chats(server, SEED)
    with ThreadPoolExecutor(3) as pool:
        twice = list(pool.map(lambda _: server.complete(TEXT, max_tokens=60, x_request_id="same"), range(3)))
    errors = {
        "too long": server.chat(TOO_LONG).status,
        "no such role": server.chat(NO_ROLE).status,
        "one id three times": sorted(reply.status for reply in twice),
    }
    times = {name: _microseconds(server, name)[: outcome.requests] for name in ("kvatlas", "ray")}
    print(f"\nray: deployed in {took_s:.0f} s; its answers to what kvatlas serves or refuses: {errors}")
    print(f"{'':8} requests  prompt tokens  cached  failed  p50 us to choose")
    for name, found in (("kvatlas", outcome), ("ray", rays)):
        print(
            f"{name:8} {found.requests:8}  {found.prompt_tokens:13}  {found.cached_tokens:6}"
            f"  {len(found.failed):6}  {statistics.median(times[name]):8.0f}"
        )
    assert outcome.prompt_tokens == rays.prompt_tokens
    assert outcome.cached_tokens >= 0.9 * rays.cached_tokens


def _microseconds(server: ServeLlm, name: str) -> list[float]:
    return [float(line) for line in (server.times / name).read_text().split()]
