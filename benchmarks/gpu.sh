#!/bin/sh
# Builds the CUDA module for the GPU of this machine, checks it and times it, in under ten minutes:
#
#   benchmarks/gpu.sh              needs one NVIDIA GPU, nvcc 13, cmake, ninja, and a Python with
#                                  jax[cuda13], nanobind and numpy (PYTHON=... chooses it)
#   benchmarks/gpu.sh --dry-run    the Python parts alone, small and on the CPU
#
# Prints tables, and writes benchmarks/results/gpu-<device>-<time>.json. SKIP_BUILD=1 takes the
# modules that are in jaxfp4/native already.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

if [ "${1:-}" = --dry-run ]; then
  export JAX_PLATFORMS=cpu
  "$PYTHON" benchmarks/gpu_check.py --dry-run --json "$parts/check.json" &&
    "$PYTHON" benchmarks/gpu_bench.py --dry-run --json "$parts/bench.json" &&
    "$PYTHON" benchmarks/gpu_report.py "$parts" --output "$parts/report.json"
  exit
fi

capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1) || {
  echo "gpu.sh: no NVIDIA GPU (nvidia-smi failed)" >&2
  exit 1
}
case $capability in
  9.0) architecture=90a ;;
  10.*) architecture=100f ;;
  12.*) architecture=120f ;;
  *) architecture=$(echo "$capability" | tr -d .) ;;
esac

build() {
  cmake -S . -B build/gpu -G Ninja -DPython_EXECUTABLE="$(command -v "$PYTHON")" \
    -DJAXFP4_INPLACE=ON -DJAXFP4_CUDA=ON -DJAXFP4_CUDA_ARCHITECTURES="$architecture" &&
    cmake --build build/gpu
}

# step NAME SECONDS COMMAND...: runs a command, and notes how it ended and how long it took.
step() {
  name=$1
  limit=$2
  shift 2
  echo "== $name"
  begin=$(date +%s)
  timeout "$limit" "$@"
  status=$?
  echo "$name $status $(($(date +%s) - begin))" >>"$parts/steps"
  [ $status -eq 0 ] || echo "gpu.sh: $name ended with status $status" >&2
  return $status
}

sanitize() { # a tool of compute-sanitizer, on a small part of the checks
  command -v compute-sanitizer >/dev/null || {
    echo "no compute-sanitizer: left out"
    return
  }
  step "$1" 70 compute-sanitizer --tool "$1" --error-exitcode 9 "$PYTHON" \
    benchmarks/gpu_check.py --small
}

if [ -z "${SKIP_BUILD:-}" ]; then
  echo "== build for sm_$architecture"
  begin=$(date +%s)
  build >"$parts/build.log" 2>&1 || {
    tail -n 40 "$parts/build.log" >&2
    exit 1
  }
  echo "build 0 $(($(date +%s) - begin))" >>"$parts/steps"
fi

step check 200 "$PYTHON" benchmarks/gpu_check.py --json "$parts/check.json"
checked=$?
step bench 140 "$PYTHON" benchmarks/gpu_bench.py --json "$parts/bench.json"
sanitize memcheck
sanitize racecheck
"$PYTHON" benchmarks/gpu_report.py "$parts"
exit $checked
