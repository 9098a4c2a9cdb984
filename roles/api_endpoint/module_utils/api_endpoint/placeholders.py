# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in a file's place and is not the file: a pointer of git-lfs or git-annex, a cloud's placeholder, a web page."""

from __future__ import annotations

import codecs
import html
import json
import os
import re
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ansible.module_utils.api_endpoint.digests import leads_out, walk
from ansible.module_utils.api_endpoint.errors import DeployError

HEAD_BYTES = 64 * 1024  # of a file that are looked at
POINTER_BYTES = 32 * 1024  # a pointer has at most
MOST = 5  # names in a message

LFS = "a pointer of git-lfs"
# By the first bytes of a small file: what it is, and the command that fetches what belongs there.
POINTERS = (
    (rb"version https://(?:git-lfs\.github|hawser\.github)\.com/spec/", LFS, "git lfs pull"),
    (rb"(?:[./\\]*\.git)?[/\\]annex[/\\]objects[/\\]", "a pointer of git-annex", "git annex get"),
    (
        rb"(?:md5: [0-9a-f]{32}\s+)?(?:wdir: \S+\s+)?outs:\s+- (?:md5|etag|checksum|hash|size): ",
        "a pointer of DVC",
        "dvc pull",
    ),
    (
        rb"(?:\.\.[/\\])+[^\s\0]+\Z",
        "a link that became a file with the link's text",
        "cp --dereference",
    ),
)
ICLOUD = re.compile(r"\..+\.icloud")
# Names of files that are pages, or templates of pages, on purpose.
PAGES = re.compile(r"(?i)\.(x?html?|shtml|mhtml|svg|md|j2|jinja2?|te?mpl|tpl|hbs|mustache|php)$")
PAGE = re.compile(
    rb"(?is)(?:\s|<\?xml.*?\?>|<!--.*?-->)*<(?:(?:!doctype\s+html|html|head|body|script|meta|h1)\b"
    rb"|title>[^<]*</title>\s*<(?:body|h1|link|meta|p|script|style)\b)"
)
XML_ERROR = re.compile(rb"(?is)\s*(?:<\?xml.*?\?>)?\s*<error\b[^>]*>.*</error>\s*\Z")
TEXT_ERROR = re.compile(
    rb"(?i)\s*(?:(?:http|error)?[ :]*[45]\d\d[ :-]*)?(?:(?:page|file|entry|repository|object|resource) )?"
    rb"(?:not found|access denied|forbidden|unauthori[sz]ed|invalid username or password|bad gateway|gateway timeout"
    rb"|service unavailable|internal server error|too many requests|rate limit exceeded)[.!]?\s*\Z"
)
# Ends of names of files that are never pages, wherever they lie.
BINARY = re.compile(
    r"(?i)\.(7z|arrow|bin|bz2|ckpt|db|feather|ftz|gguf|gz|h5|hdf5|joblib|keras|mar|msgpack|npy|npz|onnx|parquet|pb|pickle"
    r"|pkl|pt|pth|rds|safetensors|sqlite3?|tar|tflite|tgz|vec|whl|xz|zip|zst)$"
)
# All that an error as JSON says; a file of data has other keys.
ERROR_KEYS = {
    "code", "detail", "details", "documentation_url", "error", "error_code", "error_description", "error_message",
    "errorcode", "errormessage", "errors", "instance", "message", "msg", "path", "reason", "request_id", "requestid",
    "status", "status_code", "statuscode", "success", "timestamp", "title", "traceid", "type", "url",
}  # fmt: skip


def first_bytes(path: Path) -> bytes:
    """Return the beginning of a file."""
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


def pointer(name: str, head: bytes) -> tuple[str, str]:
    """Return what a file is that only stands for another one, and the command that fetches that; empty for a file itself."""
    if ICLOUD.fullmatch(os.path.basename(name)):
        return "a placeholder of iCloud", "brctl download"
    if len(head) < POINTER_BYTES:
        for first, what, command in POINTERS:
            if re.match(first, head):
                return what, command
    return "", ""


def readable(body: bytes) -> str:
    """Return the beginning of a page as one line of text: its title, and what it shows."""
    text = re.sub(r"(?s)<!--.*?-->|<\?.*?\?>", " ", body.decode(errors="replace"))
    title = re.search(r"(?is)<title\b[^>]*>(.*?)</title>", text)
    text = re.sub(r"(?is)<(script|style|head|title)\b.*?(</\1>|$)", " ", text)
    text = html.unescape(re.sub(r"<[^>]*(>|$)", " ", f"{title[1] if title else ''} {text}"))
    text = " ".join(
        "".join(character if character.isprintable() else " " for character in text).split()
    )
    return text if len(text) <= 200 else f"{text[:200]} ..."


