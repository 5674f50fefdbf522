"""The program of `WebhookEngine`: ``python -m tests.outlets.engines.webhook_server PORT FILE``."""

from __future__ import annotations

import json
import os
import sys
import time
from base64 import b64encode
from typing import Any

import uvicorn

_HEADERS = {b"webhook-id": "webhook-id", b"ce-subject": "subject"}


def application(descriptor: int) -> Any:
    """Return an ASGI application that writes each request to that file before it answers."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        found = {"webhook-id": "", "subject": ""} | {
            _HEADERS[name]: value.decode("ascii") for name, value in scope["headers"] if name in _HEADERS
        }
        line = {**found, "at": time.time(), "body": b64encode(body).decode()}
        # One write to the end of the file: whatever was answered for stands there, though the program be killed.
        os.write(descriptor, json.dumps(line).encode() + b"\n")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    return answer


if __name__ == "__main__":
    port, path = sys.argv[1:]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    uvicorn.run(application(file), host="127.0.0.1", port=int(port), log_level="error", lifespan="off")
