#!/usr/bin/env bash
# All that matters on a machine with a GPU, in under 8 minutes: does a step make the host wait, bf16 steps against
# transformers, the share of the device's peak, as it is and compiled, waiting for data, and memory.
#   bash benchmarks/gpu.sh [folder for results]          needs `pip install -e ".[benchmarks]"` for the peers
#   DRY=1 bash benchmarks/gpu.sh                         tiny sizes, to see on a CPU that it runs to its end
# Every part has a time limit and none stops the others; the exit status is 1 if one failed.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${1:-runs/gpu}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
# Seconds for all parts together, and a factor on the limit of each.
END=470 PATIENCE=1
FAILED=()

if [ -n "${DRY:-}" ]; then
    SIZE=micro BATCH=1 HALF=1 SMALL=1 PAIRS=1 STEPS=1 BACKEND=eager
    VIDEOS=(--train_videos 6 --val_videos 1 --frames 20 --size 32)
    FIT=(--config configs/debug/tiny.yaml --trainer.max_epochs 2)
    CLIPS=2 WORKERS=1
    MEMORY=(--methods "[VideoMAE, LocoMotion]")
    END=850 PATIENCE=4
else
    SIZE=base BATCH=64 HALF=32 SMALL=16 PAIRS=15 STEPS=20 BACKEND=inductor
    VIDEOS=(--train_videos 512 --val_videos 1 --frames 80 --size 256)
    FIT=(--config configs/trainer/one_gpu.yaml --trainer.max_steps 64)
    CLIPS=64 WORKERS=$(nproc)
    MEMORY=()
fi

# part NAME SECONDS COMMAND...: run a command within its own limit and what is left of the whole.
part() {
    local name=$1 limit=$((PATIENCE * $2)) left=$((END - SECONDS)) status=0
    shift 2
    echo
    echo "== $name ($SECONDS s)"
    if ((left < 15)); then
        echo "left out: no time is left"
        FAILED+=("$name")
        return
    fi
    timeout $((left < limit ? left : limit)) "$@" 2>&1 | tee "$OUT/${name// /_}.txt" || status=$?
    if ((status == 124)); then
        echo "cut short after its time"
    fi
    if ((status != 0)); then
        FAILED+=("$name")
    fi
}

ALIKE=(--size "$SIZE" --precision bf16)
part "steps against transformers" 100 "$PYTHON" benchmarks/step.py "${ALIKE[@]}" --batch "$HALF" --pairs "$PAIRS" --methods "[]" \
    --compare '["VideoMAE / transformers", "SMILE / itself, a pass per mask", "SMILE / transformers"]' --out "$OUT/step.json"
part "waits" 70 "$PYTHON" benchmarks/waits.py "${ALIKE[@]}" --batch "$SMALL" --out "$OUT/waits.json"
part "utilisation of VideoMAE" 100 "$PYTHON" benchmarks/utilisation.py "${ALIKE[@]}" --batch "$BATCH" --steps "$STEPS" \
    --backend "$BACKEND" --methods "[VideoMAE]" --out "$OUT/videomae.json"
part "utilisation of SMILE" 80 "$PYTHON" benchmarks/utilisation.py "${ALIKE[@]}" --batch "$HALF" --steps "$STEPS" \
    --backend "$BACKEND" --methods "[SMILE]" --compile "[none, all]" --out "$OUT/smile.json"
part "utilisation of others" 60 "$PYTHON" benchmarks/utilisation.py "${ALIKE[@]}" --batch "$HALF" --steps "$STEPS" \
    --methods "[SIGMA-DINO, MoCo]" --compile "[none]" --out "$OUT/others.json"
part "videos" 40 "$PYTHON" main.py synthesise --out "$OUT/videos" "${VIDEOS[@]}"
part "waiting for data" 80 "$PYTHON" main.py fit --config configs/videomae.yaml "${FIT[@]}" \
    --data VideoFolder --data.root "$OUT/videos" --data.batch_size "$CLIPS" --data.reading.num_workers "$WORKERS" \
    --trainer.default_root_dir "$OUT/run" --trainer.limit_val_batches 0 --trainer.enable_progress_bar false \
    --trainer.enable_checkpointing false --trainer.callbacks '[{class_path: Throughput, init_args: {every_n_steps: 4}}]'
part "memory" 60 "$PYTHON" benchmarks/memory.py "${ALIKE[@]}" --batch "$SMALL" "${MEMORY[@]}" --out "$OUT/memory.json"

echo
echo "$SECONDS s; tables and JSON files are in $OUT"
if ((${#FAILED[@]})); then
    printf 'failed: %s\n' "${FAILED[@]}"
    exit 1
fi
