#!/usr/bin/env bash
# Every check that needs no host. Quiet where all is well.
set -euo pipefail
cd "$(dirname "$0")/.."
output=$(mktemp)
trap 'rm -f "$output"' EXIT

step() { # step COMMAND...
  echo "lint: $*"
  "$@" >"$output" 2>&1 || { cat "$output"; exit 1; }
}

step yamllint --strict .
step ruff format --check .
step ruff check .
step mypy
step ansible-lint --offline
step ansible-docsmith validate --strict roles/api_endpoint
step ansible-docsmith generate --check roles/api_endpoint
step shellcheck tools/*.sh .ci/run
