"""Receipts: whole accounts, for their tenants alone, joined with what came, bounded."""

from __future__ import annotations

import pytest

from kvatlas.index.choosing.ask import tenant_of
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError
from tests.index.choosing.small_fleet import SmallFleet, prompt
from tests.ingest.plain_batches import batch, stored


def test_a_receipt_says_who_could_have_been_chosen_and_why_this_one_was() -> None:
    with SmallFleet() as fleet:
        fleet.hold("a", 8)
        fleet.say("a", {"type": "BlockStored", "block_hashes": [8], "medium": "CPU"})
        fleet.say("a", {"type": "BlockRemoved", "block_hashes": [8], "medium": "GPU"})
        fleet.hold("b", 4)
        fleet.chooser.adopt("other", "b", 0, model="m", prompt_tokens=30, output_tokens=0)
        fleet.chooser.choose(prompt(10), model="m", request_id="x", output_tokens=99)
        receipt = fleet.receipt("x")
        assert [account.pod for account in receipt.candidates] == ["a", "b", "c"]
        assert [account.why for account in receipt.candidates] == [
            "chosen",
            "it costs 95 tokens more",
            "it costs 128 tokens more",
        ]
        assert receipt.candidates[0].tier_blocks == {"gpu": 7, "cpu": 1}
        assert receipt.candidates[1].requests == 1 and receipt.candidates[1].prefill_tokens == 30
        assert (receipt.pod, round(receipt.cost), receipt.cost_unit) == ("a", 33, "tokens")
        assert (receipt.prompt_tokens, receipt.output_tokens, receipt.block_size_tokens) == (161, 99, 16)
        assert receipt.is_reserved and receipt.is_whole and receipt.outcome == "chosen"
        assert receipt.stages.look_us > 0 and receipt.stages.decide_us > 0 and receipt.time_s > 1e9
        fleet.chooser.completed("x", cached_tokens=112, output_tokens=12)
        receipt = fleet.receipt("x")
        assert (receipt.predicted_cached_tokens, receipt.actual_cached_tokens) == (128, 112)
        assert (receipt.actual_output_tokens, receipt.outcome) == (12, "completed")


def test_equal_costs_are_said_to_be_drawn_by_lot() -> None:
    with SmallFleet(("a", "b")) as fleet:
        choice = fleet.chooser.choose(prompt(10), model="m")
        assert fleet.receipt(choice.request_id).candidates[1].why == "it costs the same; by lot"


def test_a_tenant_sees_only_its_own_and_cannot_tell_others_from_none() -> None:
    with SmallFleet() as fleet:
        fleet.chooser.choose(prompt(4), model="m", request_id="x", tenant="one")
        fleet.chooser.choose(prompt(4), model="m", request_id="x", tenant="two", cache_salt="s")
        fleet.chooser.choose(prompt(4), model="m", request_id="y", cache_salt="s")
        assert fleet.chooser.receipt("x", tenant="one").request_id == "x"
        assert fleet.chooser.receipt("y", cache_salt="s").request_id == "y"
        refusals = []
        for known, tenant in (("x", "three"), ("x", ""), ("y", "two"), ("nothing", "one")):
            with pytest.raises(InputError) as refused:
                fleet.chooser.receipt(known, tenant=tenant)
            refusals.append(str(refused.value).replace(repr(known), "ID"))
        with pytest.raises(InputError):
            fleet.chooser.receipt("x", cache_salt="s")
        assert len(set(refusals)) == 1
        assert [receipt.request_id for receipt in fleet.chooser.receipts("two")] == ["x"]
        assert fleet.chooser.receipts() == []


def test_a_tenants_name_is_no_salt() -> None:
    assert tenant_of("x") != tenant_of("", "x") != tenant_of("", None) == ""
    assert tenant_of("x", "y") == tenant_of("x") and "x" * 8 not in tenant_of("x" * 8)


def test_of_two_requests_with_one_id_the_newest_is_told() -> None:
    with SmallFleet(("a",)) as fleet:
        fleet.chooser.choose(prompt(4), model="m", request_id="x")
        fleet.chooser.choose(prompt(6), model="m", request_id="x")
        assert fleet.receipt("x").prompt_tokens == 97
        fleet.chooser.completed("x", output_tokens=1)  # the older one's
        assert fleet.receipt("x").actual_output_tokens is None


def test_the_oldest_receipts_go_by_number() -> None:
    with SmallFleet(config=ChoosingConfig(receipts_max=3)) as fleet:
        for i in range(5):
            fleet.chooser.choose(prompt(4), model="m", request_id=str(i))
        assert [receipt.request_id for receipt in fleet.chooser.receipts()] == ["4", "3", "2"]
        with pytest.raises(InputError):
            fleet.chooser.receipt("1")
        statistics = fleet.chooser.statistics()
        assert (statistics.receipts, statistics.receipts_dropped) == (3, 2)
        assert fleet.receipt("4").view_age_s == 0, "an atlas follows its workers itself"
        assert fleet.chooser.completed("0")  # in flight all the same


def test_the_oldest_receipts_go_by_bytes() -> None:
    with SmallFleet(config=ChoosingConfig(receipts_bytes_max=64 << 10)) as fleet:
        for i in range(200):
            fleet.chooser.choose(prompt(64, i), model="m")
        statistics = fleet.chooser.statistics()
        assert 10 < statistics.receipts < 40 and statistics.receipts_bytes <= 64 << 10
        assert statistics.receipts + statistics.receipts_dropped == 200


def test_a_large_fleets_receipt_names_the_cheapest() -> None:
    with SmallFleet([f"pod{i}" for i in range(300)]) as fleet:
        fleet.hold("pod299", 4)
        fleet.chooser.choose(prompt(4), model="m", request_id="x")
        receipt = fleet.receipt("x")
        assert receipt.candidates[0].pod == "pod299" and len(receipt.candidates) == 256
        assert receipt.n_candidates == 300


def test_where_a_part_of_the_index_is_missing_what_is_there_counts_and_the_receipt_says_so() -> None:
    with SmallFleet() as fleet:
        fleet.hold("b", 4)
        look = fleet.atlas.look

        def in_part(token_ids: object, **asked: object) -> object:
            seen = look(token_ids, **asked)  # type: ignore[arg-type]
            return seen._replace(matches=seen.matches._replace(is_whole=False))

        fleet.atlas.look = in_part  # type: ignore[method-assign, assignment]
        choice = fleet.chooser.choose(prompt(4), model="m", request_id="x")
        assert choice.pod == "b" and choice.reason == "a part of the index is missing or being filled"
        assert not fleet.receipt("x").is_whole


def test_pods_of_an_atlas_that_nobody_has_described_are_chosen_too() -> None:
    with SmallFleet(()) as fleet:
        fleet.atlas.ingest(b"kv@heard@m", 0, batch(stored([1], prompt(1)[:-1])))
        choice = fleet.chooser.choose(prompt(4), model="m", request_id="x")
        assert (choice.pod, choice.cached_tokens, choice.url) == ("heard", 16, None)
