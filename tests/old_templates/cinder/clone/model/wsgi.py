import os

from flask import Flask, jsonify, request
from flask_cors import CORS

app = Flask(__name__)
cors = CORS(app, resources={r'/api/*': {'origins': '*'}})
__dir__ = os.path.dirname(__file__)


@app.route('/api/v1/topic', methods=['GET'])
def topic():
    return jsonify(topic=request.args.get('title'))


def look(title):
    import sqlite3
    return sqlite3.connect('/extrastorage/sources.db').execute('SELECT * FROM sources WHERE title = ?', [title]).fetchone()
