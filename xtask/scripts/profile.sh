#!/usr/bin/env bash
# One launch under Nsight Compute. Usage: ./profile.sh B,H,S,D [arguments of `flashcore-lab one`, e.g. --causal]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lab=${FLASHCORE_LAB:-$here/flashcore-lab}
out=${FLASHCORE_PROFILE_DIR:-$here}
shape=${1:?usage: profile B,H,S,D [arguments]}
shift

ncu=$(command -v ncu || ls /usr/local/cuda*/bin/ncu /opt/nvidia/nsight-compute/*/ncu 2>/dev/null | tail -n 1 || true)
if [[ -z $ncu ]]; then
  echo "ncu (Nsight Compute) was not found in PATH, /usr/local/cuda*/bin or /opt/nvidia/nsight-compute" >&2
  exit 1
fi

name=$(printf '%s' "fwd_$shape$*" | tr -c 'A-Za-z0-9' '_')
# The clocks are left as they are: they are shared with others, and a locked clock is not what users get.
options=(--clock-control none --set full --kernel-name 'regex:^fwd_' --launch-skip 2 --launch-count 1 --import-source yes --force-overwrite)
# In a bundle the sources lie beside this script, not where they were compiled.
[[ -d $here/source ]] && options+=(--source-folders "$here/source")
"$ncu" "${options[@]}" --export "$out/$name" "$lab" one --shape "$shape" --repeat 3 "$@"
echo "$out/$name.ncu-rep"
"$ncu" --import "$out/$name.ncu-rep" --page details --print-summary per-kernel
