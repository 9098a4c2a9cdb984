"""Answers with what is in its data: a file and a folder."""

from pathlib import Path

from flask import Flask

app = Flask(__name__)
HERE = Path(__file__).parent


@app.get("/")
def read():
    """Return the word in the file, and the names in the folder."""
    return {
        "word": (HERE / "word.txt").read_text(),
        "names": sorted(path.name for path in (HERE / "tables").iterdir()),
    }
