# SPDX-License-Identifier: GPL-3.0-or-later
"""Why an app fails, from its log: one line with place, exception and remedy; and its tracebacks, folded to its own frames.

One function for the run that refuses a version, for the health check and for the diagnosis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ansible.module_utils.api_endpoint.release.hints import RULES

BEGIN = "Traceback (most recent call last):"
FRAME = re.compile(r'^\s+File "(?P<path>[^"]+)", line (?P<line>\d+)(?:, in (?P<name>.+))?$')
CHAIN = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
# Where the app's code lies, whichever link leads there.
APP = re.compile(
    r"/[^\s'\"]*?/(?:slots/\w+/release|releases/[0-9a-f]{12}|code/[0-9a-f]{64}/app|current)/(?!p3env/)"
)
ROLES_OWN = ("gunicorn.conf.py", "api_endpoint_forks.py", "api_endpoint_worker.py")
PACKAGE = re.compile(r"/(?:site|dist)-packages/(\w+)")
FOLDED = ("gunicorn", "Python")  # of whose frames none is shown
MESSAGE_CHARACTERS = 300

# Names under which a package is imported, where they are not those that pip knows.
DISTRIBUTIONS = {
    "Bio": "biopython", "Crypto": "pycryptodome", "MySQLdb": "mysqlclient", "OpenSSL": "pyOpenSSL", "PIL": "Pillow",
    "attr": "attrs", "bs4": "beautifulsoup4", "cv2": "opencv-python-headless", "dateutil": "python-dateutil",
    "distutils": "setuptools", "docx": "python-docx", "dotenv": "python-dotenv", "faiss": "faiss-cpu", "fitz": "PyMuPDF",
    "git": "GitPython", "google.protobuf": "protobuf", "hydra": "hydra-core", "imblearn": "imbalanced-learn",
    "jwt": "PyJWT", "magic": "python-magic", "mpl_toolkits": "matplotlib", "osgeo": "GDAL", "pkg_resources": "setuptools<81",
    "psycopg2": "psycopg2-binary", "shapefile": "pyshp", "skimage": "scikit-image", "sklearn": "scikit-learn",
    "slugify": "python-slugify", "umap": "umap-learn", "yaml": "PyYAML", "zmq": "pyzmq",
}  # fmt: skip
# Of Python's own modules, those that later versions no longer have.
REMOVED = ("asynchat", "asyncore", "audioop", "cgi", "crypt", "imp", "pipes", "smtpd", "telnetlib")
# Libraries of Debian that Python packages load, with their package.
LIBRARIES = {
    "libGL.so.1": "libgl1", "libgomp.so.1": "libgomp1", "libsndfile.so": "libsndfile1", "libpq.so.5": "libpq5",
    "libgthread-2.0.so.0": "libglib2.0-0", "libglib-2.0.so.0": "libglib2.0-0", "libxml2.so.2": "libxml2",
    "libmariadb.so.3": "libmariadb3", "libopenblas.so.0": "libopenblas0", "libhdf5.so": "libhdf5-dev",
}  # fmt: skip
DATA = "List it in api_endpoint_artifacts"
PINNED = "Pin a version that fits in {requirements}"


@dataclass(frozen=True)
class Rule:
    """An exception ("Type: message"), and what to do about it."""

    pattern: str
    remedy: str


EXCEPTIONS = (
    Rule(r"Can't get attribute '(\w+)' on <module '__main__'",
         r"The model was saved by a script that defines \1. Move \1 into a module of the app, and save the model again"),
    Rule(r"invalid load key, 'v'", "The file is a pointer of git-lfs. On this computer: `git lfs pull`. Then deploy again"),
    Rule(r"invalid load key, '<'", "The file is a web page, not the data. Correct its URL in api_endpoint_artifacts"),
    Rule(r"No module named 'numpy\._core|numpy\.dtype size changed|compiled using NumPy 1\.x|multiarray failed to import",
         "The data or a package was made with another major version of numpy. Pin numpy in {requirements}"),
    Rule(r"No module named '(?:" + "|".join(REMOVED) + r")'",
         "This Python no longer has that module. Update the package that imports it, or set api_endpoint_python"),
    Rule(r"^ModuleNotFoundError: No module named '([\w.]+)'", "{add}"),
    Rule(r"partially initialized module .*circular import", "Two modules of the app import each other: move one import into "
         "the function that needs it"),
    Rule(r"^ImportError: cannot import name '\w+' from '(\w+)", "{version}"),
    Rule(r"^AttributeError: module '(\w+)[\w.]*' has no attribute", "{version}"),
    Rule(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file", "{library}"),
    Rule(r"Can't find model '(\w+)'", r"Add the URL of the wheel of \1 to {requirements}"),
    Rule(r"huggingface\.co|is not a local folder and is not a valid model identifier",
         "The app looks for its model on the network. List its folder in api_endpoint_artifacts, and load it from there"),
    Rule(r"no such table: |unable to open database file",
         "The SQLite file is missing, or in a folder that the app may not write. List it in api_endpoint_artifacts"),
    Rule(r"^FileNotFoundError: .*: '(?!/)([^']+)'$", DATA + r" with `dest: \1`"),
    Rule(r"^FileNotFoundError: ", "The host has no such path. Let the app look beside its own file, and list the data in "
         "api_endpoint_artifacts"),
    Rule(r"^(?:SyntaxError|IndentationError|TabError): ",
         "Correct it. On this computer `python3 -m py_compile {place}` finds it too"),
    Rule(r"Temporary failure in name resolution|Name or service not known",
         "If api_endpoint_outbound_network is false, set it to true; or the host has no such name"),
    Rule(r"^MemoryError", "The host has too little memory. Set fewer api_endpoint_workers, or take a larger host"),
)  # fmt: skip
# What no waiting changes while a version runs: files, modules, settings and the sandbox stay as they are.
LASTING = re.compile(
    r"^(?:ModuleNotFoundError|ImportError|SyntaxError|IndentationError|TabError)\b|"
    r"^AttributeError: module |Read-only file system|cannot open shared object file"
)
EXITED = "Main process exited, code=exited"
SYSTEMD = re.compile(
    r"(?:Starting|Started|Stopping|Stopped|Failed to start) \S+\.service|\S+\.service: |\[\d{4}-.* \[INFO\] "
)
STAMP = re.compile(r"^\[\d{4}-[^\]]*\] ")
NO_CALLABLE = re.compile(r"Failed to find attribute '(\w+)' in '([\w.]+)'")


@dataclass
class Frame:
    """A frame of a traceback."""

    path: str
    line: int
    name: str
    code: str = ""

    @property
    def owner(self) -> str:
        """Whose code it is: empty for the app's, else a package's name, or Python."""
        if found := PACKAGE.search(self.path):
            return found[1]
        place = APP.sub("", self.path)
        if place != self.path:
            return "gunicorn" if place in ROLES_OWN else ""
        return "gunicorn" if self.path.endswith("/bin/gunicorn") else "Python"

    @property
    def place(self) -> str:
        """The path as the app's author knows it."""
        return APP.sub("", self.path) if not self.owner else PACKAGE.split(self.path, 1)[-1]

    def lines(self) -> list[str]:
        """Return it as Python shows it."""
        path = APP.sub("", self.path)
        if found := PACKAGE.search(path):
            path = path[found.start(1) :]
        name = f", in {self.name}" if self.name else ""
        return [
            f'  File "{path}", line {self.line}{name}',
            *([f"    {self.code}"] if self.code else []),
        ]


