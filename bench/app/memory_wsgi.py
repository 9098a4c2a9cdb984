"""A large model of many Python objects, which is the hardest to share, or of one block."""

import os
import random

SIZE = int(os.environ["MODEL_BYTES"])
# A list with its numbers has 140 bytes.
MODEL = (
    [[i, i + 0.5] for i in range(SIZE // 140)] if os.environ["MODEL"] == "objects" else b"x" * SIZE
)


def app(environ, start_response):
    """Look something up in it."""
    found = MODEL[random.randrange(len(MODEL))] if MODEL else ""
    body = str(found).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
