"""my-api, a small JSON API. The model is in model.py, and loaded when that is imported."""

import math

from flask import Flask, abort, jsonify, render_template, request
from model import EXAMPLE, predict
from werkzeug.exceptions import HTTPException

app = Flask(__name__)
app.json.ensure_ascii = False
app.config["MAX_CONTENT_LENGTH"] = 1_000_000  # bytes in a request's body


@app.get("/")
def index():
    """Show people how to call the API, and let them try it."""
    return render_template("index.html", example=EXAMPLE)


@app.route("/api/v1/predict", methods=["GET", "POST"])
def answer():
    """Answer a question: GET with ?name=value for each field of EXAMPLE, or POST with a JSON object."""
    given = request.args if request.method == "GET" else json_object()
    question = {name: field(name, given.get(name), one) for name, one in EXAMPLE.items()}
    return jsonify(predict(**question))


def field(name: str, value: object, example: str | float) -> str | float:
    """Return a field's value, of the kind that its example has: a text or a number; 400 for anything else."""
    if isinstance(example, str):
        if not isinstance(value, str) or not value.strip():
            abort(400, f"'{name}' is required, a text such as '{example}'.")
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        abort(400, f"'{name}' is required, a number such as {example}.")
    return number


@app.get("/healthz")
def alive():
    """Answer as long as the process does."""
    return jsonify(status="alive")


@app.get("/readyz")
def ready():
    """Answer 200 when the model predicts; 503 when it does not."""
    try:
        predict(**EXAMPLE)
    except Exception:
        app.logger.exception("The model does not predict")
        abort(503, "The model does not predict.")
    return jsonify(status="ready")


def json_object() -> dict:
    """Return the request's JSON object; 415 when it is not JSON, 400 when it is broken or no object."""
    body = request.get_json()
    if not isinstance(body, dict):
        abort(400, "The body must be a JSON object.")
    return body


@app.errorhandler(HTTPException)
def error(problem: HTTPException):
    """Answer every error as JSON."""
    return jsonify(error={"status": problem.code, "message": problem.description}), problem.code


@app.errorhandler(Exception)
def crash(_problem: Exception):
    """Log what broke, and tell the client no more than that it did."""
    app.logger.exception("Unexpected error")
    return jsonify(error={"status": 500, "message": "Internal error."}), 500
