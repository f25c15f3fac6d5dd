#!/usr/bin/env bash
# Runs what build.sh put into this folder, on a GPU node. Prints a summary; whole logs go to $OUT (default: ./logs).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/logs}
mkdir -p "$out"

# CUDA 13 libraries: PyTorch's wheels bring them, or a toolkit does.
while read -r folder; do
  [[ -d $folder ]] && LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
done < <(python3 -c 'import sys; [print(p + "/nvidia/cu13/lib") for p in sys.path if p]'; echo /usr/local/cuda/lib64)
export LD_LIBRARY_PATH RUST_BACKTRACE=0
missing=$(ldd "$here/flash_attn" | grep 'not found')
[[ -z $missing ]] || { echo "libraries are missing:" "$missing"; exit 1; }

failed=0
step() { # name, pattern of the lines to show, command
  local name=$1 shown=$2 status
  shift 2
  echo "== $name"
  "$@" >"$out/$name.log" 2>&1
  status=$?
  if [[ $status -eq 0 ]]; then
    grep -E "$shown" "$out/$name.log"
  else
    failed=1
    echo "FAILED ($status); the end of $out/$name.log:"
    tail -n 15 "$out/$name.log"
  fi
}
for tests in flash_attn features fp8; do
  step "$tests" '^test result|^test .*ignored' "$here/$tests"
  # On a GPU node, nothing may be skipped.
  grep -q '\.\.\. ignored$' "$out/$tests.log" && failed=1
done
for dtype in f16 bf16; do
  for tokens in 1024 4096; do
    step "decoder-$dtype-$tokens" . "$here/decoder" --device cuda --dtype "$dtype" --tokens "$tokens"
  done
done
exit "$failed"