@dataclass
class Trace:
    """A traceback: its frames, and the exception."""

    frames: list[Frame] = field(default_factory=list)
    error: str = ""

    @property
    def own(self) -> Frame | None:
        """The app's innermost frame."""
        return next((frame for frame in reversed(self.frames) if not frame.owner), None)

    @property
    def is_of_environment(self) -> bool:
        """Whether it is a variable of the environment that was not there."""
        last = self.frames[-3:]
        return self.error.startswith("KeyError: ") and any(
            "environ[" in frame.code for frame in last
        )

    @property
    def statement(self) -> str:
        """The exception behind the line of code that it came from, as the rules of hints read it."""
        code = self.frames[-1].code if self.frames else ""
        return f"{code}: {self.error}" if code else self.error

    def folded(self) -> list[str]:
        """Return the app's own frames; of other packages the innermost one, of gunicorn and Python their number."""
        lines, others = [BEGIN], []
        for number, frame in enumerate(self.frames):
            is_last = number == len(self.frames) - 1
            if frame.owner and not (is_last and frame.owner not in FOLDED):
                others.append(frame.owner)
                continue
            lines += _count(others) + frame.lines()
            others = []
        return [*lines, *_count(others), APP.sub("", self.error)]


def _count(owners: list[str]) -> list[str]:
    """Return the line that stands for frames that are left out."""
    if not owners:
        return []
    names = list(dict.fromkeys(owners))
    whose = f"{', '.join(names[:-1])} and {names[-1]}" if names[1:] else names[0]
    return [f"  … {len(owners)} frame{'s' if owners[1:] else ''} of {whose}"]


