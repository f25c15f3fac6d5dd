#!/usr/bin/env bash
# Runs the Python package's tests on a GPU node: self-test, the tests of tests/ and those of this folder.
# Usage: run.sh [--wheel FILE] [--wheels DIR] [--python PYTHON] [-- PYTEST ARGUMENTS]
#   --wheel FILE     flashcore's wheel (default: the Python has it)
#   --wheels DIR     wheels of pytest, hypothesis, numpy and ml_dtypes, for a machine without a network
#   --python PYTHON  one that has PyTorch, JAX and CuPy, as far as they are to be tested (default: python3)
# Example: run.sh --wheel flashcore-0.1.0-py3-none-manylinux_2_34_x86_64.whl --wheels wheels
# With $OUT set, the whole log is put there as python.log.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

wheel='' wheels='' python=python3
while [[ $# -gt 0 ]]; do
  case $1 in
    --wheel) wheel=$2; shift 2 ;;
    --wheels) wheels=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --) shift; break ;;
    --help | -h) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit ;;
    *) echo "run.sh: unknown argument $1; try --help" >&2; exit 2 ;;
  esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/venv.sh" "$work/venv" "$python" "$wheel" "$wheels" numpy ml_dtypes pytest hypothesis
python=$work/venv/bin/python

cd "$work" # so that what is imported is what was installed
"$python" -m flashcore
log=${OUT:-$work}/python.log
status=0
# Other frameworks need memory beside JAX.
XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONPATH=$here/../tests \
  "$python" -m pytest -q -p no:cacheprovider -c "$here/../pyproject.toml" --rootdir "$here/.." \
  "$@" "$here/../tests" "$here" >"$log" 2>&1 || status=$?
if grep -q '^=* short test summary' "$log"; then
  sed -n '/^=* short test summary/,$p' "$log" | cut -c1-200
else
  tail -n 1 "$log"
fi
exit "$status"
