"""A helper package beside wsgi.py."""


def normalise(title):
    return title.strip().replace(" ", "_")