@dataclass(frozen=True)
class Failure:
    """What a log says of a failure."""

    line: str  # place, exception, remedy: one line
    trace: list[str]  # the traceback, folded
    what: str = ""  # the sentence of a hint that the line has already
    is_lasting: bool = False  # no waiting changes it


def parse(text: str) -> list[str | list[Trace]]:
    """Return a log's lines, and in their places its tracebacks: those of one chain together."""
    found: list[str | list[Trace]] = []
    trace: Trace | None = None
    chain: list[Trace] | None = None  # the one that goes on
    for line in map(str.rstrip, text.splitlines()):
        if line.strip() == BEGIN:
            trace = Trace()
            if chain is None:
                found.append([trace])
            else:
                chain.append(trace)
            chain = None
        elif trace is None:
            if line.strip() in CHAIN and (before := _last_chain(found)):
                chain = before
            elif chain is None or line:
                found.append(line)
                chain = None
        elif frame := FRAME.match(line):
            trace.frames.append(Frame(frame["path"], int(frame["line"]), frame["name"] or ""))
        elif line[:1].isspace() or not line:
            if trace.frames and line.strip(" ~^") and not trace.frames[-1].code:
                trace.frames[-1].code = line.strip()
        else:
            trace.error, trace = line, None
    return [entry for entry in found if isinstance(entry, str) or entry[-1].error]


def _last_chain(found: list[str | list[Trace]]) -> list[Trace] | None:
    """Return the traceback before the empty lines at the end, which are dropped."""
    while found and not found[-1]:
        found.pop()
    return found[-1] if found and isinstance(found[-1], list) else None


def explain(text: str, folder: Path, requirements: str = "requirements.txt") -> Failure | None:
    """Return what a log says of the app's last failure; None when it has no traceback and no last word.

    `folder` is the release's, `requirements` how its author calls the list of packages.
    """
    entries = parse(text)
    chains = [entry for entry in entries if isinstance(entry, list)]
    own = [chain for chain in chains if any(trace.own for trace in chain)]
    chain = next(iter((own or chains)[-1:]), None)
    if chain and (found := NO_CALLABLE.search(chain[-1].error)):
        return _without_callable(found[1], found[2], folder)
    if chain:
        return _of_chain(chain, folder, requirements)
    lines = [entry for entry in entries if isinstance(entry, str)]
    end = next((number for number, line in enumerate(lines) if EXITED in line), 0)
    said = [line for line in lines[:end] if line and not SYSTEMD.match(line)]
    return (
        Failure(
            f"It ended by itself, and said last: {said[-1][:MESSAGE_CHARACTERS].rstrip('.')}.", []
        )
        if said
        else None
    )


def _of_chain(chain: list[Trace], folder: Path, requirements: str) -> Failure:
    last = chain[-1]
    # What was caught and raised again as something else: the first one may say more.
    known = [(trace, _remedy(trace, folder, requirements)) for trace in (last, *chain[:-1])]
    trace, (what, remedy) = next((entry for entry in known if entry[1][1]), known[0])
    said = _headline(last)
    if trace is not last:
        said += f" It began with {_headline(trace)}"
    lines = [line for one in chain for line in one.folded()]
    sentences = [said, f"{what}." if what else "", f"{remedy}." if remedy else ""]
    return Failure(
        " ".join(sentence for sentence in sentences if sentence), lines, what,
        any(LASTING.search(one.error) or one.is_of_environment for one in (last, trace)),
    )  # fmt: skip


def _headline(trace: Trace) -> str:
    """Return place and exception."""
    kind, _, message = trace.error.partition(": ")
    kind = kind.rpartition(".")[2]
    message = APP.sub("", message)[:MESSAGE_CHARACTERS].rstrip(". ")
    is_plain = kind in ("ModuleNotFoundError", "ImportError") and message
    said = message if is_plain else f"{kind}: {message}" if message else kind
    frame = trace.own
    return f"{frame.place} line {frame.line}: {said}." if frame else f"{said}."


