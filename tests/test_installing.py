"""What uv and pip say while they install, as they said it: what helps, and how far they are."""

import pytest
from ansible.module_utils.api_endpoint.release.installing import is_only_uvs, progress, reason

NOT_FOUND = "error: No solution found when resolving dependencies\n  cause: Because "
SERVER = "error: Request failed after 3 retries in 10.4s\n  cause: Failed to fetch: "


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        # uv 0.13.9
        (
            f"{NOT_FOUND}no-such was not found in the package registry and you require no-such, we can conclude that "
            "your requirements are unsatisfiable.",
            "No index has a package of that name",
        ),
        (
            f"{NOT_FOUND}nothere was not found in the provided package locations and you require nothere, we can conclude",
            "No index has a package of that name",
        ),
        (
            f"{NOT_FOUND}there is no version of six==99.0 and you require six==99.0, we can conclude that your "
            "requirements are unsatisfiable.",
            "does not have that version",
        ),
        (
            f"{NOT_FOUND}only black<=26.10.1 is available and you require black>=99, we can conclude",
            "does not have that version",
        ),
        (
            f"{NOT_FOUND}numpy==1.19.5 has no usable wheels and you require numpy==1.19.5, we can conclude that your "
            "requirements are unsatisfiable.\n\nhint: Wheels are required for `numpy` because building from source is "
            "disabled for all packages (i.e., with `--no-build`)",
            "has no wheel for the host's Python",
        ),
        (
            f"{NOT_FOUND}only winonly==1.0 is available and winonly==1.0 has no wheels with a matching Python version "
            "tag (e.g., `cp311`), we can conclude that all versions of winonly cannot be used.",
            "has no wheel for the host's Python",
        ),
        (
            f"{NOT_FOUND}the current Python version (3.11.7) does not satisfy Python>=3.99 and newer==1.0 depends "
            "on Python>=3.99, we can conclude that newer==1.0 cannot be used.",
            "does not take the host's Python",
        ),
        (
            f"{NOT_FOUND}newer==1.0 requires Python >=3.99 and only newer==1.0 is available, we can conclude that all "
            "versions of newer cannot be used.",
            "does not take the host's Python",
        ),
        (
            f"{NOT_FOUND}flask==3.0.0 depends on werkzeug>=3.0.0 and you require flask==3.0.0, we can conclude that you "
            "require werkzeug>=3.0.0.\n         And because you require werkzeug<2, we can conclude that your "
            "requirements are unsatisfiable.",
            "Two requirements exclude each other",
        ),
        (
            "error: Failed to download `six==1.16.0`\n  cause: Hash mismatch for `six==1.16.0`\n\n         Expected:",
            "not the one whose hash",
        ),
        (
            f"{SERVER}https://index.invalid/simple/six/\n  cause: dns error\n  cause: failed to lookup address "
            "information: Name or service not known",
            "finds no address for the server",
        ),
        (
            f"{SERVER}http://127.0.0.1:9/simple/six/\n  cause: tcp connect error\n  cause: Connection refused ",
            "does not reach the server",
        ),
        (
            f"{SERVER}http://127.0.0.1:9/simple/x/\n  cause: HTTP status server error (503 Service Unavailable) for url",
            "out of order",
        ),
        (
            "error: Failed to fetch: https://localhost/simple/x/\n  cause: client error (Connect)\n  cause: invalid peer "
            "certificate: Other(OtherError(CaUsedAsEndEntity))",
            "does not trust the certificate",
        ),
        (
            f"{NOT_FOUND}x was not found in the package registry and you require x, we can conclude that your "
            "requirements are unsatisfiable.\n\nhint: An index URL (http://127.0.0.1/simple) could not be queried due to a "
            "lack of valid authentication credentials (401 Unauthorized)",
            "refuses access",
        ),
        (
            f"{NOT_FOUND}x was not found in the package registry and you require x, we can conclude\n\nhint: An index "
            "(http://127.0.0.1/simple) returned a 403 Forbidden error. Check that the index URL is correct",
            "refuses access",
        ),
        (
            "error: Failed to download `pillow==13.0.0`\n  cause: I/O operation failed during extraction\n  cause: failed "
            "to write to file `_imaging.so`: No space left on device (os error 28)",
            "disk of the host is full",
        ),
        (
            "         [stderr]\n         error: [Errno 2] No such file or directory: 'x86_64-linux-gnu-gcc'\n\nhint: Build "
            "failures usually indicate a problem with the package or the build environment",
            "the host has no compiler",
        ),
        (
            "         [stderr]\n         a.c:1:10: fatal error: Python.h: No such file or directory\n",
            "Python's headers",
        ),
        ("  cause: Git executable not found. Ensure that Git is installed", "git is not on the host"),
        (
            "  cause: process didn't exit successfully: `/usr/bin/git fetch`\n         fatal: unable to access "
            "'https://git.invalid/a/b.git/': Could not resolve host: git.invalid",
            "finds no address for the server",
        ),
        # pip 25
        (
            "ERROR: Could not find a version that satisfies the requirement x (from versions: none)\n"
            "ERROR: No matching distribution found for x",
            "No index has a package of that name",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement six==99 (from versions: 0.9.0, 1.17.0)",
            "does not have that version",
        ),
        ("ERROR: ResolutionImpossible: for help visit", "Two requirements exclude each other"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "not the one whose hash",
        ),
        (
            "ERROR: Package 'newer' requires a different Python: 3.11.7 not in '>=3.99'",
            "does not take the host's Python",
        ),
        (
            "ERROR: winonly-1.0-cp39-cp39-win_amd64.whl is not a supported wheel on this platform.",
            "has no wheel for the host's Python",
        ),
        (
            "Max retries exceeded with url: /simple/x/ (Caused by SSLError(SSLCertVerificationError(1, '[SSL: "
            "CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate",
            "does not trust the certificate",
        ),
        (
            "      error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory",
            "the host has no compiler",
        ),
    ],
)  # fmt: skip
def test_each_kind_of_failure_has_its_remedy(output, expected):
    assert expected in reason(output)
    assert not is_only_uvs(output)


