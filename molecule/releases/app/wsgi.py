"""An app that takes its time to start, and whose answers say which release gave them."""

import os
import time
from pathlib import Path

import yaml
from database import KINDS
from flask import Flask, jsonify, request

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


@app.get("/data")
def data():
    """Answer from the data."""
    return " ".join(row[0] for row in DATABASE.rows())


@app.get("/healthz")
def healthz():
    """Say whether the app works, or whatever it is told to say."""
    return jsonify(healthy=app.config["HEALTH_STATUS"] == 200), app.config["HEALTH_STATUS"]
