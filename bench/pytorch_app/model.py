"""A model of PyTorch's, of about a gigabyte: an embedding and some layers on it."""

import os
from pathlib import Path

import torch

WEIGHTS = Path(__file__).resolve().parent / "weights.pt"
ROWS, WIDTH = 1_750_000, 128  # 0.9 GB
WORDS = 256  # in a text; an answer takes some ten milliseconds


def empty() -> torch.nn.Module:
    """Return the model without memory of its own for the weights."""
    with torch.device("meta"):
        hidden = [
            torch.nn.Linear(WIDTH, 2048),
            torch.nn.ReLU(),
            torch.nn.Linear(2048, 2048),
            torch.nn.ReLU(),
        ]
        return torch.nn.Sequential(
            torch.nn.Embedding(ROWS, WIDTH), *hidden, torch.nn.Linear(2048, 16)
        )


def write() -> None:
    """Make the weights up."""
    torch.manual_seed(0)
    torch.save(
        {name: torch.randn(it.shape) / 50 for name, it in empty().state_dict().items()}, WEIGHTS
    )


def load() -> torch.nn.Module:
    """Return the model, with weights of its own, or (MMAP=1) with those in the file, which all processes share."""
    torch.set_num_threads(int(os.environ.get("TORCH_THREADS", 1)))
    weights = torch.load(WEIGHTS, mmap=os.environ.get("MMAP") == "1", weights_only=True)
    model = empty()
    model.load_state_dict(weights, assign=True)
    return model.eval()


def predict(model: torch.nn.Module) -> list[float]:
    """Answer about a text that nobody wrote."""
    with torch.inference_mode():
        words = torch.randint(0, ROWS, (WORDS,))
        return [round(float(value), 4) for value in model(words).mean(0)]


if __name__ == "__main__":
    write()
