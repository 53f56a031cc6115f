#!/usr/bin/env python3
"""Labels the faces of pictures and videos with YuNet, for `trainer finder`. A development tool: nothing that ships runs it.

    python3 -m venv venv && venv/bin/pip install onnxruntime numpy pillow
    venv/bin/python deploy/teacher/yunet.py --model yunet_n_dynamic.onnx --out faces/ytf --source ytf pictures/
    venv/bin/python deploy/teacher/yunet.py --model yunet_n_dynamic.onnx --out faces/clips --fps 4 clips/

Writes OUT/pictures/*.jpg (frames of videos and pictures, their longer side at most --side) and OUT/faces.csv: one row a
face with `picture,source,identity,score,x,y,w,h` and five points `x0,y0..x4,y4` (left eye, right eye, nose, left and right
corner of the mouth, as seen in the picture) in pixels of the written picture; a picture without a face has one row with
empty columns. YuNet: Wu, Peng, Yu 2023; videos are read by the ffmpeg program.
"""
import argparse, csv, pathlib, subprocess, sys

import numpy as np
import onnxruntime
from PIL import Image

PICTURES = {".jpg", ".jpeg", ".png", ".bmp"}
VIDEOS = {".mp4", ".mkv", ".mpg", ".avi", ".webm", ".mov"}
STRIDES = (8, 16, 32)


class YuNet:
    def __init__(self, model, threads=1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(model), options)
        self.names = [output.name for output in self.session.get_outputs()]

    def find(self, picture, threshold):
        """Faces in an RGB array [H,W,3]: rows of score, x, y, w, h and ten coordinates, best first."""
        height, width, _ = picture.shape
        padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
        padded[:height, :width] = picture[..., ::-1]
        outputs = dict(zip(self.names, self.session.run(None, {"input": padded.transpose(2, 0, 1)[None]})))
        rows = []
        for stride in STRIDES:
            columns = padded.shape[1] // stride
            cls, obj, box, points = (outputs[f"{name}_{stride}"][0] for name in ("cls", "obj", "bbox", "kps"))
            score = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
            for i in np.nonzero(score >= threshold)[0]:
                column, row = i % columns, i // columns
                w, h = np.exp(box[i, 2:]) * stride
                cx, cy = (column + box[i, 0]) * stride, (row + box[i, 1]) * stride
                xy = (points[i].reshape(5, 2) + (column, row)) * stride
                rows.append([score[i], cx - w / 2, cy - h / 2, w, h, *xy.ravel()])
        return suppress(sorted(rows, key=lambda r: -r[0]))


def overlap(a, b):
    w = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    h = min(a[2] + a[4], b[2] + b[4]) - max(a[2], b[2])
    both = max(w, 0) * max(h, 0)
    return both / (a[3] * a[4] + b[3] * b[4] - both)


def suppress(rows, limit=0.3):
    kept = []
    for row in rows:
        if all(overlap(row, other) < limit for other in kept):
            kept.append(row)
    return kept


def fit(picture, side):
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize([max(1, round(s * scale)) for s in picture.size], Image.Resampling.BOX)


def frames(path, fps, side):
    """The pictures of one file: (name, RGB picture)."""
    if path.suffix.lower() in PICTURES:
        yield path.stem, fit(Image.open(path).convert("RGB"), side)
        return
    probe = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height", "-of", "csv=p=0"]
    width, height = map(int, subprocess.check_output([*probe, str(path)], text=True).strip().split(",")[:2])
    decode = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-vf", f"fps={fps}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    with subprocess.Popen(decode, stdout=subprocess.PIPE) as process:
        number = 0
        while len(data := process.stdout.read(width * height * 3)) == width * height * 3:
            yield f"{path.stem}_{number:05}", fit(Image.frombytes("RGB", (width, height), data), side)
            number += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("src", type=pathlib.Path, nargs="+", help="pictures, videos, or folders of them")
    parser.add_argument("--model", required=True, help="YuNet with a dynamic input, ONNX")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--source", help="name of the source [default: the folder that a file lies in]")
    parser.add_argument("--fps", type=float, default=4, help="frames of a video that are taken, a second")
    parser.add_argument("--side", type=int, default=640, help="longer side of what is written, at most")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score that is written")
    args = parser.parse_args()

    files = []
    for src in args.src:
        found = sorted(p for p in src.rglob("*") if p.suffix.lower() in PICTURES | VIDEOS) if src.is_dir() else [src]
        if not found:
            sys.exit(f"{src}: no picture and no video")
        files += found
    teacher = YuNet(args.model)
    pictures = args.out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    count = with_face = 0
    with open(args.out / "faces.csv", "w", newline="") as out:
        writer = csv.writer(out)
        points = [f"{axis}{i}" for i in range(5) for axis in "xy"]
        writer.writerow(["picture", "source", "identity", "score", "x", "y", "w", "h", *points])
        for number, path in enumerate(files):
            source = args.source or path.parent.name
            # `Person_0007.jpg` and `Person_07t.jpg` are pictures of `Person`; a video is one person.
            identity = path.stem.rsplit("_", 1)[0] if path.suffix.lower() in PICTURES else path.stem
            for name, picture in frames(path, args.fps, args.side):
                file = f"pictures/{name}.jpg"
                picture.save(args.out / file, quality=95)
                rows = teacher.find(np.asarray(picture), args.threshold)
                count += 1
                with_face += any(row[0] >= 0.6 for row in rows)
                for row in rows or [[""] * 15]:
                    values = [f"{v:.3f}" if v != "" else "" for v in row]
                    writer.writerow([file, source, identity, *values])
            print(f"\r{number + 1}/{len(files)} files, {count} pictures", end="", file=sys.stderr, flush=True)
    print(f"\n{args.out}: a face in {with_face} of {count} pictures (score >= 0.6)", file=sys.stderr)


if __name__ == "__main__":
    main()
