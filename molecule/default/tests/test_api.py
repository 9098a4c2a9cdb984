"""A client's view of a deployed endpoint. Errors and CORS of every status: tests/component/test_error_answers.py."""

import json
from urllib.parse import quote

import pytest
from outcomes import assert_json_error, assert_readable_by_a_browser


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Привет, как дела?", "ru"),
        ("Où est la bibliothèque", "fr"),
        ("今日はいい天気ですね", "ja"),
        ("Dzień dobry wszystkim", "pl"),
        ("สวัสดีชาวโลก", "th"),
    ],
)
def test_the_model_answers(api, text, language):
    by_get = api.get(f"/api/v1/language?text={quote(text)}")
    by_post = api.ask(
        "POST",
        "/api/v1/language",
        json.dumps({"text": text}),
        {"Content-Type": "application/json; charset=utf-8"},
    )
    assert by_get.status == by_post.status == 200
    assert by_get.json == by_post.json
    assert by_get.json["languages"][0]["language"] == language
    assert_readable_by_a_browser(by_get)
    assert_readable_by_a_browser(by_post)


def test_errors_are_json_that_a_browser_can_read(api):
    assert_json_error(api.get("/api/v1/language"), 400)  # the app's
    assert_json_error(
        api.ask("POST", "/api/v1/language", headers={"Content-Length": "2000000"}), 413
    )  # nginx's


def test_an_unknown_name_is_refused(api):
    assert_json_error(api.get("/healthz", headers={"Host": "somebody-else.example"}), 404)


def test_a_stopped_app_leaves_preflights_and_json_errors(api):
    unit = api.unit
    api.host.check_output(f"systemctl stop {unit}")
    try:
        preflight = api.ask(
            "OPTIONS", "/api/v1/language", headers={"Access-Control-Request-Method": "POST"}
        )
        assert preflight.status == 204
        assert_readable_by_a_browser(preflight)
        assert_json_error(api.get("/healthz"), 502)
    finally:
        api.host.check_output(f"systemctl start {unit}")
    api.wait_until_it_answers("/readyz")


def test_the_web_proxy_decides_the_scheme(api):
    assert (
        b"https://language.wmcloud.org/api"
        in api.get("/", headers={"X-Forwarded-Proto": "https"}).body
    )
    assert b"http://language.wmcloud.org/api" in api.get("/").body
