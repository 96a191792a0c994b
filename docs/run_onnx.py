"""Segment a picture with the files of `twostage export`, by onnxruntime, numpy and Pillow alone.

python run_onnx.py san.onnx photo.jpg "cat; sofa, couch" labels.png
"""

import html
import json
import re
import sys
from itertools import pairwise

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def load(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["twostage"])


def tokens(text, about):
    """CLIP's byte pairs: bytes as printable letters, then the merges in their order."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = shown + [b for b in range(256) if b not in shown]
    letter = {b: chr(b if b in shown else 256 + i - len(shown)) for i, b in enumerate(order)}
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(about["merges"])}
    ends = [letter[b] + end for end in ("", "</w>") for b in order]
    ids = {piece: i for i, piece in enumerate([*ends, *map("".join, ranks), "<start>", "<end>"])}
    found = [ids["<start>"]]
    text = " ".join(html.unescape(html.unescape(text)).split()).lower()
    for word in re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", text):
        parts = [letter[b] for b in word.encode()]
        parts[-1] += "</w>"
        while pairs := [p for p in pairwise(parts) if p in ranks]:
            best, joined = min(pairs, key=ranks.get), []
            while parts:
                step = 2 if tuple(parts[:2]) == best else 1
                joined.append("".join(parts[:step]))
                parts = parts[step:]
            parts = joined
        found += [ids[part] for part in parts]
    return [*found, ids["<end>"], *[0] * (about["context_length"] - len(found) - 1)]


def text_rows(groups, rule, session, about):
    """Unit embeddings of the names in `groups`, or of the groups where classes have one row."""
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    prompts = [tokens(t.format(name), about) for group in groups for name in group for t in rule["templates"]]
    x = session.run(None, {"tokens": np.array(prompts)})[0]
    x = x.reshape(-1, len(rule["templates"]), x.shape[-1])
    x = unit(x) if rule["unit_prompts"] or rule["rows"] == "templates" else x
    x = x if rule["rows"] == "templates" else unit(x.mean(1))
    starts = np.cumsum([0, *map(len, groups)])[:-1]
    return x if rule["rows"] == "name" else unit(np.add.reduceat(x, starts))


def resize(maps, size):
    """Bilinear, pixel centres, without smoothing."""
    for axis, length in ((-2, size[0]), (-1, size[1])):
        at = np.clip((np.arange(length) + 0.5) * maps.shape[axis] / length - 0.5, 0, maps.shape[axis] - 1)
        low = np.floor(at).astype(int)
        share = (at - low).astype("f4").reshape((-1, 1) if axis == -2 else -1)
        high = np.minimum(low + 1, maps.shape[axis] - 1)
        maps = maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share
    return maps


def scores(network, about, picture, rows, groups):
    """Scores `[C, H, W]` at the picture's size, on the scale by which the system compares classes."""
    rule, form, (width, height) = about["size_rule"], about["form"], picture.size
    if form.get("tile") or form.get("pamr_steps") or form.get("views") == "tiles" or rule["resize"] == "opencv":
        sys.exit("sliding windows, PAMR and OpenCV's resize are not in this script: twostage segment --engine onnx")
    scale = min(rule["short"] / min(width, height), rule["long"] / max(width, height))
    fed = tuple(rule["size"]) if rule["resize"] == "stretch" else (int(height * scale + 0.5), int(width * scale + 0.5))
    x = np.asarray(picture.resize(fed[::-1], Image.Resampling.BILINEAR), "f4")
    x = ((x - np.array(about["pixel_mean"], "f4")) / np.array(about["pixel_std"], "f4")).transpose(2, 0, 1)
    unit = max(1, about["size_divisibility"]) if about["reads_padding"] else 1
    x = np.pad(x, ((0, 0), (0, -fed[0] % unit), (0, -fed[1] % unit)))
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    trained = np.array([not set(group).isdisjoint(form.get("train_names", ())) for group in groups])
    inputs = {"image": x[None], "text": rows.astype("f4"), "classes": owner, "seen": trained}
    wanted = {entry.name for entry in network.get_inputs()}
    out = network.run(None, {name: value for name, value in inputs.items() if name in wanted})
    size = (height, width)
    if about["kind"] == "masks":
        maps = resize(out[0], x.shape[1:])[:, : fed[0], : fed[1]]
        maps = 1 / (1 + np.exp(-(maps if form["resize_scores"] else resize(maps, size))))
        return resize(np.tensordot(out[1].T, maps, 1), size)
    if about["kind"] == "dense":
        return resize(1 / (1 + np.exp(-out[0][0])), size)
    maps, patch = out[0], form["patch"]
    missing = [0 if form["padding"] == "none" else -side % p for side, p in zip(fed, patch, strict=True)]
    top, left = (m // 2 if form["padding"] == "centre" else 0 for m in missing)
    if form["padding"] == "centre":
        maps = resize(maps, (fed[0] + missing[0], fed[1] + missing[1]))[:, top : top + fed[0], left : left + fed[1]]
    elif form["through_canvas"]:
        maps = resize(maps, fed)
    maps = np.exp(
        form["rule"]["logit_scale"] * (maps := resize(maps, size)) - form["rule"]["logit_scale"] * maps.max(0)
    )
    per_name = maps / maps.sum(0)
    return (
        per_name
        if len(maps) == len(groups)
        else np.maximum.reduceat(per_name, np.searchsorted(owner, range(len(groups))))
    )


if __name__ == "__main__":
    network, about = load(sys.argv[1])
    tower, about_text = load(sys.argv[1].removesuffix(".onnx") + ".text.onnx")
    names = [name.strip() for name in sys.argv[3].split(";")]
    split = about["text"]["split_synonyms"] or about["text"]["rows"] == "name"
    groups = [name.split(", ") if split else [name] for name in names]
    picture = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
    labels = scores(network, about, picture, text_rows(groups, about["text"], tower, about_text), groups).argmax(0)
    Image.fromarray(labels.astype("u1")).save(sys.argv[4])
    for index, name in enumerate(names):
        print(f"{name}: {100 * (labels == index).mean():.1f} %")
