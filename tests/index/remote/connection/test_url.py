"""URLs of servers: what they say, and what they never show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import ConfigError
from kvatlas.index.remote.connection.url import Address, RemoteUrl

SECRET = "tOp5ecret"


@pytest.mark.parametrize(
    ("text", "kind", "is_tls", "addresses", "db"),
    [
        ("redis://127.0.0.1", "redis", False, (Address("127.0.0.1", 6379),), 0),
        ("redis://cache:7000/3", "redis", False, (Address("cache", 7000),), 3),
        ("redis://cache/?db=4", "redis", False, (Address("cache", 6379),), 4),
        ("REDISS://cache", "redis", True, (Address("cache", 6379),), 0),
        ("valkey://cache", "valkey", False, (Address("cache", 6379),), 0),
        ("valkeys://[::1]:7000", "valkey", True, (Address("::1", 7000),), 0),
        ("unix:///run/a.sock", "redis", False, (Address("", 0, "/run/a.sock"),), 0),
        ("redis+unix:///run/a.sock?db=2", "redis", False, (Address("", 0, "/run/a.sock"),), 2),
        ("valkey+unix:///run/a%20b.sock", "valkey", False, (Address("", 0, "/run/a b.sock"),), 0),
        (
            "redis://a:1,b,[::2]:3?cluster=true",
            "redis",
            False,
            (Address("a", 1), Address("b", 6379), Address("::2", 3)),
            0,
        ),
    ],
)
def test_url_says_where_the_server_is(
    text: str, kind: str, is_tls: bool, addresses: tuple[Address, ...], db: int
) -> None:
    url = RemoteUrl.parse(text)
    assert (url.kind, url.is_tls, url.addresses, url.db) == (kind, is_tls, addresses, db)
    assert (url.user, url.password) == (None, None)


def test_user_and_password_may_hold_anything_that_is_quoted() -> None:
    url = RemoteUrl.parse("redis://us%3Aer:p%40ss%2F%3F:word@cache:7000/1")
    assert (url.user, url.password) == ("us:er", "p@ss/?:word")
    assert RemoteUrl.parse("redis://:a/b@c@cache").password == "a/b@c"  # not quoted, and clear nevertheless
    assert RemoteUrl.parse("redis://:word@cache").user is None
    assert RemoteUrl.parse("redis://user@cache").password is None
    assert RemoteUrl.parse("unix://user:word@/run/a.sock").password == "word"


def test_options_of_tls_are_read() -> None:
    url = RemoteUrl.parse("rediss://cache?ca=/a.pem&certificate=/b.pem&key=/c.pem&verify=false")
    assert (url.tls_ca, url.tls_certificate, url.tls_key, url.tls_verify) == (
        "/a.pem",
        "/b.pem",
        "/c.pem",
        False,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected one of redis"),
        ("cache:6379", "without ://"),
        ("http://cache", "http://"),
        ("redis://", "host"),
        ("redis://cache:0", "port"),
        ("redis://cache:65536", "port"),
        ("redis://cache:six", "port"),
        ("redis://[::1:7000", "port"),
        ("redis://cache/one", "db: expected a number"),
        ("redis://cache?db=-1", "db: expected a number"),
        ("redis://cache?dbs=1", "expected options of db"),
        ("redis://cache?cluster=perhaps", "cluster: expected true or false"),
        ("redis://a,b", "one host without cluster=true"),
        ("redis://a/1?cluster=true", "db 0 where cluster=true"),
        ("unix:///a.sock?cluster=true", "hosts where cluster=true"),
        ("unix://a.sock", "absolute path"),
        ("redis://cache?ca=/a.pem", "expected rediss://"),
    ],
)
def test_wrong_url_is_refused_with_what_was_expected(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"^url: ") as caught:
        RemoteUrl.parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"redis://user:{SECRET}@cache:7000/1",
        f"rediss://:{SECRET}@a,b?cluster=1",
        f"unix://:{SECRET}@/run/a.sock",
    ],
)
def test_password_and_user_are_not_shown(text: str) -> None:
    url = RemoteUrl.parse(text)
    assert url.password == SECRET
    assert SECRET not in repr(url) + str(url) + f"{url}"
    assert "user" not in repr(url)


@pytest.mark.parametrize(
    "text",
    [
        f"redis://user:a?{SECRET}@cache",
        f"redis://user:{SECRET}@cache:none",
        f"redis://:{SECRET}@a,b",
        f"redis://:{SECRET}@cache/1?cluster=true",
        f"redis:/:{SECRET}@cache",
        f"{SECRET}@cache:7000",
        f"reddis://:{SECRET}@cache",
        f"unix://:{SECRET}@a.sock",
    ],
)
def test_error_never_shows_what_may_be_the_password(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RemoteUrl.parse(text)
    assert SECRET not in str(caught.value)


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"redis://{text}"))
def test_any_text_is_a_url_or_a_config_error(text: str) -> None:
    try:
        url = RemoteUrl.parse(text)
    except ConfigError:
        return
    assert url.addresses and all(address.path or 0 < address.port < 65536 for address in url.addresses)
