"""The smallest app, which the other tests deploy others over."""


def test_it_answers(api):
    assert api.get("/").json == {"app": "plain"}
