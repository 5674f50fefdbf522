"""What of many events may be under way at once: no two with one key, and neither too many nor too many bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

_AT_ONCE = 1_000
_BYTES_AT_ONCE = 8_000_000


def waves(groups: Sequence[Hashable]) -> list[list[int]]:
    """Return places in *groups* so that no wave has a group twice; those of None are all in the first.

    >>> waves(["a", "b", "a", None, None, "a"])
    [[0, 1, 3, 4], [2], [5]]
    """
    if len({*groups}) == len(groups):
        return [[*range(len(groups))]]
    found: list[list[int]] = []
    seen: Counter[Hashable] = Counter()
    for index, group in enumerate(groups):
        wave = 0 if group is None else seen[group]
        seen[group] += 1
        if wave == len(found):
            found.append([])
        found[wave].append(index)
    return found


def parts(wave: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Cut *wave*, so that what is under way at once is neither too many nor too large."""
    part: list[int] = []
    size = 0
    for index in wave:
        part.append(index)
        size += sizes[index]
        if len(part) == _AT_ONCE or size >= _BYTES_AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part
