"""django-pgpubsub with ``lock_notifications = True``, its exactly-once mode."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.harness import schema
from benchmarks.harness.adapter import PeerBase, Producer

SETTINGS = {"DJANGO_SETTINGS_MODULE": "benchmarks.peers._django.settings"}


class DjangoProducer(Producer):
    """Inserts by Django's ORM: ``create()`` is one statement that commits by itself."""

    def __init__(self):
        from django.db import connection

        from benchmarks.peers._django.models import Comment, CommentBase

        self._models = {False: Comment, True: CommentBase}
        self._connection = connection

    def insert_one(self, number, base=False):
        row = self._models[base].objects.create(**schema.row(number))
        return row.pk, time.time()

    def insert_bulk(self, start, rows, base=False):
        model = self._models[base]
        new = [model(**schema.row(number)) for number in range(start, start + rows)]
        return [row.pk for row in model.objects.bulk_create(new, batch_size=1000)]

    def scalar(self, query):
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]


class Peer(PeerBase):
    """django-pgpubsub."""

    name = "django_pgpubsub"
    environment = "django"
    packages = ("django-pgpubsub", "Django", "django-pgtrigger", "psycopg2-binary")
    delivery = "exactly once per database effect (row locked, handled, deleted in one transaction)"
    lock = True
    settings = {
        "lock_notifications": True, "consumer": "django-admin listen --processes P --recover",
        "logging": "WARNING", "DEBUG": False, "bulk_create batch_size": 1000,
    }  # fmt: skip
    rows = {"drain": 10_000, "drain_db": 10_000}

    def _environment(self):
        return {**SETTINGS, "BENCH_LOCK": "1" if self.lock else "0"}

    def setup(self, context):
        command = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
        subprocess.run(command, check=True, env=os.environ | self._environment())

    def producer(self, context):
        os.environ.update(self._environment())
        import django

        django.setup()
        return DjangoProducer()

    def consumers(self, context, programs):
        command = [
            str(programs / "python"), "-m", "django", "listen", "--processes", str(context.processes),
            "--loglevel", "warning",
        ]  # fmt: skip
        return [([*command, "--recover"] if self.lock else command, self._environment())]

    def pending(self, context, cursor):
        if not self.lock:
            return None
        cursor.execute("SELECT count(*) FROM pgpubsub_notification")
        return cursor.fetchone()[0]
