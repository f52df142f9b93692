#!/usr/bin/env bash
# Start one rank per task of a Slurm job; when the run was asked to stop and has saved, have the job started again.
#
#     ops/slurm/train.sh FLAGS      FLAGS are those of train/pretrain.py; run by the batch files, in the checkout
#
# Exit status: the highest of the ranks. Settings, from the environment that sbatch was called in:
: "${SLURM_JOB_ID:?is not set: submit a batch file with sbatch}"
: "${PYTHON:=.venv/bin/python}"           # on every node, with Diptych's dependencies
: "${MAX_RESTARTS:=50}"                   # of the job, whoever asked for them; then it is left to a person
: "${REQUEUE_STATUSES:=75 138 143}"       # 75: saved. 138 and 143: USR1 or TERM came before a rank listened
: "${SRUN_OPTIONS:=}"                     # further words for srun, such as those for a container
: "${MASTER_ADDR:=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"
: "${MASTER_PORT:=$((20000 + SLURM_JOB_ID % 10000))}"  # jobs that share a node do not meet
set -uo pipefail
export PYTHON MASTER_ADDR MASTER_PORT
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"  # since Slurm 22.05 srun does not take it over from sbatch

say() { echo "slurm: $1" >&2; }

# Slurm sends SIGTERM to this script, too, where it ends the job itself: scancel, scontrol requeue, the time limit. The
# trap lets the script live until the ranks have saved. Warnings (--signal, preemption with grace) reach the ranks alone.
ended_by_slurm=
trap 'ended_by_slurm=yes' TERM

# A rank that has saved exits with 75, which is not 0: the others must not be killed for it, whatever the cluster's
# KillOnBadExit and WaitTime say. Ranks find out by themselves who is missing.
read -r -a options <<<"$SRUN_OPTIONS"
srun --label --distribution=block --kill-on-bad-exit=0 --wait=0 "${options[@]}" bash ops/slurm/rank.sh "$@"
status=$?

restarts=${SLURM_RESTART_COUNT:-0}
if [[ $status -eq 0 ]]; then
  say "done"
elif [[ " $REQUEUE_STATUSES " != *" $status "* ]]; then
  say "the run ended with status $status; not requeued"
elif [[ -n $ended_by_slurm ]]; then
  say "asked to stop by Slurm, status $status; what comes next is for Slurm to say"
elif ((restarts >= MAX_RESTARTS)); then
  say "asked to stop, status $status; not requeued after $restarts restarts (MAX_RESTARTS = $MAX_RESTARTS)"
elif scontrol requeue "$SLURM_JOB_ID"; then
  say "asked to stop, status $status; requeued, restart $((restarts + 1)) of at most $MAX_RESTARTS"
else
  say "asked to stop, status $status, but Slurm does not requeue the job; submit it again to go on"
fi
exit "$status"
