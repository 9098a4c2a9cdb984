"""The model: is a text English or French? Replace it by yours, with the same function."""

from pathlib import Path

import joblib

# A pickle can do anything when it is loaded: load only what you have made yourself.
MODEL = joblib.load(Path(__file__).resolve().parent / "model.joblib")


def predict(text: str) -> dict:
    """Return the most likely label of a text, and how likely it is."""
    scores = MODEL.predict_proba([text])[0]
    best = scores.argmax()
    return {"label": str(MODEL.classes_[best]), "score": round(float(scores[best]), 4)}
