"""The model: is a text English or French? For yours: EXAMPLE, and model.joblib beside this file."""

from pathlib import Path

import joblib

# A question: the name of each field, with an example of its kind. The page at / and the tests ask it.
# A model that takes texts, such as a pipeline with a TfidfVectorizer, has one field:
EXAMPLE = {"text": "Où est la bibliothèque ?"}
# One that takes a row of numbers has a field for each, in the order in which it was trained:
# EXAMPLE = {"petal_length": 1.4, "petal_width": 0.2}

# A pickle can do anything when it is loaded: load only what you have made yourself.
MODEL = joblib.load(Path(__file__).resolve().parent / "model.joblib")


def check() -> None:
    """Refuse to start with an EXAMPLE that is not what the model was trained with."""
    names = [str(name) for name in getattr(MODEL, "feature_names_in_", [])]
    count = getattr(MODEL, "n_features_in_", 1)  # a pipeline that begins with a vectorizer has none
    if names and names != list(EXAMPLE):
        raise ValueError(
            f"EXAMPLE in model.py has {list(EXAMPLE)}; the model was trained with {names}."
        )
    if count != len(EXAMPLE):
        raise ValueError(
            f"EXAMPLE in model.py has {len(EXAMPLE)} fields; the model was trained with {count}."
        )


def predict(**question: str | float) -> dict:
    """Return the most likely label and how likely it is, or the number that a regression predicts."""
    values = list(question.values())
    # A model that was trained with a DataFrame: pandas in requirements.txt, and pandas.DataFrame([question]).
    row = values if isinstance(values[0], str) else [values]
    if hasattr(MODEL, "predict_proba"):
        scores = MODEL.predict_proba(row)[0]
        best = scores.argmax()
        return {"label": str(MODEL.classes_[best]), "score": round(float(scores[best]), 4)}
    found = MODEL.predict(row)[0]
    return {"label": str(found)} if hasattr(MODEL, "classes_") else {"value": float(found)}


check()
