"""The model: is a text English or French? Replace it by yours, with the same two names."""

import torch
from network import LABELS, WEIGHTS, encode, network

# A question: the name of each field, with an example of its kind. The page at / and the tests ask it.
EXAMPLE = {"text": "Où est la bibliothèque ?"}

# Mapped from the file, the weights are one copy for all workers.
with torch.device("meta"):
    MODEL = network()
MODEL.load_state_dict(torch.load(WEIGHTS, mmap=True, weights_only=True), assign=True)
MODEL.eval()


def predict(text: str) -> dict:
    """Return the most likely label of a text, and how likely it is."""
    with torch.inference_mode():
        scores = MODEL(encode(text)).softmax(1)[0]
    best = int(scores.argmax())
    return {"label": LABELS[best], "score": round(float(scores[best]), 4)}
