"""The app of these tests: molecule/shared/fault_app, and routes that a test steers by files."""

import time
import uuid
from pathlib import Path

from flask import Response, jsonify, request
from wsgi import app, ready

__all__ = ["app"]


@app.route("/told", methods=["GET", "POST"])
def told():
    """Tell what arrived, and when, with the headers that the query names."""
    answer = jsonify(
        at=time.monotonic_ns(), headers=dict(request.headers), body=request.get_data(as_text=True)
    )
    answer.headers.update(request.args.items())
    return answer.make_conditional(request)


@app.get("/large")
def large():
    """Answer with ?bytes, different ones each time."""
    number = f"{time.monotonic_ns():020}"
    return Response(number * (int(request.args["bytes"]) // 20), mimetype="text/plain")


@app.get("/hold")
def hold():
    """Leave a file in the folder ?in, and answer when the file `release` is there too."""
    folder = Path(request.args["in"])
    (folder / f"held-{uuid.uuid4().hex}").touch()
    end = time.monotonic() + 300
    while not (folder / "release").exists() and time.monotonic() < end:
        time.sleep(0.01)
    return ready()


@app.get("/parts")
def parts():
    """Answer with a first part at once, and with the last one when the file `release` is in the folder ?in."""
    folder = Path(request.args["in"])

    def made():
        yield "first"
        end = time.monotonic() + 300
        while not (folder / "release").exists() and time.monotonic() < end:
            time.sleep(0.01)
        yield "last"

    return Response(made(), mimetype="text/event-stream")
