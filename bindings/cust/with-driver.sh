#!/usr/bin/env bash
# Runs a command in this folder, with a CUDA driver library to link with; no toolkit is needed.
#   bindings/cust/with-driver.sh cargo test
# Where there is no driver to run with either, programs find one whose every function fails: they start, and say so.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
stub=$root/target/flashcore/stub-driver
cd "$root/bindings/cust"
cust=$(cargo metadata --format-version 1 --locked | python3 -c '
import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cust_raw"))')
"$root/bindings/stub-driver.sh" "$stub/lib64" "${cust%/*}/src/cuda.rs"
export CUDA_LIBRARY_PATH=$stub
ldconfig -p | grep -q 'libcuda\.so\.1 ' || export LD_LIBRARY_PATH="$stub/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$@"
