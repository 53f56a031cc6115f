#!/usr/bin/env python3
"""Folders of links, as `trainer prepare --layout rafdb` reads them, from LFW faces and a list of their expressions.

    lfw_expressions.py --pictures lfw --labels lfw_expressions.csv --out trees
    trainer prepare --layout rafdb --src trees/lfw-expressions --out stores/lfw
    trainer prepare --layout rafdb --src trees/lfw-held-out --out stores/lfw-held-out

The list has lines of a picture's name and its expression, NAME_0001.jpg,happiness, below a heading: that of the repository
muxspace/facial_expressions, in which nearly all are neutral or happy. A quarter of the people, by a hash of their names, is
the test split, and alone in the second folder.
"""

import argparse
import csv
import hashlib
import pathlib
import sys

CLASSES = {"surprise": 1, "fear": 2, "disgust": 3, "happiness": 4, "sadness": 5, "anger": 6, "neutral": 7}  # RAF-DB's numbers


def held_out(person):
    return hashlib.sha256(person.encode()).digest()[0] < 64


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", required=True, type=pathlib.Path, help="folder of NAME_0001.jpg")
    parser.add_argument("--labels", required=True, type=pathlib.Path, help="the list, CSV")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder of the trees")
    args = parser.parse_args()
    with args.labels.open(newline="", encoding="utf-8") as file:
        rows = [row[:2] for row in csv.reader(file) if len(row) >= 2 and row[1] in CLASSES]
    expressions = dict(reversed(rows))  # of a picture that is listed twice, the first one
    if not rows:
        sys.exit(f"{args.labels}: no line has a picture and one of {', '.join(CLASSES)}")
    missing = [name for name in expressions if not (args.pictures / name).is_file()]
    if missing:
        sys.exit(f"{args.pictures}: {len(missing)} pictures of the list are not there, {missing[0]} among them")
    for folder, wanted in [("lfw-expressions", (False, True)), ("lfw-held-out", (True,))]:
        tree = args.out / folder
        if tree.exists():
            sys.exit(f"{tree}: there is something here already: remove it, or choose another --out")
        (tree / "Image" / "aligned").mkdir(parents=True)
        (tree / "EmoLabel").mkdir()
        lines = []
        for name, expression in sorted(expressions.items()):
            stem = name.removesuffix(".jpg")
            out = held_out(stem.rsplit("_", 1)[0])
            if out in wanted:
                place = f"{'test' if out else 'train'}_{stem}"
                (tree / "Image" / "aligned" / f"{place}_aligned.jpg").symlink_to((args.pictures / name).resolve())
                lines.append(f"{place}.jpg {CLASSES[expression]}\n")
        (tree / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines), encoding="utf-8")
        print(f"{tree}: {len(lines)} pictures")


if __name__ == "__main__":
    main()
