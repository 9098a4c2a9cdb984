"""Asks the version that is about to go live for something, over its own socket, and prints the answer."""

import os
import socket

with socket.socket(socket.AF_UNIX) as client:
    client.connect(os.environ["API_ENDPOINT_SOCKET"])
    client.sendall(b"GET /slow?seconds=0.01 HTTP/1.0\r\nHost: warm-up\r\n\r\n")
    answer = b""
    while more := client.recv(4096):
        answer += more
print(answer.decode())
assert b" 200 " in answer.splitlines()[0]
