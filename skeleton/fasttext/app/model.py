"""The model: in which of 176 languages is a text? Replace it by yours, with the same two names."""

from pathlib import Path

import fasttext

# A question: the name of each field, with an example of its kind. The page at / and the tests ask it.
EXAMPLE = {"text": "Où est la bibliothèque ?"}

MODEL = fasttext.load_model(str(Path(__file__).resolve().parent / "lid.176.ftz"))


def predict(text: str) -> dict:
    """Return the most likely label of a text, and how likely it is."""
    labels, scores = MODEL.predict(" ".join(text.split()))
    return {
        "label": labels[0].removeprefix("__label__"),
        "score": round(min(float(scores[0]), 1.0), 4),
    }
