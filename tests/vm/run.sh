#!/bin/bash
# The real `edge` on real /dev/video* nodes: boots Debian's kernel in qemu (plain emulation) with v4l2loopback and vivid,
# runs scenario.sh in there, and judges what it left with check.py.
#
#   tests/vm/run.sh [EDGE [CAMERA_RIG]]     the programs (default: of target/debug), built by
#                                           cargo build -p semblance-edge --bin edge --example camera_rig
#
# Ends with 0 where all is well, or where packages cannot be had (it says SKIPPED), and with 1 otherwise.
set -euo pipefail
guest=amd64
. "$(dirname "$0")/machine.sh"

edge=${1:-$target/debug/edge}
rig=${2:-$target/debug/examples/camera_rig}
for program in make gcc python3; do
    command -v "$program" > /dev/null || fail "there is no $program"
done
for program in "$edge" "$rig"; do
    [ -x "$program" ] || fail "$program is missing: cargo build -p semblance-edge --bin edge --example camera_rig"
done

kbuild=$(depends "linux-headers-$version" linux-kbuild)
unpack "$guest" "$cache/guest" "$image" "linux-headers-$version" "linux-headers-${version%-*}-common" "$kbuild" busybox-static v4l2loopback-dkms

# The headers' makefiles name each other by absolute paths.
headers=$cache/guest/usr/src/linux-headers-$version
sed -i "s|/usr/src/|$cache/guest/usr/src/|; s|$cache/guest$cache/guest|$cache/guest|" "$headers/Makefile"
loopback=$(echo "$cache"/guest/usr/src/v4l2loopback-*)
if [ ! -f "$loopback/v4l2loopback.ko" ]; then
    ln -sfn "$cache/guest/usr/lib/$kbuild/scripts" "$cache/guest/usr/src/linux-headers-${version%-*}-common/scripts"
    ln -sfn "$cache/guest/usr/lib/$kbuild/tools" "$cache/guest/usr/src/linux-headers-${version%-*}-common/tools"
    make -s -C "$headers" M="$loopback" modules > "$cache/module.log" 2>&1 || {
        tail "$cache/module.log"
        fail "v4l2loopback could not be built"
    }
fi
mkdir -p "$cache/guest/lib/modules/$version/extra"
cp -n "$loopback/v4l2loopback.ko" "$cache/guest/lib/modules/$version/extra/"

start_root "$here/scenario.sh"
add_modules virtio_pci 9pnet_virtio 9p vivid v4l2loopback
for program in "$edge" "$rig"; do
    strip -o "$root/bin/$(basename "$program")" "$program"
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do cp -Ln "$library" "$root$(dirname "$library")/" 2> /dev/null ||
        { mkdir -p "$root$(dirname "$library")" && cp -L "$library" "$root$library"; }; done
done
mv -n "$root/bin/$(basename "$edge")" "$root/bin/edge" 2> /dev/null || true
mv -n "$root/bin/$(basename "$rig")" "$root/bin/camera_rig" 2> /dev/null || true
cp -r "$repository/models/default" "$root/bundle"
"$rig" render mjpg 60 "$root/mjpg.clip"
"$rig" render yuyv 30 "$root/yuyv.clip"
boot
python3 "$here/check.py" "$share/out"
