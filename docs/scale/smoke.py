"""The smoke request of the example app as a startup probe: a real question, its answer, or exit status 1."""

import json
import sys
import urllib.request

port = sys.argv[1] if len(sys.argv) > 1 else "8080"
request = urllib.request.Request(
    f"http://127.0.0.1:{port}/api/v1/language",
    data=json.dumps({"text": "Où est la bibliothèque ?"}).encode(),
    headers={"Content-Type": "application/json"},
)
try:
    with urllib.request.urlopen(request, timeout=5) as answer:
        body = answer.read()
except OSError as error:
    sys.exit(f"No answer: {error}")
if b'"fr"' not in body:
    sys.exit(f"Another answer than expected: {body[:200]!r}")
