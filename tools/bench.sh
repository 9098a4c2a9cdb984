#!/usr/bin/env bash
# Measure, and write what was measured into docs/performance.md. --short: a look whether the measuring works, for CI.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/needs.sh curl rsync wrk
tools/engine.sh

if [ "${1:-}" = --short ]; then
  # Kept elsewhere, so that nobody takes them for figures.
  export BENCH_FIGURES=.cache/bench/short.json BENCH_REPEATS=1 BENCH_SECONDS=1 BENCH_SIZE=20000000 BENCH_MODEL_BYTES=20000000
  export BENCH_GROWTH=3,2,2
  rm -f "$BENCH_FIGURES"
fi
if [ "$(docker inspect --format '{{ .State.Running }}' api-endpoint-demo 2>/dev/null)" = true ]; then
  echo "bench: a demo is running, and this needs its place: make demo-down, then again." >&2
  exit 1
fi
log=$(mktemp)
trap 'tools/demo.sh down >/dev/null; rm -f "$log"' EXIT

parts=(data answers memory deployments growth)
# Other servers to install, and clean hosts for each round: too long for CI.
[ "${1:-}" = --short ] || parts+=(peers first cluster)
for part in "${parts[@]}"; do
  begun=$SECONDS
  if [ "${1:-}" = --short ]; then
    python "bench/$part.py" >"$log" 2>&1 || { cat "$log"; exit 1; }
  else
    python "bench/$part.py"
  fi
  echo "bench: $part took $((SECONDS - begun)) s"
done
if [ "${1:-}" = --short ]; then
  python bench/figures.py --check
else
  python bench/figures.py
fi
