# Shared by the scripts: places, messages, where nvcc and a GPU are, how many compile jobs the memory allows.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
deps=${QLORA_DEPS:-$root/.deps}
mkdir -p "$deps" 2>/dev/null || true
deps=$(cd "$deps" 2>/dev/null && pwd || echo "$deps")

say() { printf '%s\n' "$*" >&2; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}
usage_error() {
  printf '%s: %s\n%s\n' "${0##*/}" "$1" "$usage" >&2
  exit 2
}

# check_preset NAME ALLOWED...: ends with a usage error where NAME is none of the others.
check_preset() {
  local preset=$1 allowed
  shift
  for allowed in "$@"; do
    [ "$preset" = "$allowed" ] && return
  done
  usage_error "--preset takes $(printf '%s|' "$@" | sed 's/|$//'), not '$preset'"
}

# The CUDA Toolkit's compiler on this machine; fails where there is none.
toolkit_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" \
    /usr/local/cuda/bin/nvcc; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}

# Any CUDA compiler: the toolkit's, or the one that scripts/setup --preset cuda took from PyPI.
any_nvcc() {
  toolkit_nvcc || ls "$deps"/python/lib/python3*/site-packages/nvidia/cu13/bin/nvcc 2>/dev/null
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# Without OMP_NUM_THREADS: nproc takes that for the number of cores.
core_count() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }

# Compile jobs: one a core, but no more than the free memory allows at about 2 GB each.
compile_jobs() {
  local cores memory_kb limit
  cores=$(core_count)
  memory_kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  if [ -r /sys/fs/cgroup/memory.max ]; then
    limit=$(cat /sys/fs/cgroup/memory.max)
    if [ "$limit" != max ] && [ $((limit / 1024)) -lt "$memory_kb" ]; then
      memory_kb=$((limit / 1024))
    fi
  fi
  local jobs=$((memory_kb / 2000000))
  [ "$jobs" -lt "$cores" ] || jobs=$cores
  [ "$jobs" -ge 1 ] || jobs=1
  printf '%s\n' "$jobs"
}
