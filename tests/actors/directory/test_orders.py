"""Orders between releases: what one does not know it ignores, what one does not send has its default."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.actors.orders import ClusterView, Layout, LinkKeys, ShardOrders, SubscriberAsks, decode, encode
from kvatlas.index.errors import DecodeError


class NewerShardOrders(msgspec.Struct, frozen=True, kw_only=True):
    incarnation: int = 0
    goes: bool = False
    moon_phase: str = "waxing"


class OlderShardOrders(msgspec.Struct, frozen=True, kw_only=True):
    incarnation: int = 0


def test_fields_of_a_newer_release_are_ignored_and_those_an_older_lacks_have_their_defaults() -> None:
    assert decode(encode(NewerShardOrders(incarnation=3, goes=True)), ShardOrders) == ShardOrders(
        incarnation=3, goes=True
    )
    assert decode(encode(OlderShardOrders(incarnation=3)), ShardOrders) == ShardOrders(incarnation=3)


def test_a_struct_arrives_as_it_was_sent() -> None:
    view = ClusterView(version=1, cluster="c", serving=Layout(number=1, n_shards=2), orders={"0": 3})
    assert decode(encode(view), ClusterView) == view


@given(st.binary(max_size=60))
def test_bytes_that_are_no_struct_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match="SubscriberAsks: expected its msgpack"):
        decode(data, SubscriberAsks)


def test_secrets_are_not_shown() -> None:
    keys = LinkKeys(server_public="public", server_secret="hidden", client_secret="hidden")
    assert "hidden" not in repr(keys) and "hidden" not in repr(ShardOrders(keys=keys))
