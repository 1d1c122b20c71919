"""A real model server tells discovery where its events are, and is followed there."""

from __future__ import annotations

import time

import pytest

from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig
from kvatlas.ingest.discovery.discovery import Discovery
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.discovery.source_query import ToldSource, ask_sources
from kvatlas.ingest.sockets.subscriber import Subscriber
from tests.e2e.conversations import fresh_prompt
from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, MODEL_NAME, VllmServer

pytestmark = pytest.mark.timeout(420)  # it may be the first to wait for the server to start


def test_the_url_of_a_server_is_all_that_discovery_needs(first_server: VllmServer) -> None:
    first_server.wait_until_healthy()
    url = f"http://127.0.0.1:{first_server.http_port}"
    (told,) = ask_sources(url, 10.0, 1 << 20)
    assert told == ToldSource(0, first_server.events_endpoint, first_server.replay_endpoint, None)
    entry = PodEntry(pod=first_server.pod, url=url, model=MODEL_NAME)
    discovery = Discovery(DiscoveryConfig(watches=(StaticWatchConfig(pods=(entry,)),))).start()
    try:
        deadline_s = time.monotonic() + 30
        while not discovery.pods() and time.monotonic() < deadline_s:
            discovery.wait(discovery.version, 1.0)
        sources = discovery.pods()[first_server.pod].sources
    finally:
        discovery.stop()
    atlas = Atlas()
    prompt = fresh_prompt(4711, 2 * BLOCK_SIZE_TOKENS)
    with Subscriber(atlas, sources) as subscriber:
        assert subscriber.wait_until(lambda seen: seen.connections == 1, 30)
        first_server.complete(prompt)
        assert subscriber.wait_until(
            lambda _: atlas.score(prompt, model=MODEL_NAME).get(first_server.pod, 0) > 0, 30
        )
