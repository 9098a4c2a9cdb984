"""Streams: a sign of life, the share of places, and the way through nginx. The app is wire_app.py's kind, in here."""
