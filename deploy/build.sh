#!/usr/bin/env bash
# Makes what is installed on devices: programs, Debian packages and container images, for x86-64 and 64-bit Arm.
#
#   deploy/build.sh [--arch x86_64|aarch64]... [--out DIR] [--no-image] [--native DIR] [--licenses FILE]
#
# Without --arch both are made; the folder is dist unless told otherwise. --native names a folder with an edge and a calib that run here,
# for man pages, where only another architecture's are made. In it are, for each architecture,
#
#   semblance-VERSION-ARCH-linux.tar.gz    edge, calib and models: unpack and run
#   semblance_VERSION_ARCH.deb             the same with a systemd unit, its settings, man pages and shell completions
#   semblance-VERSION-ARCH.oci.tar         container image (edge and calib, without ffmpeg): podman load, docker load, skopeo
#
# and SHA256SUMS. Needed, on Debian or Ubuntu: Rust, and apt-get install -y build-essential libclang-dev python3-pip xz-utils
# umoci mmdebstrap debian-archive-keyring (the last three for images). zig, which links against an old glibc whatever the machine has, is fetched once into
# target/zig. What is packed has the time of the last commit, so that one machine makes the same packages of the same commit twice. Who passes packages on
# has to pass on the licences of what is linked in: deploy/release.sh collects them, and calls this script with --licenses.
set -euo pipefail
cd "$(dirname "$0")/.."

# Debian 11, Ubuntu 20.04 (JetPack 5) and anything later.
GLIBC=2.31
ZIG=0.13.0 ZIGBUILD=0.20.1
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=dist images=yes native= licenses= archs=()

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
fail() {
    echo "build.sh: $*" >&2
    exit 1
}
while [ $# -gt 0 ]; do
    case $1 in
        --arch)
            case ${2:-} in
                x86_64 | aarch64) archs+=("$2") ;;
                *) fail "--arch ${2:-}: it is x86_64 or aarch64" ;;
            esac
            shift ;;
        --out)
            [ -n "${2:-}" ] || fail "--out needs a folder"
            out=$2
            shift ;;
        --no-image) images=no ;;
        --native)
            [ -x "${2:-}/edge" ] && [ -x "$2/calib" ] || fail "--native ${2:-}: there are no edge and calib"
            native=$2
            shift ;;
        --licenses)
            [ -f "${2:-}" ] || fail "--licenses ${2:-}: there is no such file"
            licenses=$2
            shift ;;
        -h | --help)
            usage
            exit 0 ;;
        *) fail "unknown argument $1: see --help" ;;
    esac
    shift
