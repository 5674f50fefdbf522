"""Comments whose authors are mailed by a task of Celery, which is sent if and only if the comment was committed."""
