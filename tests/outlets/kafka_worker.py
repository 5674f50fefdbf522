"""A worker that sends batches to Kafka until it is killed: ``python -m tests.outlets.kafka_worker URL FIRST``."""

import sys
from itertools import count

from sqla_pubsub.outlet import OutletSettings
from sqla_pubsub.outlets import Kafka
from tests.outlets.numbered import events

SIZE = 20


def main(url: str, first: int) -> None:
    """Take lane 0, say which number it has, and send from there for ever."""
    sender = Kafka("shop.comments").sender(OutletSettings(name="kafka", url=url), "comment_events")
    sender.open()
    had = sender.take(0) or 0
    print(had, flush=True)
    for start in count(max(had + 1, first), SIZE):
        sender.send(events(range(start, start + SIZE)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
