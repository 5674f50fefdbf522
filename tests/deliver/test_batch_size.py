"""How many entries a group claims: arithmetic, tried without a server."""

from hypothesis import given
from hypothesis import strategies as st

from sqla_pubsub.deliver.claim.batch_size import BatchSize, BatchSizeLimits

seconds = st.floats(0, 1e4)
groups = st.lists(st.tuples(seconds, st.integers(0, 500)), max_size=30)
time_boxes = st.floats(0.001, 10)
largest = st.integers(1, 10_000)


@given(time_boxes, largest, groups)
def test_a_group_is_never_empty_and_never_too_large(
    time_box: float, most: int, measured: list[tuple[float, int]]
) -> None:
    batch = BatchSize(time_box, most)
    for took, events in measured:
        batch.measure(took, events, savepoints=False)
        assert 1 <= batch.size <= most


@given(time_boxes, largest, st.floats(1e-6, 1e3))
def test_a_group_fits_into_its_time_or_is_a_single_event(
    time_box: float, most: int, per_event: float
) -> None:
    batch = BatchSize(time_box, most)
    for _ in range(50):
        batch.measure(per_event * batch.size, batch.size, savepoints=False)
    assert batch.size == 1 or batch.size * per_event <= time_box * 1.001


@given(time_boxes, largest, st.floats(1e-6, 1e3))
def test_a_group_fills_its_time_where_it_may(time_box: float, most: int, per_event: float) -> None:
    batch = BatchSize(time_box, most)
    batch.measure(per_event, 1, savepoints=False)
    assert batch.size == most or (batch.size + 1) * per_event > time_box * 0.999


@given(largest, groups)
def test_without_time_each_event_has_a_group_of_its_own(most: int, measured: list[tuple[float, int]]) -> None:
    """As with a timeout."""
    batch = BatchSize(0.0, most)
    for took, events in measured:
        batch.measure(took, events, savepoints=False)
        assert batch.size == 1


def test_the_first_group_is_a_single_event() -> None:
    """Nothing is known of what it takes."""
    batch = BatchSize(0.1, 500)
    assert batch.size == 1
    assert batch.slow


def test_a_slow_handler_shrinks_the_groups_at_once_and_a_fast_one_lets_them_grow_again() -> None:
    batch = BatchSize(0.1, 500)
    batch.measure(0.1, 100, savepoints=False)
    assert batch.size == 100
    batch.measure(10.0, 100, savepoints=False)
    assert batch.size < 5
    assert batch.slow
    for _ in range(40):
        batch.measure(0.001, 1, savepoints=False)
    assert batch.size > 90


def test_an_event_is_slow_from_the_limit_on() -> None:
    batch = BatchSize(0.1, 500, BatchSizeLimits(slow=0.5))
    batch.measure(0.4, 1, savepoints=False)
    assert not batch.slow
    batch = BatchSize(0.1, 500, BatchSizeLimits(slow=0.3))
    batch.measure(0.4, 1, savepoints=False)
    assert batch.slow


def singles(batch: BatchSize) -> int:
    """Measure fast groups until one is large again; return how many had a single event."""
    count = 0
    while batch.size == 1:
        batch.measure(0.001, 1, savepoints=False)
        count += 1
    return count


def test_after_each_conflict_events_are_alone_for_twice_as_long_and_not_for_ever() -> None:
    """Else two listeners of the same few rows would meet in deadlocks again and again."""
    batch = BatchSize(0.1, 500, BatchSizeLimits(first_single=3, longest_single=10))
    batch.measure(0.001, 1, savepoints=False)
    counts = []
    for _ in range(4):
        batch.conflict()
        counts.append(singles(batch))
    assert counts == [3, 6, 10, 10]


@given(largest, st.integers(1, 500))
def test_as_long_as_handlers_open_savepoints_no_more_are_claimed_than_there_may_be(
    most: int, savepoints: int
) -> None:
    batch = BatchSize(10.0, most, BatchSizeLimits(max_savepoints=savepoints))
    batch.measure(0.001, 1000, savepoints=True)
    assert batch.size == min(most, savepoints)
    batch.measure(0.001, 1000, savepoints=False)
    assert batch.size == most
