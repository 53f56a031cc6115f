#!/bin/bash
# The Debian package for 64-bit Arm, as `deploy/build.sh --arch aarch64` made it:
#
# - installed into a folder with Arm's libraries and run there by qemu-user: `edge check`, the demo, and the demo's first 20
#   frames as pictures, of which the same has to be predicted as on x86-64 (the demo itself leaves out frames that there is no time for);
# - installed by dpkg in a machine of that architecture with Debian's kernel in qemu, where it reads the same pictures and a real
#   /dev/video0 (vivid), and is purged.
#
#   tests/vm/arm64.sh PACKAGE.deb EDGE [CAMERA_RIG]     the package, and programs for x86-64 (the rig: examples/ beside edge)
#
# Ends with 0 where all is well, or where Debian's packages cannot be had (it says SKIPPED), and with 1 otherwise.
set -euo pipefail
guest=arm64
. "$(dirname "$0")/machine.sh"
deb=$(realpath "${1:?which package?}")
edge=$(realpath "${2:?which edge for x86-64?}")
rig=${3:-$(dirname "$edge")/examples/camera_rig}
[ -x "$rig" ] || fail "$rig is missing: cargo build -p semblance-edge --example camera_rig"

# --- a folder, by qemu-user -----------------------------------------------------------------------------------------------

# Its dependencies with their dependencies; what the package itself declares is what dpkg holds it to.
unpack arm64 "$cache/folder" $(closure arm64 libc6)
unpack amd64 "$target/vm/qemu-user" qemu-user-static
user=$cache/user
rm -rf "$user"
cp -r "$cache/folder" "$user"
mkdir -p "$user"/var/lib/dpkg/{info,updates} "$user/tmp"
cp "$cache/folder.status" "$user/var/lib/dpkg/status"
in_folder() { dpkg --root="$user" --force-not-root --force-architecture --force-script-chrootless --no-triggers --log=/dev/null "$@"; }
in_folder -i "$deb"

emulated() { "$target/vm/qemu-user/usr/bin/qemu-aarch64-static" -L "$user" "$user/usr/bin/$1" "${@:2}"; }
models=$user/usr/share/semblance/models
export SEMBLANCE_BUNDLE=$models/default
out=$cache/predictions
pictures=$cache/pictures
rm -rf "$out" "$pictures"
mkdir -p "$out"
"$rig" pictures 20 "$pictures"
emulated edge --version
emulated calib --version
emulated edge check --source demo --state-dir "$out"
emulated edge run --source demo --http off --adapt-budget off --max-frames 20 > "$out/demo.jsonl"
# Which of the demo's moments are seen depends on how fast they are; it looks away in some.
[ "$(wc -l < "$out/demo.jsonl")" -ge 15 ] || fail "20 frames of the demo gave $(wc -l < "$out/demo.jsonl") predictions"
for model in default small; do
    emulated edge run --bundle "$models/$model" --source "$pictures" > "$out/$model.arm64.jsonl"
    "$edge" run --bundle "$models/$model" --source "$pictures" > "$out/$model.amd64.jsonl"
    python3 "$here/compare.py" "$out/$model.amd64.jsonl" "$out/$model.arm64.jsonl"
done

# What a service and a user leave behind stays when the package is removed, and goes when it is purged.
mkdir -p "$user/var/lib/private/semblance/profiles/ada"
ln -s private/semblance "$user/var/lib/semblance"
touch "$user/etc/semblance/edge.env"
in_folder --remove semblance
[ -d "$user/var/lib/semblance/profiles/ada" ] && [ -e "$user/etc/semblance/edge.toml" ] || fail "removing the package took settings or profiles"
in_folder --purge semblance
for left in usr/bin/edge etc/semblance usr/share/semblance var/lib/semblance var/lib/private/semblance; do
    [ ! -e "$user/$left" ] && [ ! -L "$user/$left" ] || fail "/$left is left after purging the package"
done

# --- a machine ------------------------------------------------------------------------------------------------------------

unpack arm64 "$cache/guest" "$image" busybox-static
unpack arm64 "$cache/system" $(closure arm64 dpkg libc6 libgcc-s1 libc-bin tar)
start_root "$here/arm64_scenario.sh"
add_modules virtio_pci 9pnet_virtio 9p vivid
cp -rn "$cache/system/." "$root/"
rm -rf "$root"/usr/share/{doc,man,locale}
mkdir -p "$root"/var/lib/dpkg/{info,updates} "$root/var/log"
cp "$cache/system.status" "$root/var/lib/dpkg/status"
cp "$deb" "$root/semblance.deb"
cp -r "$pictures" "$root/pictures"
boot
facts=$share/out/facts
for line in "dpkg 0" "without_camera 1" "cameras 0" "camera 0" "camera_frames 20" "pictures 0" "calib 0" "purge 0" "left_after_purge 1"; do
    grep -qx "$line" "$facts" || fail "the guest said '$(grep "^${line% *} " "$facts")', not '$line': see $share/out"
done
python3 "$here/compare.py" "$out/default.amd64.jsonl" "$share/out/pictures.jsonl"
