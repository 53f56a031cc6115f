# For the scripts beside this one, which source it: a virtual machine with Debian's kernel in qemu (plain emulation), of the
# architecture in $guest (amd64 or arm64). Packages are downloaded once into target/vm and unpacked there; nothing is installed, and
# nothing needs root.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$repository/target}
cache=$target/vm/$guest
tools=$target/vm/tools
share=$cache/share # the guest sees it as /host
root=$cache/root   # the guest's first and only file system
began=$SECONDS

skip() { echo "SKIPPED: $*"; exit 0; }
fail() { echo "FAILED: $*"; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] || skip "the virtual machine is made for Linux on x86-64"
for program in apt-get apt-cache dpkg-deb; do
    command -v "$program" > /dev/null || skip "Debian's packages are needed, and there is no $program"
done

# --- packages -------------------------------------------------------------------------------------------------------------

# apt PROGRAM ARCH ARGUMENTS..: as if nothing were installed, whatever the host has, and without telling its apt of another architecture.
apt() {
    local program=$1 arch=$2 state=$target/vm/apt-$2
    local options=(-o "Dir::State::status=/dev/null")
    shift 2
    if [ "$arch" != amd64 ]; then
        mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
        options+=(-o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o "Dir::State::lists=$state/lists" -o "Dir::Cache=$state/cache")
    fi
    "$program" "${options[@]}" "$@"
}
depends() { apt apt-cache "$guest" depends "$1" 2> /dev/null | sed -n "s/^ *Depends: \($2.*\)/\1/p" | head -1; }
# closure ARCH PACKAGES..: those and all that they need.
closure() { apt apt-get "$1" -s --no-install-recommends install "${@:2}" 2> /dev/null | awk '/^Inst/ { print $2 }'; }

# unpack ARCH FOLDER PACKAGES..: unless the folder was made from the same ones. What dpkg would know of them is in FOLDER.status.
# One at a time: two tests may want the same folder.
unpack() {
    local arch=$1 folder=$2 stamp=$2.packages try locked
    shift 2
    mkdir -p "$(dirname "$folder")"
    exec {locked}> "$folder.lock"
    flock "$locked"
    unpack_alone "$@"
    exec {locked}>&-
}
unpack_alone() {
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$*" ]; then return; fi
    rm -rf "$folder" "$folder.debs" "$stamp" "$folder.status"
    mkdir -p "$folder" "$folder.debs"
    for try in 1 2 3; do
        (cd "$folder.debs" && apt apt-get "$arch" download "$@" > /dev/null 2> ../download.log) && break
        [ "$try" = 3 ] && skip "packages cannot be downloaded: $(grep '^E:' "$(dirname "$folder")/download.log" | head -1)"
        sleep 2
    done
    for package in "$folder.debs"/*.deb; do
        dpkg-deb -x "$package" "$folder"
        { dpkg-deb -f "$package"; printf 'Status: install ok installed\n\n'; } >> "$folder.status"
    done
    rm -r "$folder.debs"
    echo "$*" > "$stamp"
}

if [ "$guest" != amd64 ]; then
    apt apt-get "$guest" -q update > /dev/null 2>&1 || skip "Debian's lists of packages for $guest cannot be had"
fi
image=$(depends "linux-image-$guest" linux-image)
[ -n "$image" ] || skip "apt knows no Debian kernel (linux-image-$guest): apt-get update?"
version=${image#linux-image-}
host_packages=$(closure amd64 qemu-system-x86 qemu-system-arm kmod cpio)
[ -n "$host_packages" ] || skip "apt cannot tell what qemu-system-x86 and qemu-system-arm need"
unpack amd64 "$tools" $host_packages

# A program of the tools, with the libraries that came with it.
tool() {
    local libraries=$tools/usr/lib/x86_64-linux-gnu name=$1 program
    program=$(find "$tools"/{usr/,}{bin,sbin} -name "$name" -print -quit 2> /dev/null)
    case $(readlink "$program") in /*) program=$tools$(readlink "$program") ;; esac
    shift
    "$(find "$tools" -name ld-linux-x86-64.so.2 -print -quit)" \
        --library-path "$tools/lib/x86_64-linux-gnu:$libraries" --argv0 "$name" "$program" "$@"
}

# --- the guest ------------------------------------------------------------------------------------------------------------

# start_root SCENARIO: an empty root with busybox, the scripts, and the folder shared with the host.
start_root() {
    rm -rf "$root" "$share"
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,host,modules,lib,lib64} "$share/out"
    cp "$cache/guest/bin/busybox" "$root/bin/"
    cp "$here/init.sh" "$root/init"
    cp "$1" "$root/scenario.sh"
    chmod +x "$root/init"
}

# add_modules MODULES..: each with those that it needs, in the order in which they are loaded.
add_modules() {
    tool depmod -b "$cache/guest" "$version"
    for module in "$@"; do
        tool modprobe -d "$cache/guest" -S "$version" --show-depends "$module" | while read -r kind path _; do
            [ "$kind" = insmod ] || continue
            cp -n "$path" "$root/modules/"
            echo "/modules/$(basename "$path")"
        done > "$root/modules/$module.order"
    done
}

# boot: until the guest powers off.
boot() {
    local qemu console machine
    (cd "$root" && find . | tool cpio --quiet -o -H newc | gzip -1) > "$cache/initramfs.gz"
    echo "prepared in $((SECONDS - began)) s; booting Linux $version"
    began=$SECONDS
    export QEMU_MODULE_DIR=$tools/usr/lib/x86_64-linux-gnu/qemu
    case $guest in
        amd64) qemu=qemu-system-x86_64 console=ttyS0 machine=(-M q35 -cpu max) ;;
        arm64) qemu=qemu-system-aarch64 console=ttyAMA0 machine=(-M virt -cpu cortex-a72) ;;
    esac
    tool $qemu -L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios" \
        "${machine[@]}" -accel tcg,thread=multi -smp 2 -m 2048 -nodefaults -display none -serial stdio -no-reboot \
        -kernel "$cache/guest/boot/vmlinuz-$version" -initrd "$cache/initramfs.gz" \
        -append "console=$console quiet panic=-1" \
        -virtfs "local,path=$share,mount_tag=host,security_model=none" < /dev/null &
    qemu=$!
    trap "kill $qemu 2> /dev/null || true" EXIT
    while kill -0 $qemu 2> /dev/null; do
        [ $((SECONDS - began)) -lt "${VM_LIMIT_S:-900}" ] || fail "the guest did not come to its end"
        sleep 1
    done
    wait $qemu || fail "qemu ended with an error"
    echo "the guest ran for $((SECONDS - began)) s"
}
