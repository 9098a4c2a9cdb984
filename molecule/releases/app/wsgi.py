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
time.sleep(app.config["LOAD_SECONDS"])


@app.get("/")
def which():
    """Say which release answers."""
    return jsonify(release=FOLDER.name, version=VERSION, pid=os.getpid())


@app.get("/slow")
def slow():
    """Say the same, after a while."""
    time.sleep(float(request.args["seconds"]))
    return which()


@app.get("/data")
def data():
    """Answer from the data."""
    return " ".join(row[0] for row in DATABASE.rows())


@app.get("/healthz")
def healthz():
    """Say whether the app works, or whatever it is told to say."""
    return jsonify(healthy=app.config["HEALTH_STATUS"] == 200), app.config["HEALTH_STATUS"]
