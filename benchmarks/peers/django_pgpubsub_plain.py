"""django-pgpubsub with ``lock_notifications = False``: NOTIFY carries the row, nothing is stored."""

from __future__ import annotations

from benchmarks.peers.django_pgpubsub import Peer as _Locked


class Peer(_Locked):
    """django-pgpubsub without its table."""

    name = "django_pgpubsub_plain"
    delivery = "at most once, lost when nobody listens; every process gets every event"
    lock = False
    broadcast = True
    stores = False
    settings = {
        "lock_notifications": False, "consumer": "django-admin listen --processes P", "logging": "WARNING",
        "DEBUG": False, "bulk_create batch_size": 1000,
    }  # fmt: skip
