import pgpubsub

from benchmarks.harness import context, handled
from benchmarks.peers._django.channels import CommentTriggerChannel
from benchmarks.peers._django.models import Comment, Result

_context = context.load()
handled.configure(_context.handled_folder)

if _context.workload.writes:

    @pgpubsub.post_insert_listener(CommentTriggerChannel)
    def on_comment(old: Comment, new: Comment):
        Result.objects.create(comment_id=new.pk, note="done")
        handled.handled(new.pk)

else:

    @pgpubsub.post_insert_listener(CommentTriggerChannel)
    def on_comment(old: Comment, new: Comment):
        handled.handled(new.pk)
