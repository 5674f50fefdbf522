"""The judge sees a traceback of ours, and takes no other stack for one."""

from tests.faults.oracle import frames_of_ours

OURS = '  File "/x/sqla_pubsub/deliver/listener.py", line 1, in run\n    self.go()\n'
THEIRS = '  File "/x/psycopg/cursor.py", line 2, in execute\n'
BLOCKED = "2026 WARNING 7 loop.blocked: code outside of handlers has blocked the event loop. It is here:\n"
NEXT = "2026 WARNING 7 connection.restored: after 1.0 s\n"


def test_a_traceback_with_a_frame_of_ours_is_shown() -> None:
    assert OURS in frames_of_ours(f"{NEXT}Traceback (most recent call last):\n{OURS}{THEIRS}E\n{NEXT}")
    assert frames_of_ours(f"{NEXT}Traceback (most recent call last):\n{THEIRS}E\n{NEXT}") == ""


def test_a_blocked_loop_counts_where_our_code_blocks_it() -> None:
    assert OURS in frames_of_ours(f"{NEXT}{BLOCKED}{THEIRS}{OURS}{NEXT}")
    assert frames_of_ours(f"{NEXT}{BLOCKED}{OURS}{THEIRS}{NEXT}") == ""
    assert OURS in frames_of_ours(
        f"{BLOCKED}{OURS}{THEIRS}{NEXT}Traceback (most recent call last):\n{OURS}E\n"
    )
