"""Runs on a test host: calls its nginx from within, or searches it for marks. Orders come by standard input as JSON, because
the arguments of a process may be written somewhere."""

import json
import os
import random
import sys
from dataclasses import replace

from ansible.module_utils.api_endpoint.privacy.corpus import Marks, send_all
from ansible.module_utils.api_endpoint.privacy.scope import (
    Policy,
    places,
    search_folders,
    searched,
    views,
)
from ansible.module_utils.api_endpoint.privacy.search import Search
from ansible.module_utils.api_endpoint.privacy.source_address import connect, source_addresses
from request_corpus import requests


def attack(marks, host, count, seed, paths, kinds, family, patience, rate):
    """Send requests over IPv4 or IPv6; return what became of them, and the address that they came from."""
    with source_addresses(random.Random(seed), 80) as ours:
        address = ours.ipv6 if family == 6 else ours.ipv4
        if not address:
            raise SystemExit(f"no address to call from: {ours.why}")
        made = requests(Marks(**marks), host, count, seed, tuple(paths), kinds)
        if patience:
            made = (replace(request, answer_seconds=patience) for request in made)
        counted = send_all(made, lambda: connect(address, 80, 5), rate=rate, seconds=120, workers=8)
    return {"caller": address, "counted": [[*key, count] for key, count in counted.items()]}


def search(marks, callers, since, processes, log_dir="/var/log/gunicorn"):
    """Search all that was written since a time for marks and for callers; return what is where it should not be, and all."""
    wanted = [mark for one in marks for mark in searched(Marks(**one), [])]
    wanted += searched(Marks(**marks[0]), callers) if callers else []
    searching = Search(wanted)
    folders = places("/var/lib/api-endpoint", "/srv/api-endpoint/data", "/var/log/gunicorn")
    search_folders(searching, [*folders, *views(processes)], since)
    searching.deleted((int(name) for name in os.listdir("/proc") if name.isdigit()), since)
    searching.journal(since)
    result = searching.result
    leaks = Policy(log_dir).leaks(result.found)
    return {
        "leaks": [[find.kind, find.place, find.excerpt] for find in leaks],
        "met": sorted({(find.kind, find.place) for find in result.found}),
        "files": result.files,
        "bytes": result.bytes,
        "entries": result.entries,
        "failed": result.failed,
    }


order = json.load(sys.stdin)
print(json.dumps({"attack": attack, "search": search}[order.pop("do")](**order)))
