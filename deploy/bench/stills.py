#!/usr/bin/env python3
"""A page of stills of clips with what edge says of them, to look at.

    cargo build --release -p semblance-edge
    python3 -m venv venv && venv/bin/pip install pillow
    venv/bin/python deploy/bench/stills.py --out stills.html clips/*.mp4

Each clip gives --stills frames, evenly spread, with the box, the likeliest expressions and, where the bundle has the heads, valence,
arousal and the strongest action units. Where there is valence, it is correlated over the clips (means, ranks) with happiness less the
unpleasant expressions and with the smile (AU12), which were learnt from other labels. The page holds its pictures and needs nothing else; it holds people's faces: keep it to yourself.
"""
import argparse, base64, html, io, json, pathlib, statistics, subprocess

from PIL import Image, ImageDraw


def predictions(edge, bundle, clip):
    command = [edge, "run", "--source", clip, "--bundle", bundle, "--http", "off"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = {}
    for row in map(json.loads, lines):
        known = rows.get(row["frame"])
        if known is None or row["box"][2] > known["box"][2]:
            rows[row["frame"]] = row
    return rows


def still(clip, row, side):
    frame = subprocess.run(["ffmpeg", "-v", "error", "-i", clip, "-vf", f"select=eq(n\\,{row['frame']})", "-frames:v", "1",
                            "-f", "image2pipe", "-c:v", "png", "-"], check=True, capture_output=True).stdout
    picture = Image.open(io.BytesIO(frame)).convert("RGB")
    x, y, w, h = row["box"]
    ImageDraw.Draw(picture).rectangle([x, y, x + w, y + h], outline=(0, 220, 90), width=max(2, picture.width // 200))
    picture.thumbnail((side, side))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return base64.b64encode(out.getvalue()).decode()


def told(row):
    said = sorted(row["expression"]["p"].items(), key=lambda item: -item[1])[:3]
    lines = [", ".join(f"{name} {p:.2f}" for name, p in said)]
    if "valence" in row:
        lines.append(f"valence {row['valence']:+.2f}, arousal {row['arousal']:+.2f}")
    units = sorted(row.get("au", {}).items(), key=lambda item: -item[1])[:3]
    if units:
        lines.append(", ".join(f"{name} {p:.2f}" for name, p in units))
    return "<br>".join(html.escape(line) for line in lines)


def ranks(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    for rank, i in enumerate(order):
        ranks[i] = rank
    return ranks


def correlation(clips, left, right):
    """Spearman's, of the clips' means."""
    mean = lambda of: ranks([sum(map(of, rows)) / len(rows) for rows in clips])
    return statistics.correlation(mean(left), mean(right))


def pleasant(row):
    p = row["expression"]["p"]
    return p["happy"] - sum(p[name] for name in ("angry", "disgust", "fear", "sad"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--edge", default="target/release/edge")
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--stills", type=int, default=6)
    parser.add_argument("--side", type=int, default=240, help="longer side of a still, in pixels")
    args = parser.parse_args()
    read = []
    parts = [f"<!doctype html><meta charset=utf-8><title>Stills</title><style>body{{font:14px sans-serif}}figure{{display:inline-block;"
             f"margin:4px;width:{args.side}px;vertical-align:top}}img{{max-width:100%}}figcaption{{font-size:12px}}</style>"]
    for clip in args.clips:
        rows = predictions(args.edge, args.bundle, clip)
        parts.append(f"<h3>{html.escape(pathlib.Path(clip).name)}: a face in {len(rows)} frames</h3>")
        if rows:
            read.append(list(rows.values()))
        frames = sorted(rows)
        chosen = [frames[(2 * i + 1) * len(frames) // (2 * args.stills)] for i in range(args.stills)] if frames else []
        for row in (rows[frame] for frame in dict.fromkeys(chosen)):
            parts.append(f"<figure><img alt='' src='data:image/jpeg;base64,{still(clip, row, args.side)}'>"
                         f"<figcaption>{row['t']:.1f} s: {told(row)}</figcaption></figure>")
    args.out.write_text("\n".join(parts), encoding="utf-8")
    print(f"{args.out}: {len(args.clips)} clips")
    if len(read) > 2 and all("valence" in row for rows in read for row in rows):
        valence = lambda row: row["valence"]
        print(f"valence and happiness less unpleasant expressions: {correlation(read, valence, pleasant):+.2f} over {len(read)} clips")
        if all("AU12" in row.get("au", {}) for rows in read for row in rows):
            print(f"valence and smile (AU12): {correlation(read, valence, lambda row: row['au']['AU12']):+.2f}")


if __name__ == "__main__":
    main()
