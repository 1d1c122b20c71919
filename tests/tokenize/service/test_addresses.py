"""Addresses and the configuration of the service."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.service.addresses import parse_address
from kvatlas.tokenize.service.config import ServiceConfig


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:///run/a.sock", "unix:/run/a.sock"),
        ("unix:near.sock", "unix:near.sock"),
        ("localhost:50051", "localhost:50051"),
        (":50051", "127.0.0.1:50051"),
        ("[::1]:0", "[::1]:0"),
        ("unix:/" + "a" * 106, "unix:/" + "a" * 106),
    ],
)
def test_address_is_read(text: str, target: str) -> None:
    assert parse_address(text, "here").target == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        "host:65536",
        "host:-1",
        "host:١",  # a digit, of another script
        "::1:80",
        "[::1:80",
        "dns:///host:80",
        "http://host:80",
        "a b:80",
        "unix:",
        "unix:/a\0b",
        "unix:/" + "a" * 107,
        "unix:/" + "é" * 60,
    ],
)
def test_other_address_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^here: expected unix:PATH"):
        parse_address(text, "here")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"listen": ()}, "listen: expected"),
        ({"listen": (":1", "nowhere")}, r"listen\[1\]: expected"),
        ({"threads": 0}, "threads: expected 1 to"),
        ({"threads": True}, "threads: expected 1 to"),
        ({"waiting_max": 0}, "waiting_max"),
        ({"waiting_bytes_max": 0}, "waiting_bytes_max"),
        ({"answer_s_max": 0}, "answer_s_max"),
        ({"message_bytes_max": 100}, "message_bytes_max"),
        ({"message_bytes_max": 1 << 31}, "message_bytes_max"),
        ({"grace_s": -1}, "grace_s"),
        ({"socket_mode": "888"}, "socket_mode: expected octal"),
        ({"socket_mode": "1777"}, "socket_mode: expected octal"),
        ({"socket_mode": ""}, "socket_mode: expected octal"),
        ({"tls_key_file": "k.pem"}, "tls_key_file: expected"),
        ({"tls_certificate_file": "c.pem"}, "tls_key_file: expected"),
        ({"tls_client_ca_file": "ca.pem"}, "tls_client_ca_file: expected"),
    ],
)
def test_value_out_of_range_is_refused_with_its_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServiceConfig(**fields)


def test_defaults_are_good() -> None:
    assert ServiceConfig().listen == ("127.0.0.1:50051",)
