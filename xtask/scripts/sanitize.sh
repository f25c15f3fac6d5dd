#!/usr/bin/env bash
# Small shapes of every kernel under compute-sanitizer. Usage: ./sanitize.sh [memcheck|racecheck|synccheck|initcheck ...]
set -uo pipefail
lab=${FLASHCORE_LAB:-$(cd "$(dirname "$0")" && pwd)/flashcore-lab}

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
if [[ -z $sanitizer ]]; then
  echo "compute-sanitizer was not found in PATH or /usr/local/cuda*/bin; it comes with the CUDA toolkit" >&2
  exit 1
fi

tools=("$@")
[[ ${#tools[@]} -gt 0 ]] || tools=(memcheck racecheck synccheck initcheck)
dirty=()
for tool in "${tools[@]}"; do
  echo "== $tool"
  "$sanitizer" --tool "$tool" --error-exitcode 1 "$lab" check --small || dirty+=("$tool")
done

if [[ ${#dirty[@]} -gt 0 ]]; then
  echo "Not clean: ${dirty[*]}"
  exit 1
fi
echo "Clean: ${tools[*]}"
