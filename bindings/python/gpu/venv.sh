#!/usr/bin/env bash
# Makes an environment on top of a Python's packages, with flashcore's wheel and what tests need. Says what is missing.
# Usage: venv.sh DIR PYTHON WHEEL WHEELS PACKAGE...; WHEEL and WHEELS may be empty, as where everything is installed.
# Example: venv.sh /tmp/venv python3 flashcore-0.1.0-py3-none-manylinux_2_34_x86_64.whl wheels pytest hypothesis
set -euo pipefail
[[ $# -ge 4 ]] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
folder=$1 base=$2 wheel=$3 wheels=$4
shift 4

"$base" -m venv --system-site-packages "$folder" >/dev/null ||
  { rm -rf "$folder"; "$base" -m venv --system-site-packages --without-pip "$folder"; }
python=$folder/bin/python
# A venv of a venv does not see the packages of the latter.
"$base" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' \
  >"$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/base.pth"
pip() { "$python" -m pip --quiet --disable-pip-version-check "$@"; }
if [[ -n $wheel ]]; then
  pip install --no-index --no-deps --force-reinstall "$wheel"
fi
for package in "$@"; do
  "$python" -c "import $package" 2>/dev/null && continue
  if [[ -n $wheels ]]; then
    pip install --no-index --find-links "$wheels" "$package"
  else
    pip install "$package"
  fi
done
