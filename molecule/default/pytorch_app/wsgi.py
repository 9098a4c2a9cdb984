"""A small network of PyTorch's: convolutions make machine code while they run, which a sandbox may forbid."""

import torch
from flask import Flask, jsonify

app = Flask(__name__)
torch.manual_seed(1)
MODEL = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 30 * 30, 2)
).eval()


@app.get("/readyz")
@app.get("/")
def predict():
    """Answer with what the network makes of an image of ones."""
    with torch.inference_mode():
        return jsonify(
            scores=MODEL(torch.ones(1, 3, 32, 32))[0].tolist(), version=torch.__version__
        )
