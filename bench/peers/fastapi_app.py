"""The example's question, asked of FastAPI."""

from fastapi import FastAPI
from model import languages

app = FastAPI()


@app.get("/api/v1/language")
def language(text: str) -> dict:
    """Answer ?text=..., in a thread, as FastAPI recommends it for what keeps a processor busy."""
    return languages(text)
