#!/bin/bash
# The real `edge` on real /dev/video* nodes: boots Debian's kernel in qemu (plain emulation) with v4l2loopback and vivid,
# runs scenario.sh in there, and judges what it left with check.py.
#
#   tests/vm/run.sh [EDGE [CAMERA_RIG]]     the programs (default: of target/debug), built by
#                                           cargo build -p semblance-edge --bin edge --example camera_rig
#
# Debian packages are downloaded once into target/vm and unpacked there; nothing is installed and nothing needs root. Ends
# with 0 where all is well, or where packages cannot be had (it says SKIPPED), and with 1 otherwise.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$repository/target}
edge=${1:-$target/debug/edge}
rig=${2:-$target/debug/examples/camera_rig}
cache=$target/vm
share=$cache/share
began=$SECONDS

skip() { echo "SKIPPED: $*"; exit 0; }
fail() { echo "FAILED: $*"; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] || skip "the virtual machine is made for Linux on x86-64"
for program in apt-get apt-cache dpkg-deb; do
    command -v "$program" > /dev/null || skip "Debian's packages are needed, and there is no $program"
done
for program in make gcc python3; do
    command -v "$program" > /dev/null || fail "there is no $program"
done
for program in "$edge" "$rig"; do
    [ -x "$program" ] || fail "$program is missing: cargo build -p semblance-edge --bin edge --example camera_rig"
done

# --- packages -------------------------------------------------------------------------------------------------------------

depends() { apt-cache depends "$1" 2> /dev/null | sed -n "s/^ *Depends: \($2.*\)/\1/p" | head -1; }

image=$(depends linux-image-amd64 linux-image)
[ -n "$image" ] || skip "apt knows no Debian kernel (linux-image-amd64): apt-get update?"
version=${image#linux-image-}
kbuild=$(depends "linux-headers-$version" linux-kbuild)
guest_packages="$image linux-headers-$version linux-headers-${version%-*}-common $kbuild busybox-static v4l2loopback-dkms"

# With every package that they need, whatever the host has: they are unpacked beside it, not installed.
tool_packages=$(apt-get -s -o Dir::State::status=/dev/null --no-install-recommends install qemu-system-x86 kmod cpio \
    2> /dev/null | awk '/^Inst/ { print $2 }')
[ -n "$tool_packages" ] || skip "apt cannot tell what qemu-system-x86 needs"

# Downloads and unpacks packages into a folder, unless it was made from the same ones.
unpack() {
    local folder=$1 stamp=$1.packages try
    shift
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$*" ]; then return; fi
    rm -rf "$folder" "$folder.debs" "$stamp"
    mkdir -p "$folder" "$folder.debs"
    for try in 1 2 3; do
        (cd "$folder.debs" && apt-get download "$@" > /dev/null 2> ../download.log) && break
        [ "$try" = 3 ] && skip "packages cannot be downloaded: $(grep '^E:' "$cache/download.log" | head -1)"
        sleep 2
    done
    for package in "$folder.debs"/*.deb; do dpkg-deb -x "$package" "$folder"; done
    rm -r "$folder.debs"
    echo "$*" > "$stamp"
}

mkdir -p "$cache"
unpack "$cache/guest" $guest_packages
unpack "$cache/tools" $tool_packages

# A program of the tools, with the libraries that came with it.
tool() {
    local libraries=$cache/tools/usr/lib/x86_64-linux-gnu name=$1 program
    program=$(find "$cache/tools"/{usr/,}{bin,sbin} -name "$name" -print -quit 2> /dev/null)
    case $(readlink "$program") in /*) program=$cache/tools$(readlink "$program") ;; esac
    shift
    "$(find "$cache/tools" -name ld-linux-x86-64.so.2 -print -quit)" \
        --library-path "$cache/tools/lib/x86_64-linux-gnu:$libraries" --argv0 "$name" "$program" "$@"
}

# --- the guest's kernel modules and its first file system -----------------------------------------------------------------

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

modules=$cache/guest/lib/modules/$version
if [ ! -f "$modules/extra/v4l2loopback.ko" ]; then
    mkdir -p "$modules/extra"
    cp "$loopback/v4l2loopback.ko" "$modules/extra/"
fi
tool depmod -b "$cache/guest" "$version"

root=$cache/root
rm -rf "$root" "$share"
mkdir -p "$root"/{bin,dev,proc,sys,tmp,host,modules,lib,lib64} "$share/out"
cp "$cache/guest/bin/busybox" "$root/bin/"
cp "$here/init.sh" "$root/init"
cp "$here/scenario.sh" "$root/"
chmod +x "$root/init"
# Each module with those that it needs, in the order in which they are loaded.
for module in virtio_pci 9pnet_virtio 9p vivid v4l2loopback; do
    tool modprobe -d "$cache/guest" -S "$version" --show-depends "$module" | while read -r kind path _; do
        [ "$kind" = insmod ] || continue
        cp -n "$path" "$root/modules/"
        echo "/modules/$(basename "$path")"
    done > "$root/modules/$module.order"
done
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
(cd "$root" && find . | tool cpio --quiet -o -H newc | gzip -1) > "$cache/initramfs.gz"

# --- the run --------------------------------------------------------------------------------------------------------------

echo "prepared in $((SECONDS - began)) s; booting Linux $version"
began=$SECONDS
export QEMU_MODULE_DIR=$cache/tools/usr/lib/x86_64-linux-gnu/qemu
tool qemu-system-x86_64 -L "$cache/tools/usr/share/qemu" -L "$cache/tools/usr/share/seabios" \
    -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nodefaults -display none -serial stdio -no-reboot \
    -kernel "$cache/guest/boot/vmlinuz-$version" -initrd "$cache/initramfs.gz" \
    -append "console=ttyS0 quiet panic=-1" \
    -virtfs "local,path=$share,mount_tag=host,security_model=none" < /dev/null &
qemu=$!
trap 'kill $qemu 2> /dev/null || true' EXIT
while kill -0 $qemu 2> /dev/null; do
    [ $((SECONDS - began)) -lt "${VM_LIMIT_S:-900}" ] || fail "the guest did not come to its end"
    sleep 1
done
wait $qemu || fail "qemu ended with an error"
echo "the guest ran for $((SECONDS - began)) s"
python3 "$here/check.py" "$share/out"
