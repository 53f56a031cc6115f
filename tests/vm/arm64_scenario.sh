# Runs in the guest: the package is installed, used and purged. What came of it goes to /tmp/out/facts as lines of name and value.
out=/tmp/out
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin RUST_LOG=warn
fact() { echo "$1 $2" | tee -a $out/facts; }
began() { cut -d. -f1 /proc/uptime; }

ldconfig
# Debian's own: busybox, whose shell this is, has a dpkg that checks next to nothing.
/usr/bin/dpkg --force-bad-path --force-confnew -i /semblance.deb > $out/dpkg.log 2>&1
fact dpkg $?
edge --version
uname -m
edge run > /dev/null 2> $out/none.log
fact without_camera $?

while read -r path; do insmod "$path" 2> /dev/null; done < /modules/vivid.order
rmmod vivid
insmod /modules/vivid.ko n_devs=1 node_types=0x1 num_inputs=1 input_types=0 vid_cap_nr=0
edge cameras > $out/cameras.txt 2>&1
fact cameras $?
# vivid draws bars: frames are read and have no face in them, so they are counted by what the run says at its end.
edge run --source /dev/video0 --http off --max-frames 20 > $out/camera.jsonl 2> $out/camera.log
fact camera $?
fact camera_frames "$(sed -n 's/^\([0-9]*\) frames .*/\1/p' $out/camera.log)"
edge run --source /pictures > $out/pictures.jsonl 2> $out/pictures.log
fact pictures $?
calib --version
fact calib $?
/usr/bin/dpkg --force-bad-path --purge semblance > $out/purge.log 2>&1
fact purge $?
[ -e /usr/bin/edge ] || [ -e /etc/semblance/edge.toml ] || [ -e /usr/share/semblance ]
fact left_after_purge $?
