"""Requests as nginx sends them to the workers."""

USUAL = {
    "REQUEST_METHOD": "GET",
    "QUERY_STRING": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.url_scheme": "http",
    "HTTP_HOST": "x",
}


def packet(url: str = "/with_length", size: int | None = None, **variables: str | None) -> bytes:
    """Return a packet of variables; one that is None is left out. `size` is what it says of its length."""
    path, _, query = url.partition("?")
    said = {**USUAL, "RAW_URI": url, "PATH_INFO": path, "QUERY_STRING": query, **variables}
    texts = [text.encode() for pair in said.items() if pair[1] is not None for text in pair]
    block = b"".join(len(text).to_bytes(2, "little") + text for text in texts)
    return b"\0" + (len(block) if size is None else size).to_bytes(2, "little") + b"\0" + block
