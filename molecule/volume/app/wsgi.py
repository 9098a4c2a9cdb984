"""An app that has a part of its data in memory, and reads the rest for each request."""

from pathlib import Path

from flask import Flask, jsonify

FOLDER = Path(__file__).resolve().parent

app = Flask(__name__)
WORDS = (FOLDER / "words.txt").read_text()


@app.get("/")
def from_memory():
    """Answer from what was read at the start."""
    return jsonify(release=FOLDER.name, words=WORDS)


@app.get("/file")
def from_the_disk():
    """Answer from the disk."""
    with (FOLDER / "large.bin").open("rb") as file:
        return jsonify(
            release=FOLDER.name,
            begins=file.read(16).hex(),
            words=(FOLDER / "words.txt").read_text(),
        )
