#!/usr/bin/env bash
# SSLFER's claim on a store of labelled videos: with each of its parts an encoder tells expressions better and people
# worse. Trains every row for several seeds and prints a table; what is there already is not trained again.
#
#   trainer synth --align --identities 200 --clips 3 --seconds 10 --pose-spread 0.5 --seed 7 --out stores/synth
#   trainer synth --align --identities 1000 --seconds 12 --fps 1 --pose-spread 0.5 --seed 11 --out stores/probe
#   deploy/bench/ablation.sh --data stores/synth --probe stores/probe --out runs/ablation \
#       [--epochs 6] [--seeds 3] [--jobs 2] [-- FLAGS]
#
# Expressions are judged by a linear probe on the store --probe (else --data), with balanced classes, as half of all frames are
# neutral. It should have many people with few frames each: a probe learns a video by heart that has but two or three
# expressions. People are judged by the nearest neighbour in another video of --data, as light and place tell frames of one
# video from all others. Settings are those of small.toml, beside this script. FLAGS go to `trainer pretrain`; a --config among
# them replaces that file. Each of the jobs, side by side, has one thread. Results that were made with other settings or of
# another store are not used again, but refused.
set -euo pipefail

data="" probe="" out="" epochs=6 seeds=3 jobs=2 trainer=${TRAINER:-target/release/trainer}
while [ $# -gt 0 ]; do
    case "$1" in
        --data) data=$2; shift 2 ;;
        --probe) probe=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --epochs) epochs=$2; shift 2 ;;
        --seeds) seeds=$2; shift 2 ;;
        --jobs) jobs=$2; shift 2 ;;
        --) shift; break ;;
        -h | --help) sed -n '2,15p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
        *) echo "ablation.sh: unknown argument '$1'" >&2; exit 2 ;;
    esac
done
[ -n "$data" ] && [ -n "$out" ] || { echo "ablation.sh: --data and --out are needed" >&2; exit 2; }
[ -x "$trainer" ] || { echo "ablation.sh: $trainer is missing: cargo build --release -p semblance-trainer, or name another with TRAINER" >&2; exit 1; }
probe=${probe:-$data}
mkdir -p "$out"
given="--epochs $epochs $*"
case " $* " in
    *" --config"*) ;;
    *) set -- --config "$(dirname "$0")/small.toml" "$@" ;;
esac

# What the results follow from; seeds may be added, and jobs change nothing.
settings=$(
    echo "flags: $given"
    echo "store: $(sha256sum <"$data/index.bin")"
    echo "probe: $(sha256sum <"$probe/index.bin")"
    previous=""
    for word in "$@"; do
        if [ "$previous" = --config ]; then cat "$word"; fi
        case "$word" in --config=*) cat "${word#--config=}" ;; esac
        previous=$word
    done
)
if [ -f "$out/settings" ] || compgen -G "$out/*.json" >/dev/null; then
    diff "$out/settings" - <<<"$settings" >&2 || {
        echo "ablation.sh: $out has results of other settings or another store: remove it, or choose another --out" >&2
        exit 1
    }
fi
echo "$settings" >"$out/settings"

# Rows in the order of the table: a name and the recipe behind it.
rows="random simclr table1-a table1-b table1-e table1-f"
export OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1

one() { # row seed
    local row=$1 seed=$2 run subject
    run=$out/$row-$seed
    [ -s "$run.identity.json" ] && return 0
    if [ "$row" = random ]; then
        subject=(--random-init edge --seed "$seed")
    else
        local resume=()
        [ -f "$run/checkpoint.safetensors" ] && resume=(--resume)
        "$trainer" pretrain --recipe "sslfer/$row" --backbone edge --side-px 64 --data "$data" --out "$run" --epochs "$epochs" --seed "$seed" \
            "${resume[@]}" $flags 2>"$run.log"
        subject=(--checkpoint "$run")
    fi
    "$trainer" eval --task expression --protocol linear --class-weights balanced "${subject[@]}" --data "$probe" --json >"$run.expression.json" 2>>"$run.log"
    "$trainer" eval --task identity --protocol knn --apart-secs 3600 "${subject[@]}" --data "$data" --json >"$run.identity.json.new" 2>>"$run.log"
    mv "$run.identity.json.new" "$run.identity.json"
    echo "$row, seed $seed: done" >&2
}
flags=$*
export -f one
export data probe out epochs trainer flags

for seed in $(seq 0 $((seeds - 1))); do for row in $rows; do echo "$row $seed"; done; done |
    xargs -P "$jobs" -L 1 bash -c 'set -euo pipefail; one "$1" "$2"' _ || { echo "ablation.sh: a run failed: see $out/*.log" >&2; exit 1; }

echo "| row | expression mean recall (linear probe) | macro F1 | accuracy | identity accuracy (1-NN, other videos) |"
echo "|---|---|---|---|---|"
for row in $rows; do
    for what in mean_recall macro_f1 accuracy; do
        sed "s/.*\"$what\":\([0-9.e-]*\).*/\1/" "$out/$row"-*.expression.json >"$out/$row.$what"
    done
    sed 's/.*"accuracy":\([0-9.e-]*\).*/\1/' "$out/$row"-*.identity.json >"$out/$row.identity"
    figures=$(for what in mean_recall macro_f1 accuracy identity; do
        awk '{ n++; s += $1; q += $1 * $1 } END { m = s / n; v = q / n - m * m; printf "%.4f +- %.4f | ", m, sqrt((v > 0 ? v : 0) * n / (n > 1 ? n - 1 : 1)) }' "$out/$row.$what"
    done)
    echo "| $row | $figures"
done
