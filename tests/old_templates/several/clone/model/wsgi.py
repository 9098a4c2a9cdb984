import os

from flask import Flask, jsonify, request
from flask_cors import CORS

app = Flask(__name__)
cors = CORS(app, resources={r'/api/*': {'origins': '*'}})
__dir__ = os.path.dirname(__file__)


@app.route('/api/v1/topic', methods=['GET'])
def topic():
    return jsonify(topic=request.args.get('title'))


@app.before_request
def check():
    if request.headers.get('X-Token') != 'a':
        app.logger.info(request.headers['User-Agent'])
