"""The example app, with two routes that behave like other people's apps."""

import time

from flask import jsonify, request
from wsgi import app


@app.get("/wait")
def wait():
    """Wait as for somebody else's API: ?seconds=."""
    time.sleep(float(request.args["seconds"]))
    return jsonify(waited=True)


@app.get("/compute")
def compute():
    """Keep a processor busy as a larger model does, for ?seconds= of its time."""
    end = time.thread_time() + float(request.args["seconds"])
    while time.thread_time() < end:
        pass
    return jsonify(computed=True)