@pytest.mark.parametrize(
    "output",
    [
        "error: Couldn't parse requirement in `requirements.txt` at position 0\n  cause: wildcards in versions",
        "hint: Pre-releases are available for `x` in the requested range (e.g., 1.0b1), but pre-releases weren't enabled",
        "error: Failed to build `x==1`\n  cause: The build backend returned an error\n  ModuleNotFoundError: pkg_resources",
    ],
)  # fmt: skip
def test_what_is_left_for_pip_to_try(output):
    assert is_only_uvs(output)


def test_a_uv_that_was_killed_is_not_followed_by_pip():
    assert not is_only_uvs("Resolved 12 packages in 536ms\nDownloading scipy (33.7MiB)")


UV = """Resolved 12 packages in 536ms
Downloading pandas (11.8MiB)
Downloading scikit-learn (8.9MiB)
Downloading scipy (33.7MiB)
"""


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", ""),
        ("Using Python 3.13.5 environment at: /x", ""),
        ("Resolved 12 packages in 536ms", "fetching 12 packages"),
        (UV, "downloading pandas (11.8MiB), scikit-learn (8.9MiB), scipy (33.7MiB)"),
        (
            UV + " Downloaded pandas\n",
            "downloading scikit-learn (8.9MiB), scipy (33.7MiB); 1 done",
        ),
        (UV + "   Building ext-demo @ file:///x\n", "downloading pandas"),
        (UV + "Prepared 12 packages in 5.22s\n", "installing 12 packages"),
        (
            "Collecting torch\n  Downloading torch-2.9.1-cp313-cp313-manylinux_2_28_x86_64.whl (888.1 MB)",
            "downloading torch (888.1 MB)",
        ),
        (
            "Collecting torch\n  Downloading torch-2.9-cp313.whl (888.1 MB)\nCollecting numpy\n"
            "  Downloading numpy-2.4-cp313.whl (16 MB)",
            "downloading numpy (16 MB)",
        ),
        ("Installing collected packages: numpy, torch", "installing the packages"),
        ("  Building wheel for x (pyproject.toml): started", "building x"),
    ],
)
def test_how_far_it_is(output, expected):
    assert progress(output).startswith(expected)
    assert bool(progress(output)) == bool(expected)
