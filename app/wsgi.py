"""Which language is a text written in? A small JSON API around a fastText model.

Made to be replaced: the lines between "yours" marks are about this model; the rest serves any model.
"""

from pathlib import Path

import yaml
from flask import Flask, abort, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

# --- yours: the library of your model -------------------------------------------------------------------------
import fasttext

# --- end of yours ---------------------------------------------------------------------------------------------

HERE = Path(__file__).resolve().parent

app = Flask(__name__, template_folder=HERE / "templates")
app.json.ensure_ascii = False
app.config.from_file(HERE / "flask_config.yaml", load=yaml.safe_load)


# --- yours: load the model once, at start; then answer one question with it ------------------------------------
MODEL = fasttext.load_model(str(HERE / app.config["MODEL_FILE"]))


def predict(text: str, k: int) -> list[dict]:
    """Return the `k` most likely languages of `text`, most likely first."""
    labels, scores = MODEL.predict(" ".join(text.split()), k=k)
    return [
        {"language": label.removeprefix("__label__"), "score": round(min(float(score), 1.0), 4)}
        for label, score in zip(labels, scores, strict=True)
    ]


@app.route("/api/v1/language", methods=["GET", "POST"])
def language():
    """Answer GET ?text=...&k=... and POST {"text": ..., "k": ...}."""
    arguments = request.args if request.method == "GET" else json_object()
    text = arguments.get("text")
    if not isinstance(text, str) or not text.strip():
        abort(400, "'text' is required: the text whose language is asked for.")
    most = app.config["MAX_K"]
    k = whole_number(arguments.get("k", app.config["DEFAULT_K"]), "k", 1, most)
    return jsonify(model=app.config["MODEL_VERSION"], languages=predict(text, k))


# --- end of yours ---------------------------------------------------------------------------------------------


@app.get("/")
def index():
    """Show people how to call the API."""
    return render_template("index.html", config=app.config)


@app.get("/healthz")
def alive():
    """Answer as long as the process does."""
    return jsonify(status="alive")


@app.get("/readyz")
def ready():
    """Answer 200 once the model is loaded and predicts; 503 when it does not."""
    try:
        predict("ready?", 1)
    except Exception:
        app.logger.exception("The model does not predict")
        abort(503, "The model does not predict.")
    return jsonify(status="ready", model=app.config["MODEL_VERSION"])


def json_object() -> dict:
    """Return the request's JSON object; 415 when it is not JSON, 400 when it is broken or no object."""
    body = request.get_json()
    if not isinstance(body, dict):
        abort(400, "The body must be a JSON object.")
    return body


def whole_number(value: object, name: str, least: int, most: int) -> int:
    """Return `value` as a whole number from `least` to `most`, or answer 400."""
    try:
        if isinstance(value, (bool, float)):
            raise ValueError
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        number = None
    if number is None or not least <= number <= most:
        abort(400, f"'{name}' must be a whole number from {least} to {most}.")
    return number


@app.errorhandler(HTTPException)
def error(problem: HTTPException):
    """Answer every error as JSON."""
    answer = jsonify(error={"status": problem.code, "message": problem.description})
    return answer, problem.code


@app.errorhandler(Exception)
def crash(_problem: Exception):
    """Log what broke, and tell the client no more than that it did."""
    app.logger.exception("Unexpected error")
    return jsonify(error={"status": 500, "message": "Internal error."}), 500
