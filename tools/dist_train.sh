#!/usr/bin/env bash
# On one or more machines: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# NNODES, NODE_RANK, MASTER_ADDR and PORT describe a run over several machines. MAX_RESTARTS is how
# often a worker that died is replaced; give --resume with it. Without GPUs, as many processes share
# the CPU.
set -euo pipefail
config=${1:?usage: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]}
gpus=${2:?usage: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]}
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" --nproc-per-node="$gpus" \
  --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}" \
  --max-restarts="${MAX_RESTARTS:-0}" \
  "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
