"""The app of test_asgi.py, without a framework: each path is one thing that an ASGI app may do."""

import asyncio
import json
import os
from pathlib import Path
from urllib.parse import parse_qs

started = []  # by the lifespan protocol, in each worker


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        started.append(os.getpid())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    asked = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    await {"/told": told, "/parts": parts, "/hang": hang, "/fail": fail}.get(scope["path"], ready)(
        scope, receive, send, asked
    )


async def whole(send, told, status=200):
    body = json.dumps(told).encode()
    length = (b"content-length", str(len(body)).encode())
    headers = [(b"content-type", b"application/json"), length]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def ready(scope, receive, send, asked):
    await whole(send, {"pid": os.getpid(), "started": started})


async def told(scope, receive, send, asked):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    known = {name: scope[name] for name in ("method", "scheme", "path", "server", "client")}
    await whole(send, {**known, "headers": headers, "body": body.decode()})


async def parts(scope, receive, send, asked):
    kind = asked.get("type", "text/event-stream").encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    for number in range(int(asked.get("n", 0))):
        await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"%d," % number, "more_body": True})
    while "in" in asked and not (Path(asked["in"]) / "release").exists():
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"last"})


async def hang(scope, receive, send, asked):
    await asyncio.sleep(600)


async def fail(scope, receive, send, asked):
    raise RuntimeError("as asked")
