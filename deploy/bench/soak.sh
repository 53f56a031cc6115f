#!/usr/bin/env bash
# Memory and rates of a long run at full speed on the drawn face, with readers that do not read: a client of /v1/stream
# and one of /v1/preview.mjpg that are stuck, a pipe that nobody empties, and an MQTT broker that is killed half-way.
#
#   cargo build --release -p semblance-edge
#   deploy/bench/soak.sh [--minutes 30] [--edge target/release/edge] [--out soak.csv]
#
# Prints a line a minute: time, resident memory of edge in MB, frames computed, rows that the CSV output got. Exits 1
# where memory grew by more than 10 % from the fifth part of the run on, or the CSV output lost a frame in ten.
set -euo pipefail

minutes=30 edge=target/release/edge out=soak.csv
while [ $# -gt 0 ]; do
    case "$1" in
        --minutes) minutes=$2; shift 2 ;;
        --edge) edge=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        -h | --help) sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
        *) echo "soak.sh: unknown argument '$1'" >&2; exit 2 ;;
    esac
done
[ -x "$edge" ] || { echo "soak.sh: $edge is missing: cargo build --release -p semblance-edge" >&2; exit 1; }
command -v curl >/dev/null || { echo "soak.sh: curl is needed" >&2; exit 1; }

work=$(mktemp -d)
port=$((20000 + RANDOM % 20000))
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

broker=()
if command -v mosquitto >/dev/null; then
    printf 'listener %s 127.0.0.1\nallow_anonymous true\n' $((port + 1)) >"$work/mosquitto.conf"
    mosquitto -c "$work/mosquitto.conf" >/dev/null 2>&1 &
    mosquitto=$!
    broker=(--out "mqtt://127.0.0.1:$((port + 1))/soak?predictions=true")
else
    echo "SKIPPED: the MQTT part: mosquitto is not installed" >&2
fi
mkfifo "$work/stuck"
exec 9<>"$work/stuck" # held open, never read
"$edge" run --source demo --http "127.0.0.1:$port" --out "jsonl:$work/stuck" --out "csv:$work/faces.csv" \
    "${broker[@]}" >/dev/null 2>"$work/log" &
pid=$!
for _ in $(seq 100); do curl -s "http://127.0.0.1:$port/healthz" >/dev/null && break; sleep 0.1; done
# curl stops reading when its own output is not read.
for path in v1/stream v1/preview.mjpg; do
    mkfifo "$work/${path##*/}"
    exec {held}<>"$work/${path##*/}"
    curl -s -N "http://127.0.0.1:$port/$path" >"$work/${path##*/}" &
done

echo "minute,rss_mb,frames,rows" | tee "$out"
first=""
for minute in $(seq "$minutes"); do
    sleep 60
    kill -0 "$pid" 2>/dev/null || { echo "soak.sh: edge ended:" >&2; cat "$work/log" >&2; exit 1; }
    [ "${#broker[@]}" -gt 0 ] && [ "$minute" -eq $(((minutes + 1) / 2)) ] && kill "$mosquitto"
    rss=$(awk '/VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$pid/status")
    frames=$(curl -s "http://127.0.0.1:$port/metrics" | awk '/^semblance_frames_total/ { print $2; exit }')
    rows=$(($(wc -l <"$work/faces.csv") - 1))
    echo "$minute,$rss,$frames,$rows" | tee -a "$out"
    [ "$minute" -eq $(((minutes + 4) / 5)) ] && first=$rss
done
kill -TERM "$pid"
wait "$pid" || { echo "soak.sh: edge failed:" >&2; cat "$work/log" >&2; exit 1; }
awk -v a="$first" -v b="$rss" -v f="$frames" -v r="$rows" 'BEGIN {
    printf "memory: %.1f MB after a fifth, %.1f MB at the end; %d rows of %d frames\n", a, b, r, f
    exit !(b <= 1.1 * a && r >= 0.9 * f)
}'
