"""An API in the shape of the old template's: its data beside it, a database that it writes."""

import os
import sqlite3
import time
from pathlib import Path

import yaml
from flask import Flask, jsonify, request
from flask_cors import CORS

FOLDER = Path(__file__).resolve().parent

app = Flask(__name__)
app.config.update(yaml.safe_load((FOLDER / "flask_config.yaml").read_text()))
CORS(app, resources={"/api/*": {"origins": "*"}})

TITLES = dict(line.split("\t") for line in Path("/etc/api-endpoint/resources/titles.tsv").read_text().splitlines())
WEIGHTS = (FOLDER / "model.bin").stat().st_size
time.sleep(float(app.config.get("LOAD_SECONDS", 3)))


@app.get("/")
def which():
    """Say which release answers: the name of its folder."""
    return jsonify(release=FOLDER.name, titles=len(TITLES), bytes=WEIGHTS)


@app.get("/api/v1/title")
def title():
    """Answer from the data."""
    return jsonify(topic=TITLES.get(request.args["title"], ""))


@app.get("/api/v1/seen")
def seen():
    """Count the visits in the database beside the code."""
    with sqlite3.connect(os.path.join(FOLDER, "seen.sqlite")) as database:
        database.execute("INSERT INTO seen VALUES (1)")
        return jsonify(seen=database.execute("SELECT count(*) FROM seen").fetchone()[0])
