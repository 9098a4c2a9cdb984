"""The model as an API: in each worker, or (SEPARATE=1) in workers of its own."""

import json
import os

if os.environ.get("SEPARATE") == "1":
    from gunicorn.dirty import get_dirty_client

    def answer() -> list[float]:
        """Ask those who have the model."""
        return get_dirty_client().execute("separate:Model", "predict")

else:
    import model

    MODEL = model.load()
    if os.environ.get("ASK") == "1":  # as apps do that warm up when they are imported
        model.predict(MODEL)

    def answer() -> list[float]:
        """Ask the model."""
        return model.predict(MODEL)


def app(environ, start_response):
    """Answer every request."""
    body = json.dumps(answer()).encode()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]
