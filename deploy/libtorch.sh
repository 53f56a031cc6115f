#!/usr/bin/env bash
# Puts libtorch 2.11 where .cargo/config.toml looks for it: .libtorch/ in this repository.
#
#   deploy/libtorch.sh           libraries for the CPU (about 0.6 GB on disk)
#   deploy/libtorch.sh --cuda    the same, and the CUDA 13 libraries beside them for a GPU workstation
#
# The Python package `torch` is libtorch with Python bindings around it; pip is used to download it, nothing of
# Python is kept. Running the script again does nothing unless it was cut off or the variant changed.
set -euo pipefail

torch_version=2.11.0
root=$(cd "$(dirname "$0")/.." && pwd)
dest=$root/.libtorch

variant=cpu
case "${1:-}" in
    "") ;;
    --cuda) variant=cuda ;;
    -h | --help) sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) echo "libtorch.sh: unknown argument '$1' (only --cuda is known)" >&2; exit 2 ;;
esac

stamp="$torch_version $variant"
if [ "$(cat "$dest/semblance-stamp" 2>/dev/null || true)" = "$stamp" ]; then
    echo "libtorch $stamp is in place: $dest"
    exit 0
fi

python=$(command -v python3) || { echo "libtorch.sh: python3 with pip is needed to download libtorch (apt-get install python3-pip)" >&2; exit 1; }
work=$(mktemp -d "$root/.libtorch-download.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The wheel's content is the same for every Python version; naming one lets any Python download it.
download() {
    for attempt in 1 2 3 4 5; do
        "$python" -m pip download --quiet --disable-pip-version-check --dest "$work/wheels" --only-binary=:all: \
            --python-version 3.11 --implementation cp --platform manylinux_2_28_x86_64 \
            --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "$@" && return 0
        echo "libtorch.sh: download of $* failed (attempt $attempt of 5)" >&2
        sleep $((attempt * 5))
    done
    return 1
}

if [ "$variant" = cuda ]; then
    download "torch==$torch_version" # with every CUDA library it names
else
    # libtorch_cpu.so is linked to these two small CUDA libraries even where no GPU is used.
    download --no-deps "torch==$torch_version"
    download --no-deps "nvidia-cuda-runtime>=13,<14" "nvidia-cuda-cupti>=13,<14"
fi

rm -rf "$dest.partial" && mkdir -p "$dest.partial/lib"
"$python" - "$work/wheels" "$dest.partial" "$variant" <<'PY'
import os, sys, zipfile

wheels, dest, variant = sys.argv[1:]
cpu_libraries = {"libc10.so", "libtorch_cpu.so", "libtorch.so", "libgomp.so.1"}
for name in sorted(os.listdir(wheels)):
    with zipfile.ZipFile(os.path.join(wheels, name)) as wheel:
        for member in wheel.namelist():
            base = os.path.basename(member)
            if member.startswith("torch/include/"):
                out = os.path.join(dest, member[len("torch/"):])
            elif member.startswith("torch/lib/") and ".so" in base:
                if variant == "cpu" and base not in cpu_libraries:
                    continue
                out = os.path.join(dest, "lib", base)
            elif member.startswith("nvidia/") and ".so" in base:
                if variant == "cpu" and base not in {"libcudart.so.13", "libcupti.so.13"}:
                    continue
                out = os.path.join(dest, "lib", base)
            else:
                continue
            if member.endswith("/"):
                continue
            os.makedirs(os.path.dirname(out), exist_ok=True)
            with wheel.open(member) as src, open(out, "wb") as dst:
                while chunk := src.read(1 << 20):
                    dst.write(chunk)
PY
echo "$stamp" >"$dest.partial/semblance-stamp"
rm -rf "$dest" && mv "$dest.partial" "$dest"
echo "libtorch $stamp is in place: $dest"
