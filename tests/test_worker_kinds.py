"""Which kind an app is, so that workers of the other kind refuse it."""

import functools

import api_endpoint_worker
import pytest


async def asgi(scope, receive, send):
    pass


def wsgi(environ, start_response):
    pass


class Starlette:
    async def __call__(self, scope, receive, send):
        pass

    async def method(self, scope, receive, send):
        pass


class Flask:
    def __call__(self, environ, start_response):
        pass


class Middleware:
    """Nothing tells what it is."""

    def __call__(self, *arguments):
        pass


@pytest.mark.parametrize(
    ("app", "is_asgi", "is_wsgi"),
    [
        (asgi, True, False),
        (Starlette(), True, False),
        (Starlette().method, True, False),
        (functools.partial(asgi), True, False),
        (wsgi, False, True),
        (Flask(), False, True),
        (functools.partial(wsgi), False, True),
        (Middleware(), False, False),
        (dict, False, False),
        (7, False, False),
    ],
)
def test_kinds(app, is_asgi, is_wsgi):
    assert api_endpoint_worker.is_asgi(app) is is_asgi
    assert api_endpoint_worker.is_wsgi(app) is is_wsgi
