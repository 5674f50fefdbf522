"""An application of Celery as somebody has it, which knows nothing of us: its task writes down what it was called with."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery

app = Celery("somebody", broker=os.environ.get("BROKER_OF_TEST"))
app.conf.broker_connection_retry_on_startup = True


@app.task(bind=True)  # type: ignore[untyped-decorator]
def write_down(task: Any, *args: Any, **kwargs: Any) -> None:
    line = {
        "id": task.request.id,
        "args": args,
        "kwargs": kwargs,
        "traceparent": task.request.get("traceparent"),
    }
    with open(os.environ["FILE_OF_TEST"], "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(json.dumps(line) + "\n")
