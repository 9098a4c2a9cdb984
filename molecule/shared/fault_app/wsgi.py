"""An app that does, when asked, everything that an app should not: the tests ask it to."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from flask import Flask, Response, jsonify, request

app = Flask(__name__)
RELEASE = Path(__file__).resolve().parent.name
HOARD: list[bytearray] = []  # memory that is never given back


@app.get("/")
@app.get("/readyz")
def ready():
    """Say that all is well, and who answers."""
    return jsonify(status="ready", release=RELEASE, pid=os.getpid())


@app.route("/environ", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def environ():
    """Tell all that the app learns of a request."""
    return jsonify(
        {
            name: value
            for name, value in request.environ.items()
            if isinstance(value, (str, int, float))
        }
    )


@app.route("/echo", methods=["GET", "POST"])
def echo():
    """Send the body back, as it came."""
    return Response(request.get_data(), mimetype="application/octet-stream")


@app.get("/status/<int:status>")
def status(status: int):
    """Answer with a status."""
    return jsonify(error={"status": status, "message": "as asked"}), status


@app.get("/headers")
def headers():
    """Answer with the headers that the query names, such as ?X-A=1."""
    return jsonify(status="ready"), 200, dict(request.args)


@app.get("/sleep")
def sleep():
    """Answer after ?seconds."""
    time.sleep(float(request.args["seconds"]))
    return ready()


@app.get("/wait")
def wait():
    """Answer when there is a file at ?path."""
    while not os.path.exists(request.args["path"]):
        time.sleep(0.05)
    return ready()


@app.get("/hang")
def hang():
    """Never answer."""
    while True:
        time.sleep(1)


@app.get("/burn")
def burn():
    """Compute for ?ms milliseconds of this thread's own time, then answer."""
    until = time.thread_time() + float(request.args["ms"]) / 1000
    while time.thread_time() < until:
        pass
    return ready()


@app.get("/traceback")
def traceback():
    """Fail as a bug does; Flask logs the traceback and answers 500."""
    raise RuntimeError("a bug, as asked")


@app.get("/half")
def half():
    """Die in the middle of an answer."""

    def parts():
        yield b"x" * 20_000
        os.kill(os.getpid(), signal.SIGKILL)

    return Response(parts(), headers={"Content-Length": "40000"})


@app.get("/crash")
def crash():
    """Crash the interpreter."""
    ctypes.string_at(0)


@app.get("/eat")
def eat():
    """Take ?mb megabytes of memory and keep them."""
    HOARD.append(bytearray(os.urandom(1)) * (int(request.args["mb"]) * 1_000_000))
    return ready()


@app.get("/fork")
def fork():
    """Start processes that stay, without end, or ?most at the most; say how many there were and what stopped it."""
    started, error = 0, ""
    try:
        for _ in range(int(request.args.get("most", 2000))):
            # Each ends by itself after a while, whatever becomes of us.
            subprocess.Popen(["sleep", request.args.get("seconds", "60")])
            started += 1
    except OSError as problem:
        error = str(problem)
    return jsonify(started=started, error=error)


@app.get("/connect")
def connect():
    """Try to reach ?host and ?port over the network."""
    try:
        socket.create_connection(
            (request.args["host"], int(request.args["port"])), timeout=2
        ).close()
    except OSError as problem:
        return jsonify(connected=False, error=str(problem))
    return jsonify(connected=True, error="")


@app.get("/write")
def write():
    """Try to write to ?path."""
    try:
        with open(request.args["path"], "a") as file:
            file.write("x")
    except OSError as problem:
        return jsonify(written=False, error=str(problem))
    return jsonify(written=True, error="")


@app.get("/secret")
def secret():
    """Tell a secret."""
    return jsonify(value=os.environ.get(request.args["name"]))


@app.get("/time")
def wall_clock():
    """Tell the time."""
    return jsonify(time=time.time(), pid=os.getpid())
