"""An app that sends whoever comes by plain HTTP to HTTPS, as Flask-Talisman and others do."""

from flask import Flask, jsonify, redirect, request

app = Flask(__name__)


@app.before_request
def insist_on_https():
    if request.headers.get("X-Forwarded-Proto") != "https":
        return redirect(request.url.replace("http:", "https:", 1))
    return None


@app.get("/")
def index():
    return jsonify(app="https_only")
