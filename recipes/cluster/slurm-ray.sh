#!/bin/bash
# Slurm: one board over the GPUs of four nodes, by Ray. From a folder that all nodes share:
#
#   sbatch recipes/cluster/slurm-ray.sh
#
# The store lies in that folder. Two minutes before Slurm's limit the board ends with its table; the
# same command goes on. How far it is, from the login node: optbench-llm status runs/gpt2-alpaca

#SBATCH --job-name=optbench
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=optbench-%j.log

set -euo pipefail
source .venv/bin/activate  # pip install "optbench-llm[ray]", in the folder that all share

# Ray on every node. Not by ray symmetric-run: told to end, it kills the leaderboard in mid-word.
address=$(hostname -I | awk '{ print $1 }'):6379
ray start --head --port 6379 --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$SLURM_GPUS_ON_NODE"
srun --nodes "$((SLURM_NNODES - 1))" --ntasks "$((SLURM_NNODES - 1))" --exclude "$(hostname)" \
  ray start --address "$address" --block --num-cpus "$SLURM_CPUS_PER_TASK" \
  --num-gpus "$SLURM_GPUS_ON_NODE" &

# Each trial takes one GPU; workers wait until their nodes have come. A batch script passes no signal
# on by itself.
optbench-llm leaderboard gpt2-alpaca-reference --track tuned --optim all --executor ray \
  --ray-address "$address" --gpus-per-trial 1 --cpus-per-trial 8 \
  --workers "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" --store runs/gpt2-alpaca &
leaderboard=$!
trap 'kill -TERM "$leaderboard"' TERM
code=0
wait "$leaderboard" || code=$?
if [ "$code" -eq 143 ] && kill -0 "$leaderboard" 2> /dev/null; then
  wait "$leaderboard" || code=$?  # the first wait ended by the signal, and not by the leaderboard
fi
ray stop
exit "$code"
