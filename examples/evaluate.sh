#!/bin/bash
# Loss of a text under a model, before and after a run: examples/evaluate.sh MODEL_DIR RUN_DIR TEXT
set -euo pipefail
thimble=$(dirname "$0")/../build/release/thimble
[[ -x "$thimble" ]] || thimble=thimble  # installed
for model in "$1" "$2"; do
  loss=$("$thimble" eval --model "$model" --text "$3")
  echo "$model: $loss"
done
