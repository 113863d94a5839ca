#!/bin/bash
# A run that outlives its job: what the time limit cuts off goes on in the next job by itself.
#
#   sbatch examples/slurm.sh --backbone timm:vit_base_patch16_224.mae --data folder:/data/birds
#
# Two minutes before the limit SLURM sends TERM to this script. It passes it on, waits until the run
# has ended, and puts the job back into the queue under its own number; the next job gives the same
# command again, and iceprobe goes on with the shards and epochs that are missing. A node that
# fails is SLURM's own --requeue: the same, without the notice.
#
#SBATCH --job-name=iceprobe
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=iceprobe-%j.log

PROCESSES=${PROCESSES:-1} # a node; set it to the number of its GPUs

command=(iceprobe run "$@" --output "${OUTPUT:-runs/slurm-$SLURM_JOB_ID}")
if [ "$PROCESSES" -gt 1 ] || [ "${SLURM_NNODES:-1}" -gt 1 ]; then
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    command=(torchrun --nnodes "${SLURM_NNODES:-1}" --nproc-per-node "$PROCESSES"
        --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:29400"
        -m "${command[@]}")
fi

stopped=0
trap 'stopped=1; kill -TERM "$run" 2>/dev/null' TERM

srun --kill-on-bad-exit=1 "${command[@]}" &
run=$!
# A trapped signal ends `wait` early, so wait again until the run itself has ended.
while wait "$run"; code=$?; kill -0 "$run" 2>/dev/null; do :; done

if [ "$stopped" = 1 ] && [ "$code" != 0 ]; then
    scontrol requeue "$SLURM_JOB_ID" # ends this job; a TERM sent while it ended well needs none
    exit 0
fi
exit "$code"
