"""Who may ask the gateway, how often, and what one tenant sees of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.cluster.config.gateway_config import GatewayConfig, GatewayLimits, GrpcConfig
from kvatlas.cluster.gateway.access.rates import Rates
from kvatlas.cluster.gateway.access.tenants import Tenants
from kvatlas.index.errors import ConfigError
from tests.cluster.gateway.rig import MODEL, PROMPT, Answered, Asker, EmbeddedBackend, served

QUESTION = {"model": MODEL, "token_ids": PROMPT, "request_id": "r"}


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text("# tenants\n\none first-token\ntwo second-token\n", encoding="utf-8")
    return file


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_is_asked_for_everywhere_but_where_supervisors_ask(
    backend: EmbeddedBackend, tokens: Path
) -> None:
    with served(backend, GatewayConfig(tokens_file=str(tokens))) as asker:
        for headers in ({}, bearer("wrong"), bearer(""), {"Authorization": "Basic first-token"}):
            for method, path in (("POST", "/v1/score"), ("GET", "/v1/pods"), ("GET", "/v1/receipts/r")):
                refused = asker.ask(method, path, None, headers)
                assert (refused.status, refused.error["type"]) == (401, "unauthorized")
                assert refused.headers["www-authenticate"] == "Bearer"
        assert asker.ask("GET", "/v1/pods", None, bearer("second-token")).status == 200
        assert [asker.get(path).status for path in ("/healthz", "/readyz", "/metrics")] == [200] * 3
        security = asker.get("/openapi.json").body["paths"]["/v1/score"]["post"]["security"]
        assert security == [{"bearer": []}]


def test_requests_of_one_tenant_are_nobody_elses(backend: EmbeddedBackend, tokens: Path) -> None:
    with served(backend, GatewayConfig(tokens_file=str(tokens))) as asker:

        def ask(token: str, method: str, path: str, body: object = None) -> Answered:
            return asker.ask(method, path, body, bearer(token))

        for token in ("first-token", "second-token"):  # the same id twice
            choice = ask(token, "POST", "/v1/choose", QUESTION)
            assert (choice.status, choice.body["request_id"]) == (200, "r")
        unnamed = ask("first-token", "POST", "/v1/choose", {**QUESTION, "request_id": ""}).body["request_id"]
        assert unnamed and " " not in unnamed
        assert ask("second-token", "GET", f"/v1/receipts/{unnamed}").status == 404
        assert ask("second-token", "POST", f"/v1/requests/{unnamed}/completed").status == 404
        assert ask("first-token", "GET", f"/v1/receipts/{unnamed}").body["request_id"] == unnamed
        assert ask("first-token", "POST", "/v1/requests/r/completed", {"cached_tokens": 5}).status == 200
        receipts = [ask(token, "GET", "/v1/receipts/r").body for token in ("first-token", "second-token")]
        assert [receipt["actual_cached_tokens"] for receipt in receipts] == [5, None]


def test_without_tokens_a_receipt_is_whose_salt_it_is(asker: Asker) -> None:
    assert asker.post("/v1/choose", {**QUESTION, "cache_salt": "mine"}).status == 200
    assert asker.get("/v1/receipts/r").status == 404
    assert asker.ask("GET", "/v1/receipts/r", None, {"X-Kvatlas-Cache-Salt": "yours"}).status == 404
    assert asker.ask("GET", "/v1/receipts/r", None, {"X-Kvatlas-Cache-Salt": "mine"}).status == 200


def test_tokens_change_with_their_file_and_a_bad_file_lets_nobody_in(tokens: Path) -> None:
    clock = Clock()
    tenants = Tenants(str(tokens), clock)
    assert tenants.tenant_of("Bearer first-token") == "one"
    tokens.write_text("three third-token\n", encoding="utf-8")
    clock.now_s += 1.0
    assert tenants.tenant_of("Bearer first-token") is None
    assert tenants.tenant_of("bearer third-token ") == "three"
    for content in ("three words here\n", ""):
        tokens.write_text(content, encoding="utf-8")
        clock.now_s += 1.0
        assert tenants.tenant_of("Bearer third-token") is None
        assert tenants.tenant_of("Bearer words") is None
    tokens.unlink()
    clock.now_s += 1.0
    assert tenants.tenant_of("Bearer third-token") is None


def test_a_callers_rate_is_limited_and_says_when_to_ask_again(backend: EmbeddedBackend) -> None:
    limits = GatewayLimits(requests_per_s=0.01, burst_requests=3)
    with served(backend, GatewayConfig(limits=limits)) as asker:
        answers = [asker.get("/v1/pods") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].error["type"] == "rate_limited"
        assert 90 <= int(answers[-1].headers["retry-after"]) <= 100
        assert asker.get("/healthz").status == 200


def test_a_bucket_fills_with_time_and_the_one_unheard_longest_is_forgotten() -> None:
    clock = Clock()
    rates = Rates(per_s=2.0, burst=2, callers_max=2, clock_s=clock)
    assert [rates.wait_s("a") for _ in range(3)] == [0.0, 0.0, 0.5]
    clock.now_s += 0.5
    assert [rates.wait_s("a") for _ in range(2)] == [0.0, 0.5]
    assert [rates.wait_s(caller) for caller in "bbbc"][:3] == [0.0, 0.0, 0.5]
    assert (rates.forgotten, rates.refused) == (1, 3)
    assert rates.wait_s("b") > 0.0  # still remembered: a was the one unheard longest
    assert Rates(0.0, 1, 1, clock).wait_s("a") == 0.0


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: GatewayConfig(route_prefix="kv/"), "route_prefix"),
        (lambda: GatewayConfig(port=0), "port"),
        (lambda: GatewayLimits(body_bytes_max=1), "body_bytes_max"),
        (lambda: GrpcConfig(listen=("nowhere",)), "listen[0]"),
        (lambda: GrpcConfig(tls_key_file="key"), "tls_key_file"),
        (lambda: GrpcConfig(tls_client_ca_file="ca"), "tls_client_ca_file"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_with_the_fields_name(make: object, where: str) -> None:
    with pytest.raises(ConfigError, match=where.replace("[", r"\[")):
        make()  # type: ignore[operator]
