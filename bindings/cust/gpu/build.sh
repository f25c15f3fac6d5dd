#!/usr/bin/env bash
# Builds the tests, on a machine without CUDA, into a folder that runs on a GPU node, and packs it:
#   bindings/cust/gpu/build.sh [FOLDER]      (default: target/flashcore/cust-gpu)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
out=$(realpath -m "${1:-$root/target/flashcore/cust-gpu}")
rm -rf "$out"
mkdir -p "$out"
"$here/../with-driver.sh" cargo test --no-run --test buffers --locked --release --config profile.release.strip=true \
  --message-format=json-render-diagnostics | python3 -c '
import json, shutil, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable"):
        shutil.copy(message["executable"], sys.argv[1] + "/" + message["target"]["name"])' "$out"
cp "$here/run.sh" "$out"
tar -C "$(dirname "$out")" -cf - "$(basename "$out")" | xz -T2 >"$out.tar.xz"
du -h "$out" "$out.tar.xz"
