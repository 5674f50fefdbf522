"""Which packages would not be there if only some extras of ours were installed."""

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BLOCKING = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Absent())
"""
"""Python that lets packages be absent; ``names`` is a set of theirs."""


def absent_with(extras: Iterable[str]) -> set[str]:
    """Return the packages of this environment that neither we with *extras* nor what we need brings."""
    there = set(_brought("sqla-pubsub", frozenset(extras), set()))
    return {
        package
        for package, owners in packages_distributions().items()
        if there.isdisjoint(map(canonicalize_name, owners))
    }


def _brought(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    key = canonicalize_name(name), extras
    if key in seen:
        return
    seen.add(key)
    yield key[0]
    try:
        needed = [Requirement(each) for each in requires(name) or ()]
    except PackageNotFoundError:
        return
    for each in needed:
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield from _brought(each.name, frozenset(each.extras), seen)
