"""What a client sees."""

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
        "POST", "/api/v1/language", json.dumps({"text": text}), {"Content-Type": "application/json; charset=utf-8"}
    )
    assert by_get.status == by_post.status == 200
    assert by_get.json == by_post.json
    assert by_get.json["languages"][0]["language"] == language
    assert_readable_by_a_browser(by_get)
    assert_readable_by_a_browser(by_post)


def test_errors_of_the_app_pass_as_they_are(api):
    assert_json_error(api.get("/api/v1/language"), 400)
    assert_json_error(api.get("/nowhere"), 404)
    assert_json_error(api.ask("DELETE", "/api/v1/language"), 405)
    assert_json_error(api.ask("POST", "/api/v1/language", "text=a", {"Content-Type": "text/plain"}), 415)


def test_errors_of_nginx_are_json_that_a_browser_can_read(api):
    assert_json_error(api.ask("POST", "/api/v1/language", b"x" * 2_000_000), 413)
    assert_json_error(api.get("/" + "a" * 20_000), 414)
    assert_json_error(api.get("/", headers={"X-Long": "a" * 20_000}), 431)


def test_an_unknown_name_is_refused(api):
    answer = api.get("/healthz", headers={"Host": "somebody-else.example"})
    assert_json_error(answer, 404)
    assert "no API of that name" in answer.json["error"]["message"]


def test_an_unintelligible_request_is_refused(api):
    assert_json_error(api.get("/", headers={"Content-Length": "x"}), 400)


def test_a_stopped_app_can_still_be_asked_for_permission_and_says_502(api):
    unit = api.unit
    api.host.check_output(f"systemctl stop {unit}")
    try:
        preflight = api.ask("OPTIONS", "/api/v1/language", headers={"Access-Control-Request-Method": "POST"})
        assert preflight.status == 204
        assert_readable_by_a_browser(preflight)
        assert "POST" in preflight.all("Access-Control-Allow-Methods")[0]
        assert "Content-Type" in preflight.all("Access-Control-Allow-Headers")[0]
        assert_json_error(api.get("/healthz"), 502)
    finally:
        api.host.check_output(f"systemctl start {unit}")
    api.wait_until_it_answers("/readyz")


def test_only_preflights_carry_what_belongs_to_preflights(api):
    answer = api.get("/healthz")
    assert not answer.all("Access-Control-Allow-Methods")
    assert not answer.all("Access-Control-Max-Age")


def test_nothing_says_which_software_answers(api):
    assert api.get("/healthz").all("Server") == ["nginx"]


def test_the_web_proxy_decides_the_scheme(api):
    assert b"https://language.wmcloud.org/api" in api.get("/", headers={"X-Forwarded-Proto": "https"}).body
    assert b"http://language.wmcloud.org/api" in api.get("/").body
