"""How long requests take on a simulated server that takes time."""

from __future__ import annotations

from math import inf

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.block_pool import OutOfBlocksError
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.simulator.timed_server import Pace, TimedRequest, TimedServer

PACE = Pace(prefill_tokens_per_s=1000, step_s=0.01, held_token_s=0.0, step_tokens_max=100, requests_max=2)


def server_of(pace: Pace = PACE, blocks: int = 1000) -> TimedServer:
    return TimedServer(SimulatedServer("pod", "m", blocks=blocks), pace)


def request_of(name: str, first: int, tokens: int, output: int = 1) -> TimedRequest:
    return TimedRequest(name, list(range(first, first + tokens)), output, 0.0)


def finish(server: TimedServer) -> list[TimedRequest]:
    """All that it has to do."""
    done = []
    while server.ends_s < inf:
        done += server.end_step()[1]
    return done


def test_a_prompt_is_prefilled_in_chunks_and_each_step_takes_its_time() -> None:
    server = server_of()
    request = request_of("a", 0, 250)
    server.add(request, 5.0)
    finish(server)
    assert request.first_token_s == pytest.approx(5.0 + 0.25 + 3 * 0.01)


def test_a_prompt_waits_for_those_before_it() -> None:
    server = server_of()
    first, second = request_of("a", 0, 300), request_of("b", 1000, 100)
    server.add(first, 0.0)
    server.add(second, 0.0)
    finish(server)
    assert first.first_token_s == pytest.approx(0.33)
    assert second.first_token_s == pytest.approx(0.44, abs=0.02)


def test_what_its_cache_holds_is_not_prefilled_again() -> None:
    server = server_of()
    server.add(request_of("a", 0, 320), 0.0)
    finish(server)
    again = request_of("b", 0, 320)
    server.add(again, 10.0)
    finish(server)
    assert again.cached_tokens == 304
    assert again.first_token_s == pytest.approx(10.0 + 0.016 + 0.01)


def test_decoding_takes_a_step_a_token_and_the_longer_the_more_is_held() -> None:
    for held_token_s, expected_s in ((0.0, 80 * 0.01), (1e-4, 80 * 0.02)):
        pace = Pace(prefill_tokens_per_s=1e9, step_s=0.01, held_token_s=held_token_s)
        server = server_of(pace)
        request = request_of("a", 0, 100, output=81)
        server.add(request, 0.0)
        finish(server)
        assert request.finished_s - request.first_token_s == pytest.approx(expected_s, rel=0.4)


def test_it_works_on_so_many_at_a_time_and_the_others_get_their_turn() -> None:
    server = server_of()
    requests = [request_of(str(i), 1000 * i, 50, output=20) for i in range(5)]
    for request in requests:
        server.add(request, 0.0)
    assert len(finish(server)) == 5
    starts = [request.first_token_s for request in requests]
    assert starts == sorted(starts)
    assert requests[2].first_token_s > requests[0].finished_s


def test_where_the_cache_has_no_room_a_request_waits_until_another_is_done() -> None:
    server = server_of(Pace(requests_max=8), blocks=20)
    first, second = request_of("a", 0, 200, output=50), request_of("b", 1000, 200)
    server.add(first, 0.0)
    server.add(second, 0.0)
    finish(server)
    assert second.first_token_s > first.finished_s


def test_a_prompt_that_never_fits_is_refused() -> None:
    with pytest.raises(OutOfBlocksError):
        server_of(blocks=4).add(request_of("a", 0, 200), 0.0)


def test_an_answer_stays_in_the_cache_behind_its_prompt() -> None:
    server = server_of()
    request = TimedRequest("a", list(range(100)), 60, 0.0, list(range(500, 560)))
    server.add(request, 0.0)
    finish(server)
    assert server.server.cached_tokens([*range(100), *range(500, 560), 7]) == 144


def test_a_pace_that_never_ends_a_step_is_refused() -> None:
    with pytest.raises(ConfigError):
        Pace(prefill_tokens_per_s=0.0)
    with pytest.raises(ConfigError):
        Pace(step_s=-1.0)
    with pytest.raises(ConfigError):
        Pace(requests_max=0)


def test_a_request_that_comes_while_others_decode_waits_for_one_step_only() -> None:
    server = server_of()
    first = request_of("a", 0, 50, output=100)
    server.add(first, 0.0)
    server.end_step()
    began_s = first.first_token_s
    second = request_of("b", 1000, 50)
    server.add(second, began_s + 0.025)
    finish(server)
    assert second.first_token_s == pytest.approx(began_s + 0.03 + 0.01 + 0.05)
    assert server.busy_s == pytest.approx(first.finished_s)
