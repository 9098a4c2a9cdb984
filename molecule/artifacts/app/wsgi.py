"""An app that says which release answers, and with which data; it does not start with a model that is none."""

import hashlib
import os
import sqlite3
from pathlib import Path

from flask import Flask, jsonify

FOLDER = Path(__file__).resolve().parent
MAGIC = bytes(8)  # how the scenario's server begins every file

app = Flask(__name__)


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load() -> dict[str, str]:
    """Read the model and all data; return their digests by name."""
    with (FOLDER / "model.bin").open("rb") as model:
        if model.read(8) != MAGIC:
            raise ValueError("model.bin is not a model")
    names = ["model.bin"]
    for folder, _, files in os.walk(FOLDER / "data", followlinks=True):
        names += [str(Path(folder, name).relative_to(FOLDER)) for name in files]
    return {name: sha256(FOLDER / name) for name in sorted(names)}


DATA = load()


@app.get("/")
def which():
    """Say which release answers, with which data."""
    return jsonify(release=FOLDER.name, data=DATA)


@app.get("/titles")
def titles():
    """Answer from the database that was made of a table."""
    database = sqlite3.connect(f"file:{FOLDER / 'titles.sqlite'}?mode=ro&immutable=1", uri=True)
    try:
        return dict(database.execute("SELECT title, topic FROM titles ORDER BY title").fetchall())
    finally:
        database.close()
