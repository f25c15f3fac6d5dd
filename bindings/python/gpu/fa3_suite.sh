#!/usr/bin/env bash
# Runs FlashAttention-3's own hopper/test_flash_attn.py, unmodified, on flashcore's drop-in for flash_attn_interface.
# What flashcore has not is skipped and counted, by reason.
# Usage: fa3_suite.sh DIR [--wheel FILE] [--wheels DIR] [--python PYTHON] [-- PYTEST ARGUMENTS]
#   DIR              the folder hopper/ of FlashAttention-3: test_flash_attn.py, test_util.py, padding.py
#   --wheel FILE     flashcore's wheel (default: the Python has it)
#   --wheels DIR     wheels of pytest and einops, for a machine without a network
#   --python PYTHON  one that has PyTorch (default: python3)
# Example: fa3_suite.sh flash-attention/hopper --wheel flashcore-0.1.0-*.whl -- -k 'output and not varlen'
# With $OUT set, the whole log is put there as fa3_suite.log. With FA3_REHEARSAL=1 the emulator computes, which needs no GPU
# but patience: -- -k 'output and 96 and mqa and 1-1' chooses some of the smallest tests.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
suite='' wheel='' wheels='' python=python3
while [[ $# -gt 0 ]]; do
  case $1 in
    --help | -h) usage; exit ;;
    --wheel) wheel=$2; shift 2 ;;
    --wheels) wheels=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --) shift; break ;;
    *) suite=$1; shift ;;
  esac
done
for file in test_flash_attn.py test_util.py padding.py; do
  [[ -f $suite/$file ]] || { echo "fa3_suite.sh: no $file in '$suite'" >&2; usage >&2; exit 2; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/venv.sh" "$work/venv" "$python" "$wheel" "$wheels" pytest einops
python=$work/venv/bin/python

# The suite imports flash_attn_interface and padding by their names; nothing else of DIR may be found by accident, such as
# FlashAttention-3's own flash_attn_interface.
mkdir "$work/suite"
cp "$suite"/{test_flash_attn,test_util,padding}.py "$work/suite"
echo 'from flashcore.flash_attn_interface import *' >"$work/suite/flash_attn_interface.py"

# What its tests are told that this build has not.
for feature in BACKWARD SPLIT PAGEDKV APPENDKV PACKGQA FP8; do
  export "FLASH_ATTENTION_DISABLE_$feature=TRUE"
done
arguments=(-q -p no:cacheprovider -p fa3_plugin --tb=short --disable-warnings)
log=${OUT:-$work}/fa3_suite.log
status=0
(cd "$work/suite" && PYTHONPATH="$work/suite:$here" "$python" -m pytest "${arguments[@]}" "$@" test_flash_attn.py) \
  >"$log" 2>&1 || status=$?
if grep -q "^=* FlashAttention-3's tests" "$log"; then
  sed -n "/^=* FlashAttention-3's tests/,\$p" "$log"
else
  tail -n 30 "$log"
fi
exit "$status"
