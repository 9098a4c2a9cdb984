#!/usr/bin/env bash
# Run Molecule scenarios one after the other, and say what each took: tools/molecule.sh default adopted
set -euo pipefail
cd "$(dirname "$0")/.."

export COLUMNS=${COLUMNS:-150} # Molecule folds lines at 80 otherwise
tools/needs.sh rsync
case " $* " in *" privacy "*) tools/needs.sh chromium slowhttptest ;; esac
tools/engine.sh
tools/image.sh 12 13
times=()
for scenario in "$@"; do
  begun=$SECONDS
  molecule test --scenario-name "$scenario"
  times+=("$(printf '%4d s  %s' $((SECONDS - begun)) "$scenario")")
done
printf '\nMolecule scenarios, all passed:\n'
printf '  %s\n' "${times[@]}"
