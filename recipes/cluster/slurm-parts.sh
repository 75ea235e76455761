#!/bin/bash
# Slurm without any engine: sixteen jobs of one GPU, each with every sixteenth row and a store of
# its own, which start whenever there is a GPU.
#
#   sbatch recipes/cluster/slurm-parts.sh
#
# When all have ended, joined, and then the table of them all:
#
#   optbench-llm merge runs/part-* --into runs/gpt2-alpaca
#   optbench-llm leaderboard gpt2-alpaca-reference --track tuned --optim all --store runs/gpt2-alpaca

#SBATCH --job-name=optbench-part
#SBATCH --array=1-16
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=optbench-part-%a.log

set -euo pipefail
source .venv/bin/activate

srun optbench-llm leaderboard gpt2-alpaca-reference --track tuned --optim all \
  --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --store "runs/part-$SLURM_ARRAY_TASK_ID"
