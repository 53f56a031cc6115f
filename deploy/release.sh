#!/usr/bin/env bash
# Makes a release of what is checked out, or says why it is none:
#
#   deploy/release.sh [--check]      --check: look, but build nothing
#
# It wants a working tree without changes, a section of CHANGELOG.md for the version in Cargo.toml, with a date, no tag of that version
# yet, and dependencies whose licences, advisories and sources are as deny.toml has them. Then deploy/build.sh fills dist/ with what
# devices install, all of it with the licences of what is linked in. Beside that go NOTES.md (the changelog's section), a bill of
# materials of each program (CycloneDX) and SHA256SUMS over everything. Tagging and publishing are left to you: it prints how.
#
# cargo-deny, cargo-about and cargo-cyclonedx are built once into target/release-tools (ten minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tools=$target/release-tools
check=
fail() {
    echo "release.sh: $*" >&2
    exit 1
}
case ${1:-} in
    "") ;;
    --check) check=yes ;;
    -h | --help)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
        exit 0 ;;
    *) fail "unknown argument $1: see --help" ;;
esac

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "Cargo.toml has no version of the form 1.2.3 but '$version'"
notes=$(awk -v version="$version" '$1 == "##" { on = $2 == version } on' CHANGELOG.md)
[[ $notes =~ ^"## $version — "[0-9]{4}-[0-9]{2}-[0-9]{2} ]] || fail "CHANGELOG.md has no section '## $version — DATE': name what is new"
[ -z "$(git status --porcelain)" ] || fail "the working tree has changes: commit them, so that others can build the same"
if git rev-parse -q --verify "refs/tags/v$version" > /dev/null; then
    fail "v$version is tagged already: raise the version in Cargo.toml"
fi

tool() { # CRATE VERSION [OPTION OF cargo install]...
    local crate=$1 version=$2
    [ -x "$tools/bin/$crate" ] && [ "$(cat "$tools/$crate.version" 2> /dev/null)" = "$version" ] && return
    cargo install -q --locked --root "$tools" --target-dir "$tools/target" --force "${@:3}" "$crate@$version"
    [ -x "$tools/bin/$crate" ] || fail "cargo install $crate@$version has made no program"
    echo "$version" > "$tools/$crate.version"
}
tool cargo-deny 0.20.2
export PATH=$tools/bin:$PATH
cargo deny --locked --log-level error check

echo "$version can be released"
[ -z "$check" ] || exit 0

tool cargo-about 0.9.3 --features cli
tool cargo-cyclonedx 0.5.9
rm -rf dist
mkdir -p dist "$target/package"
cargo about generate --locked --fail -m edge/Cargo.toml -c deploy/about.toml deploy/about.hbs > "$target/package/LICENSES.html"
deploy/build.sh --licenses "$target/package/LICENSES.html"
# It writes one beside the manifest of every crate of the workspace.
cargo cyclonedx --format json --describe crate
for program in edge calib; do
    mv "$program/semblance-$program.cdx.json" "dist/semblance-$version-$program.cdx.json"
done
git clean -q -f -- '*.cdx.json'
echo "$notes" > dist/NOTES.md
(cd dist && rm -f SHA256SUMS && sums=$(sha256sum -- *) && echo "$sums" > SHA256SUMS)
ls -l dist
echo "To publish: git tag -s v$version --cleanup=verbatim -F dist/NOTES.md && git push origin v$version, and put the files of dist/ beside the tag."
