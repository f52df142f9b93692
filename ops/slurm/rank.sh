#!/usr/bin/env bash
# One rank: what srun says of a task becomes what torch asks for. Ends in exec, so that signals reach the trainer itself
# and its exit status is srun's. PROGRAM, of the batch file, is what Python runs.
export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID"
export WORLD_SIZE="$SLURM_NTASKS" LOCAL_WORLD_SIZE="$((SLURM_NTASKS / SLURM_NNODES))"
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296  # glibc keeps large buffers

if ! command -v "$PYTHON" >/dev/null; then
  echo "slurm: error: PYTHON = $PYTHON is not on $(hostname); run \`make setup\`, or name another one" >&2
  exit 2
fi
read -r -a program <<<"${PROGRAM:-train/pretrain.py}"
exec "$PYTHON" "${program[@]}" "$@"
