#!/usr/bin/env bash
# 手边有 CUDA GPU 的那一天，一条命令验明正确与速度：
#
#     NANOGPT=../nanoGPT benchmarks/gpu.sh          # 结果在 ./gpu-results，或 $OUT
#     DRY_RUN=cpu benchmarks/gpu.sh                 # 在 CPU 上走一遍同样的逻辑，极小的形状
#
# 只需要 torch、numpy、tomlkit 与 python3，不需要网络；总共不到 9 分钟。某一部分失败了接着做下一部分，
# 退出码是失败的部分数。BATCHES 是要试的微批，按先后，有时间才试下一个；BUDGET_S 是总的秒数；
# PARTS 只做其中几个部分，如 PARTS="correctness xl"。
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

OUT=${OUT:-./gpu-results}
BUDGET_S=${BUDGET_S:-520}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" || exit 1
OUT=$(cd "$OUT" && pwd)
rm -f "$OUT"/part-*.json "$OUT"/results.json "$OUT"/report.txt
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export DRY_RUN=${DRY_RUN:-} BATCHES=${BATCHES:-32 64 24 48 16}
SCRATCH=$(mktemp -d)
# 编译缓存：预热的那一部分写，计时的各部分读
export TMPDIR=$SCRATCH TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$SCRATCH/inductor}
trap 'rm -rf "$SCRATCH"' EXIT

# 名字与各自的秒数上限；限的是卡住的情形，平常远用不到
parts=(environment:60 correctness:150 warm:130 speed:190 modern:90 sampling:110 xl:90 batches:300)
if [[ -n ${PARTS:-} ]]; then
    chosen=()
    for part in "${parts[@]}"; do
        [[ " $PARTS " == *" ${part%%:*} "* ]] && chosen+=("$part")
    done
    parts=(${chosen[@]+"${chosen[@]}"})
fi
failed=0
for part in "${parts[@]}"; do
    name=${part%%:*} limit=${part##*:}
    left=$((BUDGET_S - SECONDS))
    if ((left < 15)); then
        echo "== $name: not run, the $BUDGET_S s are used up"
        printf '{"part": "%s", "status": "not run: out of time"}\n' "$name" >"$OUT/part-$name.json"
        failed=$((failed + 1))
        continue
    fi
    ((limit > left)) && limit=$left
    echo "== $name (at most $limit s)"
    # 比外面的上限早几秒收尾，已经量到的才来得及写下
    DEADLINE_S=$((limit - 8)) timeout -k 5 "$limit" "$PYTHON" benchmarks/gpu_parts.py "$name" "$OUT" 2>&1 |
        tee "$OUT/part-$name.log"
    code=${PIPESTATUS[0]}
    if ((code != 0)); then
        echo "== $name: FAILED (exit $code)"
        failed=$((failed + 1))
    fi
done
"$PYTHON" benchmarks/gpu_report.py "$OUT" "$SECONDS" "$failed" || failed=$((failed + 1))
echo "$failed of ${#parts[@]} parts failed; results in $OUT"
exit "$failed"
