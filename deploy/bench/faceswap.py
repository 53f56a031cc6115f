#!/usr/bin/env python3
"""Times Semblance's FaceSwap beside the same steps in OpenCV and numpy, one thread each.

    deploy/libtorch.sh
    python3 -m venv venv && venv/bin/pip install opencv-python-headless numpy
    venv/bin/python deploy/bench/faceswap.py

OpenCV works on whole pictures, as a script around it does; ours runs as its own test measures it, on the same faces:
drawn by a formula that `trainer/src/faceswap/tests.rs` has too. `--pixels` prints what OpenCV's swap gives at the points
that test compares.
"""
import argparse, re, subprocess, time

import cv2
import numpy as np

GAINS = 0.5, 2.0
FEATHER = 0.06
COLOUR_BLUR = 0.6


def landmarks(yaw, smile):
    """A face as iBUG landmarks in shares of the picture's side; `yaw` shifts the features, `smile` lifts the mouth's corners."""
    points = []
    for i in range(17):
        angle = np.pi * (1 - i / 16)
        points.append((0.5 + 0.44 * np.cos(angle), 0.42 + 0.52 * np.sin(angle)))
    for middle in (0.314, 0.686):
        points += [(middle + 0.045 * (i - 2) + yaw, 0.29 - 0.035 * np.sin(np.pi * i / 4)) for i in range(5)]
    points += [(0.5 + 1.5 * yaw, 0.39 + 0.07 * i) for i in range(4)]
    points += [(0.5 + 0.035 * (i - 2) + yaw, 0.65 + 0.01 * np.sin(np.pi * i / 4)) for i in range(5)]
    for middle in (0.314, 0.686):
        turns = [np.pi * (1 - i / 3) for i in range(6)]
        points += [(middle + 0.07 * np.cos(t) + yaw, 0.393 - 0.03 * np.sin(t)) for t in turns]
    for count, width, height in ((12, 0.16, 0.06), (8, 0.11, 0.02)):
        turns = [np.pi * (1 - 2 * i / count) for i in range(count)]
        points += [(0.5 + width * np.cos(t) + yaw, 0.78 - height * np.sin(t) - smile * np.cos(t) ** 2) for t in turns]
    return np.array(points)


def picture(side, phase):
    """Waves of some periods in colours that differ by channel and `phase`."""
    x, y = np.meshgrid((np.arange(side) + 0.5) / side, (np.arange(side) + 0.5) / side)
    waves = [110 + 20 * c + 30 * phase + 50 * np.sin(30 * x + 2 * c + phase) * np.cos(25 * y - c) for c in range(3)]
    return np.floor(np.stack(waves, -1) + 0.5).clip(0, 255).astype(np.uint8)


def similarity(source, target):
    """Umeyama's least squares by SVD, `[s R | t]`."""
    p, q = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(q.T @ p)
    sign = np.diag([1, np.sign(np.linalg.det(u @ vt))])
    turn = (s * np.diag(sign)).sum() / (p**2).sum() * (u @ sign @ vt)
    return np.hstack([turn, (target.mean(0) - turn @ source.mean(0))[:, None]])


def hulls(points):
    return [points[[*range(17, 27), *range(36, 48)]], points[[*range(27, 36), *range(48, 61)]]]


def filled(side, polygons):
    mask = np.zeros((side, side), np.uint8)
    for polygon in polygons:
        corners = cv2.convexHull(np.round((polygon - 0.5) * 16).astype(np.int32))
        cv2.fillConvexPoly(mask, corners, 1, shift=4)
    return mask


def swap(identity, identity_points, expression, expression_points):
    side = len(identity)
    here, there = identity_points * side, expression_points * side
    move = similarity(there[17:61], here[17:61])
    carried = there @ move[:, :2].T + move[:, 2]
    eyes = np.linalg.norm(here[36:42].mean(0) - here[42:48].mean(0))
    reach = max(1, round(FEATHER * eyes))
    mask = np.maximum(filled(side, hulls(carried)), filled(side, hulls(here)) & filled(side, [carried]))
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)).astype(np.float32)
    mask = cv2.GaussianBlur(mask, (2 * reach + 1,) * 2, 0)[..., None]
    # OpenCV's points are pixels' middles at whole numbers.
    centred = np.hstack([move[:, :2], (move[:, 2] + move[:, :2] @ [0.5, 0.5] - 0.5)[:, None]])
    replicate = cv2.BORDER_REPLICATE
    warped = cv2.warpAffine(expression.astype(np.float32), centred, (side, side), flags=cv2.INTER_LINEAR, borderMode=replicate)
    own = identity.astype(np.float32)
    kernel = (2 * max(1, round(COLOUR_BLUR / 2 * eyes)) + 1,) * 2
    wanted = cv2.GaussianBlur(own, kernel, 0, borderType=replicate)
    present = cv2.GaussianBlur(warped, kernel, 0, borderType=replicate)
    gain = np.clip(wanted / np.maximum(present, 1), *GAINS)
    coloured = np.clip(wanted + gain * (warped - present), 0, 255)
    return np.floor(own + mask * (coloured - own) + 0.5).astype(np.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", action="store_true", help="print OpenCV's result at the points that the test compares")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    faces = landmarks(0.0, 0.0), landmarks(0.02, 0.03)
    if args.pixels:
        result = swap(picture(74, 0.0), faces[0], picture(74, 1.0), faces[1])
        for x, y in ((23, 28), (30, 26), (37, 40), (37, 46), (37, 57), (31, 56), (44, 58), (50, 27), (5, 5), (37, 70)):
            print(f"({x}, {y}, {result[y, x].tolist()}),")
        return
    command = "cargo test -p semblance-trainer --lib faceswap::tests::swaps_a_second -- --ignored --nocapture"
    output = subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout
    ours = {int(side): float(rate) for side, rate in re.findall(r"(\d+) px: (\d+) swaps/s", output)}
    for side, rate in ours.items():
        pictures = picture(side, 0.0), picture(side, 1.0)
        # The best of 20 rounds of 200, as ours is taken.
        times = []
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(200):
                swap(pictures[0], faces[0], pictures[1], faces[1])
            times.append(time.perf_counter() - start)
        theirs = 200 / min(times)
        print(f"{side:4} px   ours {rate:6.0f} swaps/s   OpenCV {cv2.__version__} {theirs:6.0f}   {rate / theirs:.1f} x")


if __name__ == "__main__":
    main()
