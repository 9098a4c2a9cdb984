"""The example app, asked in-process. Run on the laptop: make unit."""

import importlib.util
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def client():
    spec = importlib.util.spec_from_file_location("wsgi", APP / "wsgi.py")
    wsgi = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wsgi)
    return wsgi.app.test_client()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Привет, как дела?", "ru"),
        ("Où est la bibliothèque", "fr"),
        ("今日はいい天気ですね", "ja"),
        ("Dzień dobry\nwszystkim", "pl"),
        ("สวัสดีชาวโลก", "th"),
    ],
)
def test_names_the_language_by_get_and_by_post(client, text, language):
    by_get = client.get("/api/v1/language", query_string={"text": text})
    by_post = client.post("/api/v1/language", json={"text": text})
    assert by_get.status_code == by_post.status_code == 200
    assert by_get.json == by_post.json
    assert by_get.json["languages"][0]["language"] == language
    assert len(by_get.json["languages"]) == 3


def test_k_limits_the_answer(client):
    answer = client.post("/api/v1/language", json={"text": "hello there", "k": 1})
    assert len(answer.json["languages"]) == 1


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ({"path": "/api/v1/language"}, 400),
        ({"path": "/api/v1/language?text=%20"}, 400),
        ({"path": "/api/v1/language?text=a&k=0"}, 400),
        ({"path": "/api/v1/language?text=a&k=21"}, 400),
        ({"path": "/api/v1/language?text=a&k=x"}, 400),
        ({"path": "/api/v1/language", "method": "POST", "json": {"text": 3}}, 400),
        ({"path": "/api/v1/language", "method": "POST", "json": {"text": "a", "k": 1.5}}, 400),
        ({"path": "/api/v1/language", "method": "POST", "json": [1]}, 400),
        (
            {
                "path": "/api/v1/language",
                "method": "POST",
                "data": "{",
                "content_type": "application/json",
            },
            400,
        ),
        (
            {
                "path": "/api/v1/language",
                "method": "POST",
                "data": "text=a",
                "content_type": "text/plain",
            },
            415,
        ),
        ({"path": "/api/v1/language", "method": "POST", "json": {"text": "a" * 1_000_001}}, 413),
        ({"path": "/api/v1/language", "method": "DELETE"}, 405),
        ({"path": "/nowhere"}, 404),
    ],
)
def test_errors_have_the_right_status_and_are_json(client, call, status):
    answer = client.open(**call)
    assert answer.status_code == status
    assert answer.json["error"]["status"] == status
    assert answer.json["error"]["message"]


def test_alive_and_ready(client):
    assert client.get("/healthz").json == {"status": "alive"}
    assert client.get("/readyz").json == {"status": "ready", "model": "lid.176"}


def test_not_ready_when_the_model_does_not_predict(client, monkeypatch):
    monkeypatch.setitem(
        client.application.view_functions["ready"].__globals__, "predict", lambda *_: 1 / 0
    )
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "division" not in answer.text


def test_a_crash_tells_the_client_nothing(client, monkeypatch):
    monkeypatch.setitem(
        client.application.view_functions["language"].__globals__, "predict", lambda *_: 1 / 0
    )
    answer = client.get("/api/v1/language?text=a")
    assert answer.status_code == 500
    assert answer.json == {"error": {"status": 500, "message": "Internal error."}}


def test_index_shows_how_to_call_it(client):
    assert "/api/v1/language" in client.get("/").text