done
[ ${#archs[@]} -gt 0 ] || archs=(x86_64 aarch64)

# What a network may break, up to three times.
again() {
    local try
    for try in 1 2 3; do
        "$@" && return
        sleep $((try * 5))
    done
    fail "three times in vain: $*"
}
need() { command -v "$1" > /dev/null || fail "there is no $1: apt-get install -y $2"; }
need cargo "rustup, or see https://rustup.rs"
need cc build-essential
need dpkg-deb dpkg
need xz xz-utils
python3 -m pip --version > /dev/null 2>&1 || fail "there is no pip for python3: apt-get install -y python3-pip"
if [ $images = yes ]; then
    need umoci umoci
    need mmdebstrap mmdebstrap
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || fail "there are no keys of Debian's: apt-get install -y debian-archive-keyring"
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2> /dev/null || date +%s)
export SOURCE_DATE_EPOCH
work=$target/package
mkdir -p "$out" "$work"

debian_arch() { [ "$1" = x86_64 ] && echo amd64 || echo arm64; }
# Everything in a folder as its root's, in one order and of one time.
pack() {
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$1" -c "${@:2}"
}

# --- programs -------------------------------------------------------------------------------------------------------------

zig=$target/zig
headers=$zig/ziglang/lib/libc/include
has_headers() { [ -f "$headers/any-linux-any/linux/videodev2.h" ] || { echo "build.sh: zig came without its headers" >&2 && false; }; }
fetch_zig() {
    rm -rf "$zig"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --disable-pip-version-check --target "$zig" "ziglang==$ZIG" "cargo-zigbuild==$ZIGBUILD" &&
        has_headers && echo "$ZIG $ZIGBUILD" > "$zig/stamp"
}
[ "$(cat "$zig/stamp" 2> /dev/null)" = "$ZIG $ZIGBUILD" ] && has_headers || again fetch_zig
export PATH=$zig/bin:$PATH CARGO_ZIGBUILD_ZIG_PATH=$zig/ziglang/zig

programs() {
    echo "== $1: programs"
    if command -v rustup > /dev/null; then again rustup -q target add "$1-unknown-linux-gnu"; fi
    # cargo-zigbuild tells bindgen where zig's headers are; once bindgen did not find them, so it is told here as well.
    local folder arguments=
    for folder in "$1-linux-gnu" generic-glibc "${1/x86_64/x86}-linux-any" any-linux-any; do
        arguments+=" -idirafter '$headers/$folder'"
    done
    BINDGEN_EXTRA_CLANG_ARGS=$arguments \
        cargo zigbuild --release --locked --target "$1-unknown-linux-gnu.$GLIBC" -p semblance-edge -p semblance-calib --bins
}
for arch in "${archs[@]}"; do programs "$arch"; done

# Man pages and completions are the same for all: they come of whatever programs run here.
if [ -z "$native" ]; then
    here=$(uname -m)
    native=$target/$here-unknown-linux-gnu/release
    [[ " ${archs[*]} " = *" $here "* ]] || programs "$here"
fi
share=$work/share
rm -rf "$share"
for program in edge calib; do
    "$native/$program" manual --out "$share"
done

# --- packages -------------------------------------------------------------------------------------------------------------

for arch in "${archs[@]}"; do
    echo "== $arch: packages"
    debian=$(debian_arch "$arch")
    programs=$target/$arch-unknown-linux-gnu/release
    root=$work/$arch
    rm -rf "$root"

    install -d "$root/usr/bin" "$root/usr/lib/systemd/system" "$root/usr/share/doc/semblance" "$root/usr/share/semblance"
    install -m 755 "$programs/edge" "$programs/calib" "$root/usr/bin/"
    install -d "$root/usr/share/semblance/models"
    cp -r models/default models/small "$root/usr/share/semblance/models/"
    cp -r "$share/." "$root/usr/share/"
    find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} +
    install -m 644 deploy/systemd/semblance-edge.service "$root/usr/lib/systemd/system/"
    install -D -m 644 deploy/debian/edge.toml "$root/etc/semblance/edge.toml"
    install -m 644 deploy/debian/copyright deploy/INSTALL.md ${licenses:+"$licenses"} "$root/usr/share/doc/semblance/"
    gzip -9nc CHANGELOG.md > "$root/usr/share/doc/semblance/CHANGELOG.md.gz"

    plain=$work/semblance-$version-$arch
    rm -rf "$plain"
    install -d "$plain"
    install -m 755 "$root/usr/bin/edge" "$root/usr/bin/calib" "$plain/"
    cp -r "$root/usr/share/semblance/models" "$plain/models"
    cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE deploy/INSTALL.md ${licenses:+"$licenses"} "$plain/"
    chmod -R u=rwX,go=rX "$root" "$plain"
    pack "$work" "semblance-$version-$arch" | gzip -9n > "$out/semblance-$version-$arch-linux.tar.gz"

    image_root=$work/$arch.image
    rm -rf "$image_root"
    install -d "$image_root/usr/bin" "$image_root/usr/share"
    cp "$root"/usr/bin/* "$image_root/usr/bin/"
    install -D -m 644 -t "$image_root/usr/share/doc/semblance" deploy/debian/copyright ${licenses:+"$licenses"}
    cp -r "$root/usr/share/semblance" "$image_root/usr/share/"

    install -d "$root/DEBIAN"
    install -m 755 deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$root/DEBIAN/"
    echo /etc/semblance/edge.toml > "$root/DEBIAN/conffiles"
    kilobytes=$(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)
    sed "s/@VERSION@/$version/; s/@ARCH@/$debian/; s/@SIZE@/$kilobytes/; s/@GLIBC@/$GLIBC/" deploy/debian/control > "$root/DEBIAN/control"
    (cd "$root" && find usr -type f -exec md5sum {} + | LC_ALL=C sort -k 2 > DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Zxz -z9 --build "$root" "$out/semblance_${version}_$debian.deb" > /dev/null

    [ $images = yes ] || continue
    echo "== $arch: image"
    # What the programs are linked to, of Debian 12 for that architecture, unpacked: nothing of it runs here.
    libraries=$work/$arch.libraries.tar
    rm -rf "$work/$arch.libraries"
    again mmdebstrap -q --variant=extract --architectures="$debian" --include=libc6 --format=tar bookworm "$libraries"
    mkdir -p "$work/$arch.libraries"
    tar -C "$work/$arch.libraries" --exclude './dev/*' --no-same-owner -xf "$libraries"
    cp -a "$work/$arch.libraries"/lib* "$image_root/"
    cp -a "$work/$arch.libraries/usr/lib" "$image_root/usr/"
    for library in libc6 libgcc-s1 gcc-12-base; do
        install -D -m 644 "$work/$arch.libraries/usr/share/doc/$library/copyright" "$image_root/usr/share/doc/$library/copyright"
    done
    # Any user may write there, so that whoever the image is run as can keep profiles and the token in a volume.
    install -d -m 1777 "$image_root/state"
    find "$image_root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    oci=$work/$arch.oci
    rm -rf "$oci"
    # With the host in it, or what loads the image looks for it at a registry of strangers.
    name=localhost/semblance:$version
    umoci init --layout "$oci"
    umoci new --image "$oci:$name"
    umoci insert --rootless --image "$oci:$name" "$image_root" / > /dev/null
    umoci config --image "$oci:$name" --architecture "$debian" --os linux --created "$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)" \
        --config.user 65532:44 --config.env SEMBLANCE_STATE_DIR=/state --config.volume /state --config.exposedports 8017/tcp \
        --config.entrypoint /usr/bin/edge --config.cmd run \
        --config.label org.opencontainers.image.title=semblance --config.label "org.opencontainers.image.version=$version" \
        --config.label "org.opencontainers.image.licenses=MIT OR Apache-2.0"
    umoci gc --layout "$oci"
    pack "$oci" . > "$out/semblance-$version-$arch.oci.tar"
done

(cd "$out" && sha256sum "semblance-$version"* "semblance_$version"* > SHA256SUMS)
ls -l "$out"
