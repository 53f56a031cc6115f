#!/usr/bin/env python3
"""Times the encoders of bundles in tract and in onnxruntime, the same file, in turns, one thread each, on one core.

    cargo build --release -p semblance-edge
    python3 -m venv venv && venv/bin/pip install onnxruntime numpy
    taskset -c 0 venv/bin/python deploy/bench/encoder.py models/default models/small

tract's time is from a crop's bytes to its embedding, onnxruntime's that of the network alone.
"""
import argparse, json, pathlib, re, statistics, subprocess, time

import numpy as np
import onnxruntime


def onnx_ms(session, picture, frames):
    times = []
    for _ in range(frames):
        start = time.perf_counter()
        session.run(None, {session.get_inputs()[0].name: picture})
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=pathlib.Path)
    parser.add_argument("--edge", type=pathlib.Path, default="target/release/edge")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    print(f"median of {args.rounds} rounds of {args.frames} crops, ms     tract   onnxruntime {onnxruntime.__version__}")
    for bundle in args.bundles:
        manifest = (bundle / "bundle.toml").read_text()
        side = int(re.search(r"^input_side_px = (\d+)", manifest, re.M)[1])
        session = onnxruntime.InferenceSession(str(bundle / "encoder.onnx"), options)
        picture = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
        command = [args.edge, "bench", "--only", "encoder", "--bundle", bundle, "--frames", str(args.frames), "--json"]
        onnx_ms(session, picture, 50)
        rounds = []
        for _ in range(args.rounds):
            tract = json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL))["stages"]["embed"]["p50"]
            rounds.append((tract, onnx_ms(session, picture, args.frames)))
        tract, onnx = (statistics.median(column) for column in zip(*rounds))
        print(f"{str(bundle):42} {tract:8.3f} {onnx:8.3f}   {tract / onnx:.2f} x")


if __name__ == "__main__":
    main()
