"""An app of FastAPI's: an answer, events, and the page that shows how to call it."""

import asyncio

from fastapi.responses import StreamingResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel

app = FastAPIOffline(title="fastapi")


class Question(BaseModel):
    text: str


@app.get("/")
async def ready() -> dict:
    return {"app": "fastapi"}


@app.post("/predict")
def predict(question: Question) -> dict:
    return {"length": len(question.text)}


@app.get("/events")
async def events(n: int) -> StreamingResponse:
    async def made():
        for number in range(n):
            yield f"data: {number}\n\n"
            await asyncio.sleep(1)

    return StreamingResponse(made(), media_type="text/event-stream")
