"""An app that takes its time to start, and whose answers say which release gave them."""

import os
import time
from pathlib import Path

import yaml
from database import KINDS
from flask import Flask, Response, jsonify, request

FOLDER = Path(__file__).resolve().parent
VERSION = "first"

app = Flask(__name__)
app.config.update(yaml.safe_load((FOLDER / "flask_config.yaml").read_text()))
DATABASE = KINDS[app.config["DATABASE"]]()
# A test decides how long the app takes to load.
while app.config["LOAD_UNTIL"] and not Path(app.config["LOAD_UNTIL"]).exists():
    time.sleep(0.05)


@app.get("/")
def which():
    """Say which release answers."""
    return jsonify(release=FOLDER.name, version=VERSION, pid=os.getpid())


@app.get("/slow")
def slow():
    """Say the same after some ?seconds, or when the file ?until exists."""
    time.sleep(float(request.args.get("seconds", 0)))
    while "until" in request.args and not Path(request.args["until"]).exists():
        time.sleep(0.05)
    return which()


@app.route("/told", methods=["GET", "POST"])
def told():
    """Say what arrived, and when, with the headers that the query asks for."""
    answer = jsonify(
        release=FOLDER.name, at=time.monotonic_ns(), headers=dict(request.headers), body=request.get_data(as_text=True)
    )
    answer.headers.update(request.args.items())
    return answer.make_conditional(request)


@app.get("/large")
def large():
    """Answer with as many bytes as the query asks for, each time other ones."""
    return Response(f"{time.monotonic_ns():020}" * (int(request.args["bytes"]) // 20), mimetype="text/plain")


@app.get("/data")
def data():
    """Answer from the data."""
    return " ".join(row[0] for row in DATABASE.rows())


@app.get("/healthz")
def healthz():
    """Say whether the app works, or whatever it is told to say."""
    return jsonify(healthy=app.config["HEALTH_STATUS"] == 200), app.config["HEALTH_STATUS"]
