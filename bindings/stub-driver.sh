#!/usr/bin/env bash
# Makes a CUDA driver library to link with where there is none. Every function of it returns CUDA_ERROR_STUB_LIBRARY.
# Usage: stub-driver.sh FOLDER BINDINGS.rs ...   (Rust files that declare the functions)
set -euo pipefail
folder=$1
shift
mkdir -p "$folder"
grep -ohE '\bfn cu[A-Z]\w*' "$@" | sort -u | sed 's/fn \(.*\)/int \1(void) { return 34; }/' |
  cc -x c -shared -nostdlib -fPIC -Wl,-soname,libcuda.so.1 -o "$folder/libcuda.so.1" -
ln -sf libcuda.so.1 "$folder/libcuda.so"