def _remedy(trace: Trace, folder: Path, requirements: str) -> tuple[str, str]:
    """Return what an exception means, where a hint says it, and what to do about it; both empty when nothing is known."""
    for hint in RULES:
        if re.search(hint.pattern, trace.statement):
            return hint.what, f"Set {hint.setting}" if hint.setting else hint.advice
    if trace.is_of_environment:
        name = trace.error.partition("'")[2].rstrip("'")
        return (
            "",
            f"Set {name} in api_endpoint_environment; a secret, in api_endpoint_secrets",
        )
    error = APP.sub("", trace.error)
    for rule in EXCEPTIONS:
        if found := re.search(rule.pattern, error):
            given = {
                "requirements": requirements,
                "place": trace.own.place if trace.own else "",
                "add": "", "version": "", "library": "",
            }  # fmt: skip
            if "{add}" in rule.remedy:
                given["add"] = _addition(found[1], folder, requirements)
            if "{version}" in rule.remedy:
                given["version"] = _version(found[1], folder, requirements)
            if "{library}" in rule.remedy:
                package = LIBRARIES.get(found[1])
                given["library"] = (
                    f"Name {package or 'the Debian package that has it'} in api_endpoint_apt_packages"
                    + ("; or use opencv-python-headless" if package == "libgl1" else "")
                )
            return "", found.expand(rule.remedy).format(**given)
    return "", ""


def _addition(module: str, folder: Path, requirements: str) -> str:
    """Say how a module that is missing gets there."""
    top = module.partition(".")[0]
    if (folder / top).is_dir() or (folder / f"{top}.py").is_file():
        return f"{top} is in the app's folder, without that. See that the file is there, and not in api_endpoint_app_exclude"
    name = DISTRIBUTIONS.get(module) or DISTRIBUTIONS.get(top)
    return f"Add {name} to {requirements}" if name else f"Add it to {requirements}"


def _version(module: str, folder: Path, requirements: str) -> str:
    """Say which version of a package the virtualenv has, for a name that it lacks."""
    if (folder / module).is_dir() or (folder / f"{module}.py").is_file():
        return f"The app's own {module} has no such name"
    name = DISTRIBUTIONS.get(module, module)
    wanted = re.sub(r"[-_.]+", "-", name).lower()
    for place in sorted(folder.glob("p3env/lib/python3*/site-packages/*.dist-info")):
        found, _, version = place.name.removesuffix(".dist-info").rpartition("-")
        if re.sub(r"[-_.]+", "-", found).lower() == wanted:
            return f"{found} {version} has no such name. {PINNED.format(requirements=requirements)}"
    return ""


def _without_callable(name: str, module: str, folder: Path) -> Failure:
    """Say that the WSGI module lacks the app, and which name it may have."""
    path = Path(*module.split(".")).with_suffix(".py")
    try:
        source = (folder / path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        source = ""
    names = re.findall(
        r"(?m)^(\w+)\s*(?::[^=\n]+)?=\s*(?:\w+\.)*(?:Flask|FastAPI|create_app|make_app|get_wsgi_application)\(",
        source,
    )
    names += re.findall(r"(?m)^from\s+\S+\s+import\s+(?:.*\s)?(app|application)\b", source)
    other = next((one for one in names if one != name), "")
    remedy = (
        f"Set api_endpoint_wsgi: {module}:{other}" if other
        else "Give the app that name there, or set api_endpoint_wsgi to the module and the name that it has"
    )  # fmt: skip
    return Failure(f"{path} has no {name!r}. {remedy}.", [], is_lasting=True)


def folded(text: str, shown: Failure | None = None) -> str:
    """Return a log with its tracebacks folded, each once, and without the one that was shown already.

    Of lines that follow each other and differ in their times alone, the last one stays, with their number.
    """
    seen = [shown.trace] if shown else []
    lines: list[str] = []
    before, count = "", 1
    for entry in parse(text):
        if isinstance(entry, str):
            said = STAMP.sub("", entry)
            count = count + 1 if said and said == before else 1
            if count > 1:
                lines.pop()
            lines.append(f"{entry} ({count} times)" if count > 1 else entry)
            before = said
            continue
        trace = [line for part in entry for line in part.folded()]
        if trace not in seen:
            seen.append(trace)
            lines += trace
            before = ""
    return "\n".join(lines)
