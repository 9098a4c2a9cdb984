import os

from flask import Flask, jsonify, request
from flask_cors import CORS

app = Flask(__name__)
cors = CORS(app, resources={r'/api/*': {'origins': '*'}})
__dir__ = os.path.dirname(__file__)


@app.route('/api/v1/topic', methods=['GET'])
def topic():
    return jsonify(topic=request.args.get('title'))


def queue(lang):
    import persistqueue
    return persistqueue.SQLiteQueue(f'/etc/api-endpoint/{lang}-queue')


def log(text):
    with open(os.path.join(__dir__, 'log.txt'), 'a') as file:
        file.write(text)
