#!/usr/bin/env bash
# Check, then measure on a machine with an NVIDIA GPU, in at most nine minutes.
#   usage: benchmarks/gpu.sh OUT [--wheels DIR] [--dry-run]
# JSON, Markdown and pictures go to the folder OUT, and what each part printed to OUT/PART.txt. With
# --wheels the packages are installed from DIR into .site, without a network: DIR has the wheels of
# what the machine's Python lacks, torch and torchvision excepted, with pytest for the tests.
# --dry-run starts every part on the CPU, as small as it goes. PYTHON names another interpreter.
# A part that fails or takes too long leaves the others alone; the exit code says whether one did.
set -uo pipefail
usage='usage: benchmarks/gpu.sh OUT [--wheels DIR] [--dry-run]'
out='' wheels='' dry='' total=525 slower=1 # total: seconds of all parts, of which the last may end 10 later
while (($#)); do
  case $1 in
    --wheels) wheels=$(cd "${2:?$usage}" && pwd) || exit 2; shift ;;
    --dry-run) dry=1 ;;
    -*) echo "$usage" >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
[[ $out ]] || { echo "$usage" >&2; exit 2; }
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
export PYTHON=$python PYTHONPATH=$PWD:$PWD/.site
names=() codes=() times=()

# Run a part: its name, how many seconds it may take, its command.
part() {
  local name=$1 limit=$(($2 * slower)) begun=$SECONDS code
  local left=$((total - SECONDS))
  shift 2
  echo "== $name: $*"
  # An interrupt, since what has been measured by then is still printed.
  timeout --signal=INT --kill-after=10 $((left < 1 ? 1 : left < limit ? left : limit)) "$@" 2>&1 \
    | tee "$out/$name.txt"
  code=${PIPESTATUS[0]}
  names+=("$name") codes+=("$code") times+=($((SECONDS - begun)))
}

# What it takes to make a part small; nothing of it where there is a GPU.
device=cuda tests=(tests/test_cuda tests/test_ops tests/test_mmcv_ops tests/test_deploy)
some=() nets=() detectors=() backbones=() layers=() steps=() ways=() images=(128 16)
if [[ $dry ]]; then
  device=cpu total=1800 slower=4 tests=(tests/test_cuda/test_operators.py) images=(8 2)
  few=(--warmup 0 --repeat 1) some=(--size 64 64 --repeat 1)
  nets=(--only VanillaNet-5 ResNet-18) detectors=(--only 'RetinaNet VanillaNet-13')
  layers=(--arch 5 --size 64 64 --repeats 1 --types fp32)
  backbones=(--arch 5 --routes 'eager channels-last fp32' 'accelerated fp32')
  steps=(--arch 5 --routes fp32) ways=(--routes 'RetinaNet, VanillaNet-13, accelerated fp32')
else
  few=(--dtype fp16 --channels-last)
fi

[[ $wheels ]] && part install 60 \
  "$python" -m pip install -q --no-index --no-deps --upgrade --target .site "$wheels"/*.whl
if [[ ! $dry ]] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo 'gpu.sh: PyTorch finds no NVIDIA GPU here; --dry-run rehearses on the CPU' >&2
  exit 2
fi

part tests 150 "$python" -m pytest -q -p no:cacheprovider --continue-on-collection-errors \
  -m 'not slow' -k 'cuda or gpu or graph' "${tests[@]}"
part table4 90 "$python" tools/reproduce.py table4 --device $device --out "$out" "${few[@]}" \
  "${detectors[@]}"
part table3 90 "$python" tools/reproduce.py table3 --device $device --out "$out" "${few[@]}" \
  "${nets[@]}"
part backbone 90 "$python" benchmarks/backbone.py --device $device --out "$out/backbone.json" \
  "${some[@]}" "${backbones[@]}"
part operator 90 "$python" benchmarks/series_activation.py --device $device \
  --out "$out/operator.json" "${layers[@]}"
part detectors 90 "$python" benchmarks/detectors.py --device $device \
  --out "$out/detectors.json" "${some[@]}" "${ways[@]}"
part training 60 "$python" benchmarks/training.py --device $device --out "$out/training.json" \
  "${some[@]}" "${steps[@]}"
part shapes 30 "$python" tools/make_shapes.py --out "$out/shapes" \
  --train "${images[0]}" --val "${images[1]}"
part data_parallel 90 tools/dist_train.sh configs/mask_rcnn_vanillanet13_shapes.py 1 \
  --data-root "$out/shapes/coco" --work-dir "$out/data_parallel" \
  --cfg-options train_cfg.max_epochs=1 default_hooks.logger.interval=1
part curve 30 "$python" tools/plot_log.py "$out/data_parallel" --out "$out/data_parallel.png"

worst=0
{
  printf '| part | exit code | seconds |\n|---|---|---|\n'
  for i in "${!names[@]}"; do
    printf '| %s | %s | %s |\n' "${names[i]}" "${codes[i]}" "${times[i]}"
  done
} | tee "$out/summary.md"
for name in "${names[@]}"; do
  printf '\n## %s\n\n```\n%s\n```\n' "$name" "$(cat "$out/$name.txt")"
done >> "$out/summary.md"
for code in "${codes[@]}"; do ((code)) && worst=1; done
echo "$SECONDS s in all; results are in $out"
exit $worst
