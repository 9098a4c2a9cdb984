"""An app that says which release answers, and on which Python."""

import platform
from pathlib import Path

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    return {"release": Path(__file__).resolve().parent.name, "python": platform.python_version()}
