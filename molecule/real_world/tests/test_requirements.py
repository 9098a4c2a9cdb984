"""Requirements as people write them. tests/test_requirements.py has every spelling; here pip on a host gets them."""

import base64
import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from outcomes import ROOT

VARIABLES = Path(__file__).resolve().parents[1] / "vars.yml"
APP = """
import json
import {modules}

def app(environ, start_response):
    body = json.dumps({{{answers}}}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""
USER, PASSWORD = "bot", "p@ss-EXAMPLE-0001"
# A package index that asks for a password, on the host's own address.
INDEX = f"""
import base64, functools, http.server
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") == "Basic " + base64.b64encode(b"{USER}:{PASSWORD}").decode():
            return super().do_GET()
        self.send_response(401)
        self.end_headers()
http.server.ThreadingHTTPServer(("", 8765), functools.partial(Handler, directory="/srv/index")).serve_forever()
"""
# Command lines of all programs, but for those with the word that is looked for in two.
WATCH = "while :; do cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -ao 'EXAMPLE[-]0001' >>/run/seen; sleep 0.02; done"


def wheel(folder, name, version, source, requires=""):
    """Write a package that pip installs, and return its digest."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(inner, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_app(folder, *modules):
    folder.mkdir(exist_ok=True)
    answers = ", ".join(f'"{name}": {name}.X' for name in modules)
    (folder / "wsgi.py").write_text(APP.format(modules=", ".join(modules), answers=answers))


@pytest.fixture
def deploy(playbook):
    def run(folder, *options, **more):
        given = {"api_endpoint_app_dir": str(folder), "api_endpoint_smoke_requests": [], **more}
        return playbook("-e", f"@{VARIABLES}", "-e", json.dumps(given), *options)

    return run


def test_files_of_any_editor_with_packages_of_their_own(api, deploy, tmp_path):
    """An index has `colorama` too, in a higher version, and `gunicorn` 20.1.0 does not start on Debian 13."""
    write_app(tmp_path, "colorama", "through", "direct", "editable")
    wheel(tmp_path / "my wheels", "colorama", "0.0.1", "X = 'own'\n")
    wheel(
        tmp_path / "my wheels",
        "through",
        "1.0",
        "import colorama\nX = colorama.X\n",
        "Requires-Dist: colorama\n",
    )
    wheel(tmp_path, "direct", "1.0", "X = 'direct'\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "editable.py").write_text("X = 'editable'\n")
    (tmp_path / "lib" / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='editable', version='1', py_modules=['editable'])\n"
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "more.txt").write_bytes(
        "# é\r-e ../lib\r-c=limits.txt\rthrough".encode("cp1252")
    )
    (tmp_path / "more" / "limits.txt").write_text("gunicorn==19.9.0\n")
    (tmp_path / "requirements.txt").write_bytes(
        "-r\u00a0more/more.txt\r\n--find-links 'my wheels'\r\ncolorama\r\n./direct-1.0-py3-none-any.whl\r\n"
        "gunicorn==20.1.0\r\nnot @ file:///C:/Users/me/not.whl ; sys_platform == 'win32'\r\n".encode(
            "utf-16"
        )
    )
    # A virtualenv of any name is no code, and its links are no reason to stop.
    (tmp_path / "my env" / "bin").mkdir(parents=True)
    (tmp_path / "my env" / "pyvenv.cfg").write_text("")
    (tmp_path / "my env" / "bin" / "python").symlink_to("/usr/bin/python3")
    run = deploy(tmp_path)
    assert run.status == 0, run.output
    assert "requirements.txt, line 5: 'gunicorn==20.1.0' gives way to gunicorn==" in run.said
    assert api.get("/").json == {
        "colorama": "own",
        "through": "own",
        "direct": "direct",
        "editable": "editable",
    }
    assert not api.host.file(f"{ROOT}/current/my env").exists
    assert deploy(tmp_path).changed == [0]


