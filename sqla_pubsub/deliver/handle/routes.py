"""What a stored entry is for a listener: which of its subscriptions it belongs to, and who decodes its rows."""

from __future__ import annotations

from sqla_pubsub.contract.attributes import local_table
from sqla_pubsub.contract.envelope import Entry, EntryKind
from sqla_pubsub.contract.tables import FORMAT
from sqla_pubsub.deliver.handle.decoding import RowDecoder
from sqla_pubsub.deliver.handle.eager import EagerLoad
from sqla_pubsub.deliver.handle.mapped import top_of
from sqla_pubsub.errors import UnreadableEntry
from sqla_pubsub.registry import ListenerSpec, Registry, Subscription

Route = tuple[Subscription, RowDecoder | None]
"""A subscription with the decoder of its rows, None for messages."""


class Routes:
    """The subscriptions of one listener, by what its entries say.

    Args:
        spec: The listener.
        registry: Where it is declared.
    """

    def __init__(self, spec: ListenerSpec, registry: Registry) -> None:
        self._name = spec.name
        self.declared: dict[EntryKind, Route] = {}
        """What the listener subscribes to, in each format that this release reads: `of` knows some more."""
        self.eager: dict[RowDecoder, EagerLoad] = {}
        """What is to be loaded with the rows, where anything is."""
        self.renamed = set[tuple[str, str]]()
        """Operations and sources that are not declared, and mean the one subscription to their operation."""
        for subscription in spec.subscriptions:
            decoder = None
            if subscription.mapper is not None:
                top = top_of(subscription.mapper)
                decoder = RowDecoder(top, registry.published[local_table(top)])
                if subscription.load:
                    self.eager[decoder] = EagerLoad(subscription.load)
                    self.eager[decoder].check(spec.name)
            for number in range(1, FORMAT + 1):
                kind = (subscription.operation, subscription.source, number)
                self.declared[kind] = (subscription, decoder)

    def knows(self, entry: Entry) -> bool:
        """Whether *entry* can be routed."""
        return entry.format <= FORMAT and (
            (entry.operation, entry.source, FORMAT) in self.declared
            or (entry.operation, entry.source) in self.renamed
        )

    def may_be_renamed(self, entry: Entry) -> bool:
        """Whether there is no doubt what the entry means, if what it comes from is there no more."""
        return entry.format <= FORMAT and len(self._candidates(entry)) == 1

    def _candidates(self, entry: Entry) -> list[Route]:
        wanted = (entry.operation, FORMAT)
        return [
            route for (operation, _, number), route in self.declared.items() if (operation, number) == wanted
        ]

    def of(self, entry: Entry) -> Route:
        """Return the subscription that *entry* belongs to.

        Raises:
            UnreadableEntry: There is none, or its format is that of a newer release.
        """
        if entry.format > FORMAT:
            raise UnreadableEntry(
                f"outbox entry {entry.id} for {self._name!r} has format {entry.format}, and this release reads "
                f"up to {FORMAT}. Upgrade sqla-pubsub where listeners run, then retry the dead letter."
            )
        if (route := self.declared.get((entry.operation, entry.source, FORMAT))) is not None:
            return route
        if (entry.operation, entry.source) in self.renamed:
            return self._candidates(entry)[0]
        raise UnreadableEntry(
            f"outbox entry {entry.id} for {self._name!r} is {entry.operation} of {entry.source!r}, "
            "to which the listener does not subscribe. It was written for another version of it: retry the dead "
            "letter where that one runs, or discard it."
        )
