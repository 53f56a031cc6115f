# Runs in the guest. What happens to the cameras, and how long `edge` takes to notice, goes to /tmp/out/facts as lines of
# name and value; check.py judges them on the host.
out=/tmp/out
export RUST_LOG=warn,semblance_edge=debug,edge=debug
export SEMBLANCE_BUNDLE=/bundle

centis() { cut -d' ' -f1 /proc/uptime | tr -d .; }
say() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }
fact() {
    echo "$1 $2" >> $out/facts
    say "$1 = $2"
}

# await NAME LIMIT CONDITION..: notes how many seconds it took until the condition held; -1 where it did not within LIMIT.
await() {
    name=$1 limit=$2 since=$(centis)
    shift 2
    while ! "$@"; do
        if [ $(($(centis) - since)) -gt $((limit * 100)) ]; then
            fact "$name" -1
            return 1
        fi
        sleep 0.05
    done
    passed=$(($(centis) - since))
    fact "$name" "$((passed / 100)).$(printf %02d $((passed % 100)))"
}

count() { grep -c "$1" "$2" 2> /dev/null; }
lines() { wc -l < "$1"; }
# Whether a log tells of a state so many times.
told() { [ "$(count "source $1:" "$2")" -ge "$3" ]; }
# What an integrator would watch: 503 while there is something wrong.
is_degraded() { wget -O /dev/null http://127.0.0.1:8017/healthz 2>&1 | grep -q ' 503 '; }
predicts_beyond() { [ "$(lines "$1")" -gt "$2" ]; }
# Waits until nothing is predicted any more: one frame may be in work and one more wait when a camera stands still.
settle() {
    local last=-1
    while [ "$(lines "$1")" != "$last" ]; do
        last=$(lines "$1")
        sleep 4
    done
}
gone() { ! "$@" 2> /dev/null; }
load() {
    while read -r path; do
        case $path in */"$1".ko) ;; *) insmod "$path" 2> /dev/null ;; esac
    done < "/modules/$1.order"
    module=$1
    shift
    insmod "/modules/$module.ko" "$@"
}
unload() { rmmod "$1" 2> /dev/null; }

# A camera with exclusive_caps captures only while somebody feeds it.
feed() {
    camera_rig feed "/$1.clip" /dev/video0 30 2>> $out/feed.log &
    feeder=$!
}
captures() { [ "$(cat /sys/class/video4linux/video$1/format 2> /dev/null)" ]; }

# start NAME ARGUMENTS..: runs edge in the background, predictions and log in files of that name.
start() {
    run=$1
    shift
    edge run --out jsonl:$out/"$run".jsonl "$@" 2> $out/"$run".log &
    pid=$!
    await "$run.live" 60 told live $out/"$run".log 1
}
stop() {
    kill -0 $pid 2> /dev/null && fact "$run.same_pid" 1 || fact "$run.same_pid" 0
    kill -INT $pid
    await "$run.ended" 10 gone kill -0 $pid
    wait $pid
    fact "$run.exit" $?
    sed -n 's/^source: \([0-9]*\) captured, \([0-9]*\) missed, \([0-9]*\) damaged, reopened \([0-9]*\) times$/\1 \2 \3 \4/p' \
        $out/"$run".log > /tmp/counts
    read -r captured missed damaged reopened < /tmp/counts
    fact "$run.captured" "$captured"
    fact "$run.missed" "$missed"
    fact "$run.damaged" "$damaged"
    fact "$run.reopened" "$reopened"
}

say "no camera"
edge cameras > $out/none.txt
edge run > $out/none.out 2> $out/none.log
fact none.exit $?
edge run --source /dev/video7 2> $out/missing.log

say "MJPG at 30 fps through a loopback, computed on at 5 fps"
loopback="video_nr=0 exclusive_caps=1 card_label=Rig"
load v4l2loopback $loopback
feed mjpg
await feed.ready 10 captures 0
edge cameras --json > $out/cameras.json
edge run --source /dev/video0 --format nv12 2> $out/format.log
start mjpg --source /dev/video0 --max-fps 5 --search-side 96
# Emulated, a frame may take many seconds; three give a rate.
await mjpg.first 90 predicts_beyond $out/mjpg.jsonl 2
sleep 5
await mjpg.thirty 15 predicts_beyond $out/mjpg.jsonl 30
fact mjpg.steady "$(lines $out/mjpg.jsonl)"

say "the writer freezes"
kill -STOP $feeder
await mjpg.frozen 8 is_degraded
settle $out/mjpg.jsonl
before=$(lines $out/mjpg.jsonl)
kill -CONT $feeder
await mjpg.thawed 60 predicts_beyond $out/mjpg.jsonl "$before"

say "the writer ends and the module is removed"
kill -9 $feeder
await mjpg.unplugged 8 is_degraded
await mjpg.removed 10 unload v4l2loopback
settle $out/mjpg.jsonl
before=$(lines $out/mjpg.jsonl)
load v4l2loopback $loopback
feed mjpg
await mjpg.replugged 60 predicts_beyond $out/mjpg.jsonl "$before"
sleep 2
stop

say "YUYV through the loopback, found as the first camera, asked for another size"
kill -9 $feeder
await yuyv.removed 10 unload v4l2loopback
load v4l2loopback $loopback
feed yuyv
await yuyv.ready 10 captures 0
start yuyv --max-fps 5 --search-side 96 --size 1280x720
await yuyv.first 60 predicts_beyond $out/yuyv.jsonl 1
sleep 5
stop
kill -9 $feeder
await yuyv.gone 10 unload v4l2loopback

say "vivid: controls, dropped and damaged buffers, fatal errors, disconnect, another node"
vivid="n_devs=1 node_types=0x1 num_inputs=1 input_types=0"
load vivid $vivid vid_cap_nr=3
edge run --source /dev/video3 --control brightness=1000 2> $out/range.log
edge run --source /dev/video3 --control zoooom=1 2> $out/control.log
start vivid --source /dev/video3 --fps 30 --max-fps 1 --control brightness=100
edge run --source /dev/video3 2> $out/busy.log
camera_rig control /dev/video3 "Percentage of Dropped Buffers" 20
sleep 4
camera_rig control /dev/video3 "Percentage of Dropped Buffers" 0
for i in 1 2 3 4 5; do
    camera_rig control /dev/video3 "Inject V4L2_BUF_FLAG_ERROR" 1
    sleep 0.3
done
camera_rig control /dev/video3 "Inject Fatal Streaming Error" 1
await vivid.fatal 5 told gone $out/vivid.log 1
await vivid.fatal_over 5 told live $out/vivid.log 2
camera_rig control /dev/video3 "Disconnect" 1
await vivid.disconnected 5 told gone $out/vivid.log 2
await vivid.reconnected 5 told live $out/vivid.log 3
echo vivid.0 > /sys/bus/platform/drivers/vivid/unbind
await vivid.unplugged 5 told gone $out/vivid.log 3
await vivid.removed 10 unload vivid
sleep 3
load vivid $vivid vid_cap_nr=5
await vivid.replugged 8 told live $out/vivid.log 4
sleep 1
stop
say "done"
