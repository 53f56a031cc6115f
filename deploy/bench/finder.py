#!/usr/bin/env python3
"""Times Semblance's finder and whole frame beside YuNet-n 320 in onnxruntime, in turns, one thread each.

    cargo build --release -p semblance-edge
    python3 -m venv venv && venv/bin/pip install onnxruntime numpy
    venv/bin/python deploy/bench/finder.py --yunet yunet_n_320_320.onnx --source clip.mp4

The machine needs a second core, on which the video is decoded. YuNet's time is that of its network alone, run again and
again on one input; ours holds resizing, network and decoding of the boxes, first alone in the same way, then between the
other networks of a frame. The whole frame is without the decoding of video.
"""
import argparse, json, pathlib, statistics, subprocess, time

import numpy as np
import onnxruntime


def yunet_ms(session, picture, frames):
    times = []
    for _ in range(frames):
        start = time.perf_counter()
        session.run(None, {"input": picture})
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yunet", required=True, help="YuNet-n for 320x320, ONNX")
    parser.add_argument("--source", default="demo", help="a clip with a face; a webcam's 640x480 is usual")
    parser.add_argument("--edge", type=pathlib.Path, default="target/release/edge")
    parser.add_argument("--bundle", default="models/default")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(args.yunet, options)
    picture = np.random.default_rng(0).uniform(0, 255, (1, 3, 320, 320)).astype(np.float32)

    def edge(*more):
        command = [args.edge, "bench", "--source", args.source, "--bundle", args.bundle, "--frames", str(args.frames), "--json"]
        return json.loads(subprocess.check_output([*command, *more], stderr=subprocess.DEVNULL))["stages"]

    yunet_ms(session, picture, 50)
    rounds = []
    for _ in range(args.rounds):
        yunet = yunet_ms(session, picture, args.frames)
        alone, each, default = edge("--only", "finder"), edge("--find-every", "1"), edge()
        rounds.append((yunet, alone["find"]["p50"], each["find"]["p50"], each["total"]["p50"], default["total"]["p50"], default["total"]["p99"]))
    yunet, alone, find, every, total, worst = (statistics.median(column) for column in zip(*rounds))
    print(f"YuNet-n 320, onnxruntime {onnxruntime.__version__}, network alone   {yunet:7.3f} ms")
    print(f"find alone: resize, network, boxes                  {alone:7.3f} ms   {alone / yunet:.2f} x YuNet")
    print(f"find within a whole frame                           {find:7.3f} ms   {find / yunet:.2f} x YuNet")
    print(f"whole frame, finder on every frame                  {every:7.3f} ms")
    print(f"whole frame, default (99 % of frames below {worst:.2f})  {total:7.3f} ms")


if __name__ == "__main__":
    main()
