"""When an engine is tried again that could not be reached, and what is left of an intent."""

from hypothesis import given
from hypothesis import strategies as st

from sqla_pubsub.deliver.relay.circuit import Circuit, CircuitLimits
from sqla_pubsub.deliver.relay.lanes import Intent

LIMITS = CircuitLimits(first=0.5, longest=30.0)


def test_the_pauses_double_up_to_the_longest() -> None:
    circuit = Circuit(LIMITS)
    assert [circuit.failed(0.0) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_who_asks_for_a_longer_pause_is_given_it() -> None:
    circuit = Circuit(LIMITS)
    assert circuit.failed(0.0, after=600.0) == 600.0
    assert circuit.failed(600.0, after=0.1) == 1.0


def test_a_success_tells_how_long_there_was_none_and_begins_anew() -> None:
    circuit = Circuit(LIMITS)
    assert circuit.succeeded(1.0) is None
    circuit.failed(10.0)
    circuit.failed(12.0)
    assert circuit.succeeded(20.0) == 10.0
    assert (circuit.is_open, circuit.passes(20.0), circuit.failed(20.0)) == (False, True, 0.5)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=2_000))
def test_it_passes_when_its_pause_is_over_and_not_before(pauses: list[float]) -> None:
    circuit, now = Circuit(LIMITS), 0.0
    for after in pauses:
        pause = circuit.failed(now, after)
        assert circuit.is_open
        assert max(after, LIMITS.first) <= pause <= max(after, LIMITS.longest)
        assert not circuit.passes(now + pause * 0.999)
        now += pause
        assert circuit.passes(now)


@given(st.lists(st.integers(1, 10**12), unique=True, min_size=1), st.data())
def test_what_is_left_of_an_intent_keeps_its_numbers(ids: list[int], data: st.DataObject) -> None:
    intent = Intent(7, tuple(ids))
    settled = data.draw(st.sets(st.sampled_from(ids)))
    left = intent.without(settled)
    numbers = {} if left is None else {e: left.first + i for i, e in enumerate(left.ids) if e}
    assert numbers == {e: 7 + i for i, e in enumerate(ids) if e not in settled}
    assert (left is None) == (settled == set(ids))
