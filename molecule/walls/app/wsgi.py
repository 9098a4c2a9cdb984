"""A hostile app: it tries, when it is told to, to get at all that is not its own."""

from attempts import results
from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/")
@app.get("/readyz")
@app.get("/cached")
def ready():
    """Say that all is well."""
    return jsonify(status="ready")


@app.post("/attempts")
def attempts():
    """Make every attempt."""
    return jsonify(results())
