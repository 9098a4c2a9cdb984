#!/usr/bin/env bash
# Run Molecule scenarios, two at a time, and say what each took: tools/molecule.sh default adopted
set -euo pipefail
cd "$(dirname "$0")/.."

export COLUMNS=${COLUMNS:-150} # Molecule folds lines at 80 otherwise
tools/needs.sh rsync
case " $* " in *" privacy "*) tools/needs.sh chromium slowhttptest ;; esac
case " $* " in *" operations "*) tools/needs.sh chromium ;; esac
tools/engine.sh
tools/image.sh 12 13

one() { # one SCENARIO
  if [ -e "$logs/failed" ]; then return; fi # begin no other
  local begun=$SECONDS
  if molecule test --scenario-name "$1" 2>&1 | tee "$logs/$1.log" | sed --unbuffered "s/^/$1: /"; then
    printf '%4d s  %s\n' $((SECONDS - begun)) "$1" >>"$logs/passed"
  else
    # Once more at the end, where one looks first.
    {
      printf '\nWhat failed in the scenario %s:\n' "$1"
      grep --extended-regexp ' (FAILED|ERROR) |E   |fatal: | (passed|failed).* in ' "$logs/$1.log" | tail -n 25 || true
    } >>"$logs/failed"
  fi
}
export -f one
logs=$(mktemp --directory)
export logs
trap 'rm -rf "$logs"' EXIT

# The longest first, or the others wait for it in the end.
ordered=()
for scenario in releases cluster default privacy "$@"; do
  case " $* " in *" $scenario "*) ;; *) continue ;; esac
  case " ${ordered[*]} " in *" $scenario "*) ;; *) ordered+=("$scenario") ;; esac
done
printf '%s\n' "${ordered[@]}" | xargs --max-procs=2 --replace bash -o pipefail -c 'one {}'

if [ -e "$logs/failed" ]; then
  cat "$logs/failed" >&2
  exit 1
fi
printf '\nMolecule scenarios, all passed:\n'
cat "$logs/passed"
# A scenario that was never begun has not passed.
[ "$(wc -l <"$logs/passed")" = "$#" ]
