#!/usr/bin/env bash
# Builds tests and example for CUDA, on a machine without CUDA, into a folder that runs on a GPU node, and packs it:
#   bindings/candle/gpu/build.sh [FOLDER]      (default: target/flashcore/candle-gpu)
#   scp target/flashcore/candle-gpu.tar.xz node: && ssh node 'tar xf candle-gpu.tar.xz && candle-gpu/run.sh'
# nvcc and the libraries to link with come from PyPI. Version 13.0, because drivers refuse PTX newer than they are.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
out=$(realpath -m "${1:-$root/target/flashcore/candle-gpu}")
venv=$root/target/flashcore/cuda-venv
packages=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35)

cd "$root/bindings/candle"
[[ -x $venv/bin/python ]] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir "${packages[@]}"
cuda=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13)

# What a toolkit has and the wheels lack: names without versions, and a driver to link with.
for library in "$cuda"/lib/lib*.so.*; do
  ln -sf "${library##*/}" "${library%%.so.*}.so"
done
sources=$(cargo metadata --format-version 1 --locked --features cuda |
  python3 -c 'import json, sys; [print(p["manifest_path"][:-10]) for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"]')
"$root/bindings/stub-driver.sh" "$cuda/lib/stubs" "$sources/src/driver/sys/mod.rs"

export PATH="$cuda/bin:$PATH" CUDA_HOME="$cuda" CUDA_COMPUTE_CAP=90
rm -rf "$out"
mkdir -p "$out"
options=(--locked --release --features cuda --config profile.release.strip=true --message-format=json-render-diagnostics)
copy() { # the programs that cargo announces
  python3 -c '
import json, shutil, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable"):
        shutil.copy(message["executable"], sys.argv[1] + "/" + message["target"]["name"])' "$out"
}
cargo test --no-run --test flash_attn --test features --test fp8 "${options[@]}" | copy
cargo build --example decoder "${options[@]}" | copy
cp gpu/run.sh "$out"
tar -C "$(dirname "$out")" -cf - "$(basename "$out")" | xz -T2 >"$out.tar.xz"
du -h "$out" "$out.tar.xz"
