"""Open requests by what is heard of them, beside a count of what really runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvatlas.cluster.serve.llm.open_requests import Given, OpenRequests

PODS = ["a", "b"]


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def of(request_id: str, pod: str = "a") -> Given:
    return Given(request_id, pod, 0, 10, 0, None)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(PODS), st.sampled_from(PODS)), max_size=30))
def test_requests_that_all_arrive_somewhere_and_end_leave_nothing(story: list[tuple[str, str, str]]) -> None:
    """Ids are used again while they are in flight; some arrive elsewhere than they were sent."""
    requests = OpenRequests(100, 10, Clock())
    for request_id, pod, there in story:
        requests.give(of(request_id, pod))
        found = requests.arrived(request_id, there)
        if found is not None and found.pod != there:
            requests.moved(found, there)
        assert sum(requests.by_pod.values()) == len(requests)
    really = {pod: sum(there == pod for _, _, there in story) for pod in PODS}
    assert {pod: requests.by_pod.get(pod, 0) for pod in PODS} == really
    for number, (request_id, _, _) in enumerate(story):
        assert len(requests) == len(story) - number
        assert requests.ended(request_id) is not None
    assert len(requests) == 0
    assert not any(requests.by_pod.values())


def test_what_arrives_in_time_is_never_given_up() -> None:
    clock = Clock()
    requests = OpenRequests(100, 10, clock)
    for number in range(3):
        requests.give(of(str(number)))
        clock.now_s += 4
    requests.arrived("0", "a")
    assert requests.never_arrived() == []
    clock.now_s += 100
    assert [lost.request_id for lost in requests.never_arrived()] == ["1", "2"]
    assert requests.never_arrived() == []
    assert len(requests) == 1


def test_nothing_is_given_up_at_a_replica_that_does_not_tell_of_arrivals() -> None:
    clock = Clock()
    requests = OpenRequests(100, 10, clock)
    requests.give(of("0"))
    clock.now_s += 100
    assert requests.never_arrived() == []
    assert len(requests) == 1


def test_what_was_given_up_and_ends_unseen_does_not_come_back() -> None:
    clock = Clock()
    requests = OpenRequests(100, 1, clock)
    requests.arrived("other", "a")
    requests.give(of("0"))
    clock.now_s += 2
    assert requests.never_arrived()
    assert requests.ended("0") is None
    assert requests.arrived("0", "a") is None
    assert len(requests) == 0


def test_the_oldest_is_forgotten_at_the_bound_and_counted() -> None:
    requests = OpenRequests(3, 10, Clock())
    for number in range(5):
        requests.give(of(str(number)))
    assert (len(requests), requests.forgotten) == (3, 2)
    assert requests.ended("0") is None
    assert requests.ended("4") is not None


def test_a_replica_that_is_gone_takes_its_requests_along() -> None:
    requests = OpenRequests(100, 10, Clock())
    requests.give(of("0", "a"))
    requests.give(of("1", "b"))
    assert [lost.request_id for lost in requests.gone("a")] == ["0"]
    assert requests.by_pod == {"b": 1}
    assert requests.ended("0") is None
    assert not requests.has_ended("nobody's")
