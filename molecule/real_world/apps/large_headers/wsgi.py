"""An app whose answers have many headers, which nginx takes, and at /large more than it takes."""

from flask import Flask, jsonify

app = Flask(__name__)


def answer(size: int):
    response = jsonify(app="large_headers")
    for number in range(40):
        response.headers[f"X-Number-{number}"] = "x" * size
    return response


@app.get("/")
def index():
    return answer(10)


@app.get("/large")
def large():
    return answer(1000)
