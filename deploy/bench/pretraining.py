#!/usr/bin/env python3
"""Pretraining beside PyTorch: the same backbone, batch and views, in the same run, in turns.

    trainer synth --identities 20 --out stores/bench
    pip install torch==2.11.0 torchvision
    deploy/bench/pretraining.py --data stores/bench [--backbone resnet18] [--batch 64] [--side-px 64] [--steps 20] [--rounds 3]

PyTorch's side is what one would write first: torchvision's ResNet, torchvision's transforms on PIL images in a DataLoader
with a worker a core that lives on from epoch to epoch, SimCLR's loss, Adam, no compilation. It runs in fp32 as it comes, and in bf16 autocast with
channels-last. Ours is `trainer bench` in fp32 and in bf16. Figures are views a second, medians over the rounds.
"""

import argparse
import io
import json
import os
import statistics
import struct
import subprocess
import sys
import time

import torch
import torchvision
from PIL import Image
from torchvision import transforms

TEMPERATURE = 0.07
WARM_UP = 2


class Store(torch.utils.data.Dataset):
    """Two views of every picture of a clip store (its format is in trainer/src/store/mod.rs)."""

    def __init__(self, folder, side_px, load_px):
        self.folder = folder
        with open(os.path.join(folder, "index.bin"), "rb") as file:
            index = file.read()
        if index[:8] != b"SMBSTORE":
            sys.exit(f"{folder}: not a clip store")
        (length,) = struct.unpack_from("<Q", index, 16)
        header = json.loads(index[24 : 24 + length])
        if header["columns"][0] != "place":
            sys.exit(f"{folder}: the column of places is not the first one")
        start = (24 + length + 7) // 8 * 8
        self.places = [struct.unpack_from("<QII", index, start + 16 * i) for i in range(header["frames"])]
        self.views = transforms.Compose(
            [
                transforms.Resize((load_px, load_px)),
                transforms.RandomCrop(side_px),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.4, 0.4, 0.4, 0.2),
                transforms.RandomApply([transforms.GaussianBlur(3)], 0.5),
                transforms.RandomGrayscale(0.2),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.25] * 3),
            ]
        )

    def __len__(self):
        return len(self.places)

    def __getitem__(self, i):
        offset, length, shard = self.places[i]
        with open(os.path.join(self.folder, f"shard-{shard:05}.jpegs"), "rb") as file:
            file.seek(offset)
            picture = Image.open(io.BytesIO(file.read(length))).convert("RGB")
        return self.views(picture), self.views(picture)


class SimClr(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.encoder = getattr(torchvision.models, backbone)()
        width = self.encoder.fc.in_features
        self.encoder.fc = torch.nn.Identity()
        self.head = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 128))

    def forward(self, views):
        return self.head(self.encoder(views))


def nt_xent(first, second):
    views = torch.nn.functional.normalize(torch.cat([first, second]).float(), dim=1)
    similarity = views @ views.T / TEMPERATURE
    similarity.fill_diagonal_(float("-inf"))
    count = first.shape[0]
    partner = (torch.arange(2 * count, device=views.device) + count) % (2 * count)
    return torch.nn.functional.cross_entropy(similarity, partner)


def pytorch(store, arguments, bf16, device):
    """Views a second of the whole and of the model alone."""
    batch, steps = arguments.batch, arguments.steps
    model = SimClr(arguments.backbone).to(device)
    if bf16:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, weight_decay=1e-4)
    loader = torch.utils.data.DataLoader(
        store,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count(),
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def batches():
        while True:
            yield from loader

    def step(first, second):
        views = torch.cat([first, second]).to(device, non_blocking=True)
        if bf16:
            views = views.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            projections = model(views)
            loss = nt_xent(projections[:batch], projections[batch:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def rate(work):
        started = None
        for i in range(WARM_UP + steps):
            if i == WARM_UP:
                started = time.perf_counter()
            work()
        return 2 * batch * steps / (time.perf_counter() - started)

    source = batches()
    whole = rate(lambda: step(*next(source)))
    kept = next(source)
    # The workers stop here, so that nothing else runs while the model is measured.
    del source, loader
    return {"whole": whole, "model": rate(lambda: step(*kept))}


def ours(arguments, precision):
    command = [arguments.trainer, "bench", "--json", "--data", arguments.data, "--backbone", arguments.backbone]
    command += ["--method", "simclr", "--side-px", str(arguments.side_px), "--batch", str(arguments.batch)]
    command += ["--steps", str(arguments.steps), "--precision", precision, "--cache", arguments.cache]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if result.returncode != 0:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        sys.exit(f"{' '.join(command)}: {said[-1] if said else 'failed'}")
    return json.loads(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a clip store")
    parser.add_argument("--trainer", default="target/release/trainer", help="the program")
    parser.add_argument("--backbone", choices=["resnet18", "resnet50"], default="resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side-px", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", default="off", help="off: both sides decode in every step; on: ours decodes once")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = Store(arguments.data, arguments.side_px, -(-arguments.side_px * 128 // 112))
    figures = {}
    for _ in range(arguments.rounds):
        for name, measure in [
            ("PyTorch fp32", lambda: pytorch(store, arguments, False, device)),
            ("ours fp32", lambda: ours(arguments, "f32")),
            ("PyTorch bf16 channels-last", lambda: pytorch(store, arguments, True, device)),
            ("ours bf16", lambda: ours(arguments, "bf16")),
        ]:
            for key, value in measure().items():
                figures.setdefault(name, {}).setdefault(key, []).append(value)
    median = {name: {key: statistics.median(values) for key, values in of.items()} for name, of in figures.items()}
    print(f"{arguments.backbone}, {arguments.side_px} px, {arguments.batch} pairs a step, {device.type}; views a second")
    for name, of in median.items():
        data = f"   data alone {of['data']:7.0f}   waiting {100 * of['wait_share']:.1f} %" if "data" in of else ""
        print(f"{name:>28}   whole {of['whole']:7.0f}   model alone {of['model']:7.0f}{data}")
    best = median["ours bf16"]["whole"]
    print(f"whole: {best / median['PyTorch fp32']['whole']:.2f} x PyTorch as it comes (fp32)")
    print(f"whole: {best / median['PyTorch bf16 channels-last']['whole']:.2f} x PyTorch in bf16 with channels-last")
    print(f"data alone: {median['ours bf16']['data'] / median['ours bf16']['model']:.1f} x what the model consumes")


if __name__ == "__main__":
    main()
