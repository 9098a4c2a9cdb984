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
for role in roles/*/; do
  step ansible-docsmith validate --strict "$role"
  step ansible-docsmith generate --check "$role"
done
step tools/retired_words.sh
step shellcheck tools/*.sh tools/testhost/*.sh .ci/run
