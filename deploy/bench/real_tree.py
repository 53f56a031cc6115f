#!/usr/bin/env python3
"""Folders of links, as `trainer prepare --layout frames` reads them, from face pictures that lie in one folder each.

    deploy/bench/real_tree.py --data "$SEMBLANCE_DATA" --out trees
    trainer prepare --layout frames --align --fps 2 --src trees/ytf --out stores/ytf
    trainer prepare --layout frames --align --fps 2 --src trees/lfw --out stores/lfw
    trainer prepare --layout fer2013 --landmarks --src "$SEMBLANCE_DATA/fer2013.npz" --out stores/fer2013
    for recipe in simclr table1-f; do
        trainer pretrain --recipe sslfer/$recipe --config deploy/bench/small.toml --backbone edge --side-px 64 --epochs 5 --out runs/$recipe \\
            --data stores/ytf --data stores/lfw --data stores/fer2013
        trainer eval --protocol linear --checkpoint runs/$recipe --data stores/fer2013
    done
    trainer eval --protocol linear --descriptor hog --side-px 48 --data stores/fer2013

Of $SEMBLANCE_DATA, these are read where they are there:

- lfw/NAME_0001.jpg, single pictures of a person: lfw/NAME/0001/0001.jpg, each a video of one frame;
- ytf/NAME_VF.jpg and ytf/NAME_VFt.jpg, frames of videos: V is the video's digit, F the frame's, from 0 to 4, and `t` marks
  the second half of the video: ytf/NAME/V/0001.jpg and on, frame F of the first half as F + 1, of the second as F + 6.

What time passes between frames of ytf is not known. `--fps 2` takes two successive numbers to be half a second apart, and the
second half to begin 2.5 s after the first. So TimeAug (whose probability falls to nothing at 1 s) reaches one frame on either
side, and HardNeg (3 s and more) from the first frames of a video to its last.
"""

import argparse
import pathlib
import re
import sys

LFW = re.compile(r"(?P<name>.+)_(?P<picture>\d{4})\.jpg")
YTF = re.compile(r"(?P<name>.+)_(?P<video>\d)(?P<frame>[0-4])(?P<second>t?)\.jpg")
HALF = 5  # frames of half a video, at most


def lfw(names):
    """Pairs of a file's name and its place in the tree."""
    for name in sorted(names):
        match = LFW.fullmatch(name)
        if match:
            yield name, pathlib.Path(match["name"], match["picture"], "0001.jpg")


def ytf(names):
    """Pairs of a file's name and its place in the tree; gaps in the numbers are gaps in time."""
    for name in sorted(names):
        match = YTF.fullmatch(name)
        if match:
            number = int(match["frame"]) + (HALF if match["second"] else 0) + 1
            yield name, pathlib.Path(match["name"], match["video"], f"{number:04}.jpg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=pathlib.Path, help="folder with lfw/ and ytf/")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder of the trees")
    args = parser.parse_args()
    found = False
    for folder, places in [("lfw", lfw), ("ytf", ytf)]:
        source = args.data.resolve() / folder
        if not source.is_dir():
            print(f"skipped: {source} is not there", file=sys.stderr)
            continue
        names = [path.name for path in source.iterdir()]
        tree = args.out / folder
        if tree.exists():
            sys.exit(f"{tree}: there is something here already: remove it, or choose another --out")
        count = 0
        for name, place in places(names):
            link = tree / place
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source / name)
            count += 1
        others = len(names) - count
        print(f"{tree}: {count} links" + (f", {others} files of other names left out" if others else ""))
        found |= count > 0
    if not found:
        sys.exit(f"{args.data}: neither lfw/ nor ytf/ has pictures named as above")


if __name__ == "__main__":
    main()
