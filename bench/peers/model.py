"""The example app's model, for servers that are no Flask: /var/lib/api-endpoint/current has it."""

from pathlib import Path

import fasttext

VERSION = "lid.176"
MODEL = fasttext.load_model(str(next(Path("/var/lib/api-endpoint/current").glob("*.ftz"))))


def languages(text: str) -> dict:
    """Return what the example app answers."""
    labels, scores = MODEL.predict(" ".join(text.split()), k=1)
    found = [
        {"language": label.removeprefix("__label__"), "score": round(min(float(score), 1.0), 4)}
        for label, score in zip(labels, scores, strict=True)
    ]
    return {"languages": found, "model": VERSION}
