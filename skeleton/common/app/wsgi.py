"""my-api, a small JSON API. The model is in model.py, and loaded when that is imported."""

from flask import Flask, abort, jsonify, request
from model import predict
from werkzeug.exceptions import HTTPException

app = Flask(__name__)
app.json.ensure_ascii = False
app.config["MAX_CONTENT_LENGTH"] = 1_000_000  # bytes in a request's body


@app.route("/api/v1/predict", methods=["GET", "POST"])
def answer():
    """Answer GET ?text=... and POST {"text": ...}."""
    arguments = request.args if request.method == "GET" else json_object()
    text = arguments.get("text")
    if not isinstance(text, str) or not text.strip():
        abort(400, "'text' is required.")
    return jsonify(predict(text))


@app.get("/healthz")
def alive():
    """Answer as long as the process does."""
    return jsonify(status="alive")


@app.get("/readyz")
def ready():
    """Answer 200 when the model predicts; 503 when it does not."""
    try:
        predict("ready?")
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
