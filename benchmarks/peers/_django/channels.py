import os
from dataclasses import dataclass

from pgpubsub.channel import TriggerChannel

from benchmarks.peers._django.models import Comment


@dataclass
class CommentTriggerChannel(TriggerChannel):
    model = Comment
    lock_notifications = os.environ.get("BENCH_LOCK", "1") == "1"
