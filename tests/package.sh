#!/bin/bash
# What deploy/build.sh makes for 64-bit Arm: the systemd unit, by systemd's own judgement, and the package under emulation
# (tests/vm/arm64.sh).
#
#   tests/package.sh [EDGE]       edge for x86-64, beside a calib, whose predictions the package's have to equal (default: target/debug/edge)
#
# Ends with 0 where all is well; what cannot be tested on this machine is named by a line with SKIPPED.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
edge=${1:-$target/debug/edge}
out=$target/package/tested
[ -x "$edge" ] && [ -x "$(dirname "$edge")/calib" ] || { echo "FAILED: there is no $edge, or no calib beside it: cargo build"; exit 1; }
[ -x "$(dirname "$edge")/examples/camera_rig" ] || { echo "FAILED: there is no examples/camera_rig beside $edge: cargo build --examples"; exit 1; }

if command -v rustup > /dev/null && ! rustup -q target add aarch64-unknown-linux-gnu; then
    echo "SKIPPED: Rust for 64-bit Arm cannot be fetched, so no package is made"
    exit 0
fi
images=--no-image
if command -v umoci > /dev/null && command -v mmdebstrap > /dev/null &&
    mmdebstrap -q --simulate --variant=extract --architectures=arm64 --include=libc6 bookworm /dev/null; then
    images=
else
    echo "SKIPPED: there is no umoci, no mmdebstrap or no Debian to fetch from, so no container image is made"
fi
rm -rf "$out"
# Optimising across crates changes no value, and takes half of the time that building takes.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
deploy/build.sh --arch aarch64 $images --native "$(dirname "$edge")" --out "$out"
(cd "$out" && sha256sum --quiet -c SHA256SUMS)
deb=$(echo "$out"/semblance_*_arm64.deb)
echo "$(basename "$deb"): $(stat -c %s "$deb") bytes (limit 25000000)"
[ "$(stat -c %s "$deb")" -lt 25000000 ] || { echo "FAILED: the package is larger than 25 MB"; exit 1; }

programs=("$target"/aarch64-unknown-linux-gnu/release/{edge,calib})
glibc=$(readelf -V "${programs[@]}" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
echo "the programs need $glibc (limit GLIBC_2.31)"
[ "$(printf '%s\n' "$glibc" GLIBC_2.31 | sort -V | tail -1)" = GLIBC_2.31 ] || { echo "FAILED: that is newer"; exit 1; }

if command -v systemd-analyze > /dev/null; then
    root=$target/package/unit
    rm -rf "$root"
    mkdir -p "$root/usr/lib/systemd/system" "$root/bin"
    dpkg-deb -x "$deb" "$root"
    cp /lib/systemd/system/{sysinit,basic,multi-user,shutdown,network}.target "$root/usr/lib/systemd/system/"
    cp /bin/kill "$root/bin/"
    complaints=$(systemd-analyze verify --root="$root" --man=no semblance-edge.service 2>&1) || true
    [ -z "$complaints" ] || { echo "FAILED: $complaints"; exit 1; }
    systemd-analyze security --offline=true --root="$root" --threshold=20 --no-pager semblance-edge.service | tail -1
else
    echo "SKIPPED: there is no systemd-analyze, so the unit is not looked at"
fi

tests/vm/arm64.sh "$deb" "$edge"

qemu=$target/vm/qemu-user/usr/bin/qemu-aarch64-static
if [ -z "$images" ] && [ ! -x "$qemu" ]; then
    echo "SKIPPED: the emulator cannot be fetched, so the image is not run"
elif [ -z "$images" ]; then
    # What a container would see; the emulator is the one that tests/vm/arm64.sh has fetched.
    image=$target/package/image
    rm -rf "$image"
    mkdir -p "$image"
    tar -C "$image" -xf "$out"/semblance-*-aarch64.oci.tar
    umoci unpack --rootless --image "$image:$(umoci ls --layout "$image")" "$image/bundle" > /dev/null
    rootfs=$image/bundle/rootfs
    python3 - "$image" << 'END'
import json, os, re, sys
image = sys.argv[1]
annotations = json.load(open(f"{image}/index.json"))["manifests"][0]["annotations"]
name = annotations["org.opencontainers.image.ref.name"]
assert re.fullmatch(r"localhost/semblance:[0-9.]+", name), name
process = json.load(open(f"{image}/bundle/config.json"))["process"]
assert process["args"] == ["/usr/bin/edge", "run"], process["args"]
assert process["user"]["uid"] == 65532, process["user"]
assert "SEMBLANCE_STATE_DIR=/state" in process["env"], process["env"]
assert os.stat(f"{image}/bundle/rootfs/state").st_mode & 0o1777 == 0o1777
print("ok ", name, "runs", *process["args"], "as user", process["user"]["uid"])
END
    # Its own programs, libraries and models, on the pictures that tests/vm/arm64.sh has left.
    SEMBLANCE_BUNDLE=$rootfs/usr/share/semblance/models/default "$qemu" -L "$rootfs" "$rootfs/usr/bin/edge" run \
        --source "$target/vm/arm64/pictures" > "$image/predictions.jsonl"
    python3 tests/vm/compare.py "$target/vm/arm64/predictions/default.amd64.jsonl" "$image/predictions.jsonl"
fi
