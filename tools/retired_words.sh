#!/usr/bin/env bash
# Words that the project no longer uses, with what it says instead: tools/retired_words.tsv.
set -euo pipefail
cd "$(dirname "$0")/.."
found=0
while IFS=$'\t' read -r words instead; do
  if git grep --line-number --perl-regexp "$words" -- . ':!tools/retired_words.tsv'; then
    echo "  write: $instead"
    found=1
  fi
done <tools/retired_words.tsv
exit "$found"
