"""The app, asked in-process, with what requirements.txt names and pytest: pytest endpoints/my-api"""

import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wsgi():
    if (APP / "train.py").exists():
        subprocess.run([sys.executable, "train.py"], cwd=APP, check=True)
    sys.path.insert(0, str(APP))
    import wsgi

    return wsgi


@pytest.fixture
def client(wsgi):
    return wsgi.app.test_client()


@pytest.mark.parametrize(
    ("text", "label"), [("Où est la bibliothèque ?", "fr"), ("Where is the library?", "en")]
)
def test_predicts_by_get_and_by_post(client, text, label):
    by_get = client.get("/api/v1/predict", query_string={"text": text})
    by_post = client.post("/api/v1/predict", json={"text": text})
    assert by_get.status_code == by_post.status_code == 200
    assert by_get.json == by_post.json
    assert by_get.json["label"] == label
    assert 0 < by_get.json["score"] <= 1


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ({"path": "/api/v1/predict"}, 400),
        ({"path": "/api/v1/predict?text=%20"}, 400),
        ({"path": "/api/v1/predict", "method": "POST", "json": {"text": 3}}, 400),
        ({"path": "/api/v1/predict", "method": "POST", "json": ["a"]}, 400),
        (
            {
                "path": "/api/v1/predict",
                "method": "POST",
                "data": "{",
                "content_type": "application/json",
            },
            400,
        ),
        ({"path": "/api/v1/predict", "method": "POST", "data": "text=a"}, 415),
        ({"path": "/api/v1/predict", "method": "POST", "json": {"text": "a" * 1_000_001}}, 413),
        ({"path": "/api/v1/predict", "method": "DELETE"}, 405),
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
    assert client.get("/readyz").json == {"status": "ready"}


def test_a_model_that_does_not_predict(client, wsgi, monkeypatch):
    monkeypatch.setattr(wsgi, "predict", lambda _: 1 / 0)
    assert client.get("/readyz").status_code == 503
    answer = client.get("/api/v1/predict?text=a")
    assert answer.status_code == 500
    assert answer.json == {"error": {"status": 500, "message": "Internal error."}}
