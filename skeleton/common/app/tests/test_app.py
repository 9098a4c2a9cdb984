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


def test_predicts_by_get_and_by_post(client, wsgi):
    by_get = client.get("/api/v1/predict", query_string=wsgi.EXAMPLE)
    by_post = client.post("/api/v1/predict", json=wsgi.EXAMPLE)
    assert by_get.status_code == by_post.status_code == 200
    assert by_get.json == by_post.json
    assert by_get.json


def test_each_field_is_required_and_of_its_kind(client, wsgi):
    for name, value in wsgi.EXAMPLE.items():
        others = {other: one for other, one in wsgi.EXAMPLE.items() if other != name}
        wrong = (
            [3, " ", None, ["a"]] if isinstance(value, str) else ["a", True, None, "nan", 10**400]
        )
        for question in (others, *({**others, name: one} for one in wrong)):
            answer = client.post("/api/v1/predict", json=question)
            assert answer.status_code == 400, question
            assert f"'{name}' is required" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ({"path": "/api/v1/predict"}, 400),
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
    monkeypatch.setattr(wsgi, "predict", lambda **_: 1 / 0)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "division" not in answer.text
    answer = client.post("/api/v1/predict", json=wsgi.EXAMPLE)
    assert answer.status_code == 500
    assert answer.json == {"error": {"status": 500, "message": "Internal error."}}


def test_the_page_shows_how_to_call_it_and_loads_nothing_from_elsewhere(client, wsgi):
    page = client.get("/")
    assert page.status_code == 200
    assert "/api/v1/predict --json" in page.text
    for name in wsgi.EXAMPLE:
        assert f'<label for="{name}">' in page.text
    assert not [word for word in ("src=", '<link rel="stylesheet', "@import") if word in page.text]
