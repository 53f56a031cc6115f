"""compare.py HERE THERE: whether two runs of edge on the same frames predict the same; ends with 1 where they do not."""

import json
import sys

TOLERANCE = 1e-3


def predictions(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def numbers(value, at=""):
    """Every number that is predicted, by its place; not times, and not what the demo says is true."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("ms", "truth", "t"):
                yield from numbers(inner, f"{at}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers(inner, f"{at}.{index}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield at, value


here, there = (predictions(path) for path in sys.argv[1:3])
frames = [[row["frame"] for row in rows] for rows in (here, there)]
if len(here) < 20 or frames[0] != frames[1]:
    sys.exit(f"BAD frames with a face: {frames[0]} here, {frames[1]} there")
worst = {"p": 0.0, "box and pose": 0.0}
for one, other in zip(here, there):
    if one["expression"]["label"] != other["expression"]["label"]:
        sys.exit(f"BAD expression: {one['expression']['label']} here, {other['expression']['label']} there")
    one, other = dict(numbers(one)), dict(numbers(other))
    if one.keys() != other.keys():
        sys.exit(f"BAD fields: {sorted(one.keys() ^ other.keys())}")
    for name, value in one.items():
        # Boxes and angles are printed to a tenth.
        kind = "box and pose" if name.startswith((".box", ".pose")) else "p"
        worst[kind] = max(worst[kind], abs(value - other[name]))
fits = worst["p"] <= TOLERANCE and worst["box and pose"] <= 0.11
print(f"{'ok ' if fits else 'BAD'} {len(here)} frames: predictions differ by {worst['p']:.2g} at most (limit {TOLERANCE}), "
      f"boxes and angles by {worst['box and pose']:.2g} (limit 0.11, a step of what is printed)")
sys.exit(not fits)
