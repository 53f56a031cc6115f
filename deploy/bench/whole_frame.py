#!/usr/bin/env python3
"""Times a whole frame of edge beside what many put together today: YuNet in OpenCV to find a face at 320x240, mini-Xception in
onnxruntime to read seven expressions of it. One thread each, in turns, on the same frames.

    cargo build --release -p semblance-edge
    python3 -m venv venv && venv/bin/pip install onnx onnxruntime numpy opencv-python-headless
    venv/bin/python deploy/bench/whole_frame.py --yunet yunet_n_dynamic.onnx --source clip.mp4

mini-Xception (Arriaga, Valdenegro-Toro, Ploeger 2017: `mini_XCEPTION`, 64x64 grey, 7 classes) is built here with random weights:
its time does not depend on them. The clip is scaled to --size beforehand, so that neither side decodes or scales a large picture.
The edge finds and follows (the finder looks at every fifth frame: a fifth of its time is added to the median frame), reads 68
landmarks and the head's pose, and reads every head of its bundle; the other side finds in every frame.
"""
import argparse, json, pathlib, statistics, subprocess, tempfile, time

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SEARCHED = (320, 240)


def mini_xception():
    """The network as ONNX, batch normalisation folded, and the number of its parameters as published (with normalisation)."""
    rng = np.random.default_rng(0)
    nodes, weights, parameters = [], [], 0

    def conv(x, name, c_in, c_out, side, stride=1, groups=1, same=True, bn=True, bias=False):
        nonlocal parameters
        shape = (c_out, c_in // groups, side, side)
        parameters += int(np.prod(shape)) + (4 * c_out if bn else 0) + (c_out if bias else 0)
        weights.append(numpy_helper.from_array(rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32), name + ".w"))
        weights.append(numpy_helper.from_array(np.zeros(c_out, np.float32), name + ".b"))
        pad = side // 2 if same else 0
        nodes.append(helper.make_node("Conv", [x, name + ".w", name + ".b"], [name], strides=[stride] * 2, pads=[pad] * 4, group=groups))
        return name

    def relu(x):
        nodes.append(helper.make_node("Relu", [x], [x + ".relu"]))
        return x + ".relu"

    def separable(x, name, c_in, c_out):
        x = conv(x, name + ".depth", c_in, c_in, 3, groups=c_in, bn=False)
        return conv(x, name + ".point", c_in, c_out, 1)

    x = relu(conv("input", "stem1", 1, 8, 3, same=False))
    x = relu(conv(x, "stem2", 8, 8, 3, same=False))
    c_in = 8
    for c_out in (16, 32, 64, 128):
        beside = conv(x, f"beside{c_out}", c_in, c_out, 1, stride=2)
        x = relu(separable(x, f"first{c_out}", c_in, c_out))
        x = separable(x, f"second{c_out}", c_out, c_out)
        nodes.append(helper.make_node("MaxPool", [x], [f"pool{c_out}"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Add", [f"pool{c_out}", beside], [f"sum{c_out}"]))
        x, c_in = f"sum{c_out}", c_out
    x = conv(x, "classes", c_in, 7, 3, bn=False, bias=True)
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["output"], axis=1))
    graph = helper.make_graph(nodes, "mini_xception",
                              [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 64, 64])],
                              [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 7])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString(), parameters


class Usual:
    """YuNet and mini-Xception."""

    def __init__(self, yunet):
        cv2.setNumThreads(1)
        self.finder = cv2.FaceDetectorYN.create(str(yunet), "", SEARCHED, 0.6)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        network, self.parameters = mini_xception()
        self.reader = onnxruntime.InferenceSession(network, options)

    def read(self, frame):
        """Times of finding and of reading a BGR frame, in ms; the second is 0 where there is no face."""
        start = time.perf_counter()
        _, faces = self.finder.detect(cv2.resize(frame, SEARCHED))
        found = time.perf_counter()
        if faces is None or len(faces) == 0:
            return (found - start) * 1e3, 0.0
        across, down = frame.shape[1] / SEARCHED[0], frame.shape[0] / SEARCHED[1]
        x, y, w, h = faces[0][:4] * [across, down, across, down]
        x, y = max(int(x), 0), max(int(y), 0)
        crop = frame[y : max(int(y + h), y + 1), x : max(int(x + w), x + 1)]
        grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), (64, 64)).astype(np.float32) / 127.5 - 1
        self.reader.run(None, {"input": grey[None, None]})
        return (found - start) * 1e3, (time.perf_counter() - found) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yunet", required=True, type=pathlib.Path, help="YuNet-n with inputs of any size, ONNX")
    parser.add_argument("--source", required=True, help="a clip with a face")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--edge", type=pathlib.Path, default="target/release/edge")
    parser.add_argument("--bundle", action="append", help="default: default")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    bundles = args.bundle or ["default"]
    usual = Usual(args.yunet)
    with tempfile.TemporaryDirectory() as folder:
        clip = f"{folder}/clip.mkv"
        subprocess.run(["ffmpeg", "-v", "error", "-i", args.source, "-frames:v", str(args.frames), "-an", "-vf",
                        f"scale={width}:{height}:force_original_aspect_ratio=decrease,pad={width}:{height}:-1:-1",
                        "-c:v", "mjpeg", "-q:v", "2", clip], check=True)
        raw = subprocess.run(["ffmpeg", "-v", "error", "-i", clip, "-f", "rawvideo", "-pix_fmt", "bgr24", "-"],
                             check=True, capture_output=True).stdout
        frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)

        def edge(bundle):
            command = [args.edge, "bench", "--source", clip, "--bundle", bundle, "--frames", str(len(frames)), "--json"]
            report = json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL))
            stages = report["stages"]
            # The median frame is one without a search; its share of every search comes on top, as YuNet's does in each.
            search = stages["find"]["p50"] * stages["find"]["n"] / stages["total"]["n"]
            return stages["total"]["p50"] + search, stages["embed"]["p50"], report["faces"] / report["frames"]

        for frame in frames[:20]:
            usual.read(frame)
        rounds = []
        for _ in range(args.rounds):
            times = np.array([usual.read(frame) for frame in frames])
            rounds.append([(np.median(times.sum(1)), np.median(times[:, 1]), (times[:, 1] > 0).mean()), *map(edge, bundles)])
    print(f"{len(frames)} frames of {width}x{height}, medians of {args.rounds} rounds in turns, without decoding")
    names = [f"YuNet 320x240 in OpenCV {cv2.__version__}, mini-Xception ({usual.parameters:,} parameters) in onnxruntime {onnxruntime.__version__}"]
    names += [f"edge, {bundle}" for bundle in bundles]
    theirs = statistics.median(row[0][0] for row in rounds)
    for i, name in enumerate(names):
        total, reading, faces = (statistics.median(row[i][j] for row in rounds) for j in range(3))
        print(f"{total:7.2f} ms a frame ({total / theirs:.2f} x), {reading:.2f} of it reading the face; {100 * faces:.0f} % with a face: {name}")


if __name__ == "__main__":
    main()
