#!/usr/bin/env python3
"""Adds pseudo-labels of action units to FER-2013: what MediaPipe's face landmarker says of each picture in blendshapes.

    pip install mediapipe numpy
    blendshapes.py --src fer2013.npz --task face_landmarker_v2_with_blendshapes.task --out fer2013-au.npz
    trainer prepare --layout fer2013 --src fer2013-au.npz --out stores/fer2013

The new file is the old one and `action_units`, f32 [N, 18], the order of semblance_face::labels::ACTION_UNITS, in [0, 1], NaN
where there is no blendshape for the unit, or no face was found.
"""

import argparse
import os
import sys
import time

import mediapipe as mp
import numpy as np

UNITS = [1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26, 43]
# A unit is the mean of a group's blendshapes, and the most that one of its groups has. Left out is what hardly ever answers on real
# faces: eyeWide (5), cheekSquint (6), noseSneer (9), mouthDimple (14), mouthFrown (15), mouthStretch (20), mouthPress (24).
BLENDSHAPES = {
    1: [["browInnerUp"]],
    2: [["browOuterUpLeft", "browOuterUpRight"]],
    4: [["browDownLeft", "browDownRight"]],
    7: [["eyeSquintLeft", "eyeSquintRight"]],
    10: [["mouthUpperUpLeft", "mouthUpperUpRight"]],
    12: [["mouthSmileLeft", "mouthSmileRight"]],
    25: [["mouthLowerDownLeft", "mouthLowerDownRight"], ["jawOpen"]],
    26: [["jawOpen"]],
    43: [["eyeBlinkLeft", "eyeBlinkRight"]],
}
# The landmarker looks for a face in a larger picture: the crop is magnified and framed by a grey border.
SCALE, BORDER = 5, 60


def magnified(image):
    side = image.shape[0] * SCALE
    rows = (np.arange(side) + 0.5) / SCALE - 0.5
    low = np.clip(np.floor(rows).astype(int), 0, image.shape[0] - 1)
    high = np.minimum(low + 1, image.shape[0] - 1)
    share = np.clip(rows - low, 0, 1)[:, None]
    image = image.astype(np.float32)
    image = image[low] * (1 - share) + image[high] * share
    image = image[:, low] * (1 - share.T) + image[:, high] * share.T
    image = np.pad(image, BORDER, constant_values=128)
    return np.repeat(image.round().astype(np.uint8)[:, :, None], 3, axis=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", required=True, help="FER-2013 as .npz: images, labels, usage")
    parser.add_argument("--task", required=True, help="MediaPipe's face landmarker with blendshapes")
    parser.add_argument("--out", required=True, help="the .npz to write")
    parser.add_argument("--limit", type=int, help="only the first pictures, to try it out")
    args = parser.parse_args()

    vision = mp.tasks.vision
    options = vision.FaceLandmarkerOptions(
        base_options=mp.tasks.BaseOptions(model_asset_path=args.task),
        output_face_blendshapes=True,
        min_face_detection_confidence=0.2,
        min_face_presence_confidence=0.2,
    )
    data = dict(np.load(args.src))
    data.pop("action_units", None)
    images = data["images"]
    count = min(args.limit or len(images), len(images))
    units = np.full((len(images), len(UNITS)), np.nan, np.float32)
    begun = time.time()
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for i in range(count):
            found = landmarker.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=magnified(images[i])))
            if found.face_blendshapes:
                scores = {shape.category_name: shape.score for shape in found.face_blendshapes[0]}
                for j, unit in enumerate(UNITS):
                    if unit in BLENDSHAPES:
                        units[i, j] = max(np.mean([scores[name] for name in group]) for group in BLENDSHAPES[unit])
            if (i + 1) % 1000 == 0 or i + 1 == count:
                known = np.isfinite(units[: i + 1, 0]).mean()
                rate = (i + 1) / (time.time() - begun)
                print(f"{i + 1} of {count} pictures, {rate:.0f} a second, a face found in {known:.1%}", file=sys.stderr)
    part = args.out + ".part.npz"
    np.savez_compressed(part, **data, action_units=units)
    os.replace(part, args.out)
    for j, unit in enumerate(UNITS):
        if unit in BLENDSHAPES:
            column = units[:, j][np.isfinite(units[:, j])]
            print(f"AU{unit:02}: mean {column.mean():.3f}, present (0.4 or more) in {(column >= 0.4).mean():.1%}")


if __name__ == "__main__":
    main()