def test_a_file_with_hashes(api, deploy, tmp_path):
    write_app(tmp_path, "hashed")
    digest = wheel(tmp_path / "wheels", "hashed", "1.0", "X = 'hashed'\n")
    text = (
        "--no-index\n--find-links wheels\nhashed==1.0 \\\n    --hash=sha256:{}\n"
        f"gunicorn==20.1.0 \\\n    --hash=sha256:{'0' * 64}\n"
    )
    (tmp_path / "requirements.txt").write_text(text.format(digest))
    run = deploy(tmp_path)
    assert run.status == 0, run.output
    assert api.get("/").json == {"hashed": "hashed"}
    before = api.release
    (tmp_path / "requirements.txt").write_text(text.format("1" * 64))
    run = deploy(tmp_path)
    assert run.status != 0
    assert "A package is not the one whose hash the requirements file has" in run.said
    assert api.release == before


def test_a_name_of_the_laptop_is_refused_before_anything_is_touched(deploy, tmp_path):
    write_app(tmp_path, "json")
    (tmp_path / "requirements.txt").write_text(
        "numpy @ file:///croot/numpy_1/dist/numpy-1.26.4-cp311-cp311-linux_x86_64.whl\n"
    )
    run = deploy(tmp_path)
    assert run.status != 0
    assert "Nothing was touched" in run.output
    assert "requirements.txt, line 1: " in run.output
    assert "Write numpy==1.26.4 instead" in run.output
    assert "lock |" not in run.output, "something ran on the host"


@pytest.mark.full
def test_a_password_in_a_url_appears_nowhere(api, deploy, tmp_path):
    name = "api_endpoint_private_example"
    write_app(tmp_path, name)
    wheel(tmp_path / "index", name, "1.0", "X = 'private'\n")
    content = base64.b64encode(
        (tmp_path / "index" / f"{name}-1.0-py3-none-any.whl").read_bytes()
    ).decode()
    place = f"/srv/index/simple/{name.replace('_', '-')}"
    api.host.check_output(
        f"mkdir -p {place} && echo {content} | base64 -d >{place}/{name}-1.0-py3-none-any.whl && "
        f"echo '<a href={name}-1.0-py3-none-any.whl>{name}-1.0-py3-none-any.whl</a>' >{place}/index.html"
    )
    address = api.host.check_output("hostname -I").split()[0]
    # Its own password is not on its command line.
    api.host.check_output(
        f"echo {base64.b64encode(INDEX.encode()).decode()} | base64 -d >/srv/index.py"
    )
    api.host.check_output("systemd-run --unit=private-index python3 /srv/index.py")
    api.host.check_output("rm -f /run/seen && touch /run/seen")
    api.host.check_output(f'systemd-run --unit=watch sh -c "{WATCH}"')
    url = f"http://{USER}:{PASSWORD.replace('@', '%40')}@{address}:8765/simple"
    try:
        (tmp_path / "requirements.txt").write_text(
            f"--extra-index-url {url}\n--trusted-host {address}\n{name}\n"
        )
        run = deploy(tmp_path, "-vvv")
        assert run.status == 0, run.output
        assert api.get("/").json == {name: "private"}
        (tmp_path / "requirements.txt").write_text(f"{name}\nnot-there-at-all\n")
        failed = deploy(tmp_path, "-vvv", api_endpoint_pip_index_url=url)
        assert failed.status != 0
        code = deploy(
            tmp_path,
            "-vvv",
            api_endpoint_git_url=f"http://{USER}:{PASSWORD.replace('@', '%40')}@{address}:8765/x.git",
        )
        assert code.status != 0
    finally:
        api.host.run("systemctl stop private-index watch")
    for output in (run.output, failed.output, code.output):
        assert "EXAMPLE-0001" not in output
    assert api.host.run("cat /run/seen").stdout == ""
    found = api.host.run(f"grep -rl EXAMPLE-0001 {ROOT} /var/log /run /tmp").stdout.split()
    assert {path.rpartition("/")[2] for path in found} <= {"requirements.json"}, found
    assert api.host.run("journalctl --no-pager | grep -c EXAMPLE-0001").stdout.strip() == "0"
    modes = api.host.check_output(
        f"stat --format '%U %a' {ROOT}/code/*/requirements.json"
    ).splitlines()
    assert set(modes) == {"root 600"}
