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
    from sqlitedict import SqliteDict
    with SqliteDict(os.path.join(__dir__, 'resources/gender.sqlite')) as database:
        return database[title]


application = app
