"""An app as people made them for the old template: flat in /etc/api-endpoint, its data beside it, no health route."""

import gzip
import json
import os
import sqlite3
import threading
import time

import ahocorasick
import yaml
from flask import Flask, jsonify, request
from flask_cors import CORS
from helpers.text import normalise

app = Flask(__name__)
CORS(app, resources={r"/api/*": {"origins": "*"}})
__dir__ = os.path.dirname(__file__)
with open(os.path.join(__dir__, "flask_config.yaml")) as config:
    app.config.update(yaml.safe_load(config))

# Data by a path relative to this file, by the absolute path of the old template, and on the old volume.
with gzip.open(os.path.join(__dir__, "resources/titles.tsv.gz"), "rt") as titles:
    TITLES = dict(line.rstrip("\n").split("\t") for line in titles)
with open("/etc/api-endpoint/weights.bin", "rb") as weights:
    WEIGHTS = weights.read()
with open("/extrastorage/notes.txt") as notes:
    NOTES = notes.read().strip()

FINDER = ahocorasick.Automaton()
for title in TITLES:
    FINDER.add_word(title, title)
FINDER.make_automaton()

# An SQLite file, opened in a mode that writes, used from a thread that starts when the app is imported.
DATABASE = sqlite3.connect(os.path.join(__dir__, "counts.sqlite"), check_same_thread=False)
DATABASE.execute("PRAGMA journal_mode=WAL")
LOCK = threading.Lock()
QUEUE = os.path.join(__dir__, "queue")


def work():
    while True:
        time.sleep(0.2)
        for name in os.listdir(QUEUE):
            with open(os.path.join(QUEUE, name)) as job:
                title = json.load(job)["title"]
            with LOCK:
                DATABASE.execute("INSERT INTO seen VALUES (?)", (title,))
                DATABASE.commit()
            os.unlink(os.path.join(QUEUE, name))


threading.Thread(target=work, daemon=True).start()


@app.route("/api/v1/title", methods=["GET"])
def get_title():
    title = normalise(request.args.get("title", ""))
    if title not in TITLES:
        return jsonify({"error": "no such title"}), 404
    with open(os.path.join(QUEUE, f"{time.time_ns()}.json"), "w") as job:
        json.dump({"title": title}, job)
    found = [word for _, word in FINDER.iter(title)]
    return jsonify(
        {
            "title": title,
            "topic": TITLES[title],
            "found": found,
            "bytes": len(WEIGHTS),
            "notes": NOTES,
        }
    )


@app.route("/api/v1/seen", methods=["GET"])
def get_seen():
    with LOCK:
        return jsonify(
            {
                "seen": DATABASE.execute("SELECT count(*) FROM seen").fetchone()[0],
                "mode": app.config["MODE"],
            }
        )


@app.route("/api/v1/caller", methods=["GET"])
def get_caller():
    return jsonify(
        {
            "address": request.remote_addr,
            "headers": dict(request.headers),
            "threads": os.environ["OMP_NUM_THREADS"],
        }
    )


@app.route("/api/v1/overwrite", methods=["GET"])
def overwrite():
    path = os.path.join(__dir__, request.args["path"])
    try:
        with open(path, "a") as file:
            file.write("x")
    except OSError as error:
        return jsonify({"written": False, "error": str(error)})
    return jsonify({"written": True})


if __name__ == "__main__":
    app.run()
