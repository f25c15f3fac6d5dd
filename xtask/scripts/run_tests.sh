#!/usr/bin/env bash
# Runs every test program of this bundle. Usage: ./run_tests.sh [filter]
# Tests that need a GPU count as ignored where there is none.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# Snapshots are looked up below this folder, by their path in the repository.
export INSTA_WORKSPACE_ROOT="$here/source" INSTA_UPDATE=no

log=$(mktemp)
trap 'rm -f "$log"' EXIT
broken=()
for program in "$here"/tests/*; do
  echo "== ${program##*/}"
  "$program" "$@" 2>&1 | tee -a "$log"
  [[ ${PIPESTATUS[0]} -eq 0 ]] || broken+=("${program##*/}")
done

echo
grep '^test result: ' "$log" | tr ';.' '\n\n' |
  awk '$2 == "passed" { p += $1 } $2 == "failed" { f += $1 } $2 == "ignored" { s += $1 }
       END { printf "All in all: %d passed, %d failed, %d skipped.\n", p, f, s }'
if [[ ${#broken[@]} -gt 0 ]]; then
  echo "Failed: ${broken[*]}"
  exit 1
fi