def as_text(head: bytes) -> bytes:
    """Return the beginning of a file as a page would be read: without gzip, as UTF-8, without a byte order mark."""
    if head.startswith(b"\x1f\x8b"):
        with suppress(zlib.error):
            head = zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head.decode("utf-16", errors="replace").encode()
    return head.removeprefix(codecs.BOM_UTF8)


def page(name: str, head: bytes) -> str:
    """Return what a web page, or a server's error, says that came in the place of a file of this name; empty for others."""
    head = as_text(head)
    is_page = bool(PAGE.match(head)) and not PAGES.search(re.sub(r"(?i)\.gz$", "", name))
    if is_page or XML_ERROR.match(head):
        return f"a web page, not a file. It begins {readable(head) or head[:200].decode(errors='replace')!r}"
    if TEXT_ERROR.match(head):
        return f"a server's error, not a file: {readable(head)!r}"
    if head.lstrip()[:1] == b"{":
        try:
            keys = {key.lower() for key in json.loads(head)}
        except ValueError:
            return ""
        if keys <= ERROR_KEYS and keys & {
            "error",
            "error_message",
            "errormessage",
            "errors",
            "message",
            "msg",
            "detail",
        }:
            return f"a server's error, not a file: {readable(head)!r}"
    return ""


def refuse(found: Iterable[tuple[str, str, str]], remedy: str) -> None:
    """Raise DeployError for files that only stand for others: name, what it is, command that fetches what it stands for."""
    listed = list(found)
    if not listed:
        return
    _name, what, command = listed[0]
    names = [name for name, other, _command in listed if other == what]
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    raise DeployError(
        f"{', '.join(names[:MOST])}{more}: {what}, not the file itself. {remedy.format(command=command)}"
    )


def pointers(root: Path, paths: Iterable[Path]) -> Iterable[tuple[str, str, str]]:
    """Yield the relative paths, of those below `root`, that only stand for a file, as `refuse` takes them."""
    for path in paths:
        found = root / path
        if found.is_symlink() and "annex/objects/" in os.readlink(found) and not found.exists():
            yield str(path), "a link of git-annex", "git annex get"
        elif found.is_file():
            head = (
                first_bytes(found)
                if found.stat().st_size < POINTER_BYTES
                else b"\0" * POINTER_BYTES
            )
            what, command = pointer(str(path), head)
            if what and path.suffix != ".dvc":
                yield str(path), what, command


def check_file(path: Path, name: str, remedy: str) -> None:
    """Raise DeployError when a file is a pointer, or a web page in the place of a file `name`."""
    head = first_bytes(path)
    what, command = pointer(str(path), head)
    refuse([(str(path), what, command)] if what else [], remedy)
    if said := page(name, head):
        raise DeployError(f"{path} is {said}. Fetch the file itself.")


def check_size(path: Path, expected: int | None, sha256: str, *, may_be_empty: bool) -> None:
    """Raise DeployError when a file has another size than expected (bytes), or none at all and nothing says that it may."""
    size = path.stat().st_size
    if expected is not None and size != expected:
        raise DeployError(
            f"{path} has {size:,} bytes, size says {expected:,}. Correct the one or the other."
        )
    if not (size or expected == 0 or sha256 or may_be_empty):
        raise DeployError(f"{path} is empty. If that is right, give its sha256, or size: 0.")


def check_data(root: Path, paths: list[Path], remedy: str) -> None:
    """Raise DeployError for a folder of data with no file, or with one that is a pointer or a page in a model's place."""
    if not paths:
        raise DeployError(f"{root} has no file in it. Give one that has the data.")
    refuse(pointers(root, paths), remedy)
    for path in paths:
        found = root / path
        if path.suffix == ".dvc" and found.is_file() and not found.with_suffix("").exists():
            raise DeployError(
                f"{found} stands for data of DVC that is not there. `dvc pull` fetches it."
            )
        if (
            BINARY.search(path.name)
            and found.is_file()
            and (said := page(path.name, first_bytes(found)))
        ):
            raise DeployError(f"{found} is {said}. Fetch the file itself.")


def check_folder(root: Path, remedy: str) -> bool:
    """Look at a folder of data on this computer; return whether its links must be followed, because one leads out of it.

    Raise DeployError for what is no data: links that lead nowhere, pointers, special files, no file at all.
    """
    paths = list(walk(root))
    links = [path for path in paths if (root / path).is_symlink()]
    check_data(root, paths, remedy)
    follow = any(leads_out(root, path) for path in links)
    if follow:
        paths = list(walk(root, follow=True))
        check_data(root, paths, remedy)
    for path in paths:
        found = root / path
        if not found.exists():
            raise DeployError(
                f"The link {found} points to {os.readlink(found)}, which is not there. Restore it, or remove it."
            )
        if not (found.is_file() or found.is_dir()):
            raise DeployError(f"{found} is neither a file nor a folder nor a link. Remove it.")
    return follow
