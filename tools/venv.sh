#!/usr/bin/env bash
# Make the virtualenv .venv with what deploying needs: venv.sh PYTHON
# pip is taken from the wheel that Python has along, and compiles nothing: half the time of a virtualenv that brings pip itself.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1

"$python" -m venv --clear --without-pip .venv
wheel=$("$python" - 2>/dev/null <<'PYTHON'
import ensurepip, pathlib, sysconfig
folders = [sysconfig.get_config_var("WHEEL_PKG_DIR"), pathlib.Path(ensurepip.__file__).parent / "_bundled"]
print(*sorted(str(wheel) for folder in folders if folder for wheel in pathlib.Path(folder).glob("pip-*.whl"))[-1:])
PYTHON
) || wheel=
if [ -z "$wheel" ]; then
  # It says itself what this Python lacks.
  "$python" -m venv --clear .venv
  wheel=pip
fi
PYTHONPATH=$wheel .venv/bin/python -m pip install --no-compile --quiet --disable-pip-version-check "$wheel" -r requirements.txt
