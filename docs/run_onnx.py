"""Run the files of `twostage export` without torch: run_onnx.py san.onnx photo.jpg "cat; sofa, couch" labels.png"""

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
    """CLIP's byte pairs: the pieces of a word are joined in the order of the merges."""
    ids, ranks = ({key: at for at, key in enumerate(about[name])} for name in ("pieces", "merges"))
    found = [ids["<start_of_text>"]]
    for word in re.findall(about["word"], text.lower()):
        parts = [about["letters"][byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while pairs := [(ranks[p], at) for at, p in enumerate(map(" ".join, pairwise(parts))) if p in ranks]:
            at = min(pairs)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found += [ids[part] for part in parts]
    if len(found) >= about["context_length"]:
        sys.exit(f"'{text}' has {len(found) + 1} tokens and the text tower takes {about['context_length']}: shorten it")
    return [*found, ids["<end_of_text>"], *[0] * (about["context_length"] - len(found) - 1)]


def classes(text, rule):
    """Names of each class, as `twostage segment --words` reads them: behind semicolons, or where there is none commas."""
    words = [[" ".join(part.split()) for part in word.split(",")] for word in text.split(";" if ";" in text else ",")]
    words = [found for word in words if (found := [part for part in word if part])]
    groups = words if rule["split_synonyms"] else [[", ".join(word)] for word in words]
    return [group[:1] for group in groups] if rule["first_synonym"] and rule["rows"] != "name" else groups


def embed(groups, rule, tower, about):
    """Rows of the text input `[N, D]`, or `[C, P, D]`, for classes that are groups of names."""
    unit = lambda x: x if rule.get("plain") else x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    prompts = [tokens(t.format(name), about) for group in groups for name in group for t in rule["templates"]]
    x = tower.run(None, {"tokens": np.array(prompts)})[0].reshape(-1, len(rule["templates"]), about["dimension"])
    x = unit(x) if rule["unit_prompts"] else x
    x = x if rule["rows"] == "templates" else unit(x.mean(1))
    return x if rule["rows"] == "name" else unit(np.add.reduceat(x, np.cumsum([0, *map(len, groups)])[:-1]))


def resize(maps, size):
    """`[N, *size]` of `[N, h, w]`: bilinear, pixel centres, without smoothing."""
    way = (tuple(size)[::-1], Image.Transform.EXTENT, (0, 0, *maps.shape[:0:-1]), Image.Resampling.BILINEAR)
    return np.stack([Image.fromarray(part).transform(*way) for part in maps.astype("f4")])


def scores(picture, groups, rows, network, about):
    """Scores `[C, H, W]` at the picture's size, on the scale by which the system compares classes."""
    rule, form, size = about["size_rule"], about["form"], picture.size[::-1]
    scale = min(rule["short"] / min(size), rule["long"] / max(size))
    fed = rule["size"] if rule["resize"] == "stretch" else [int(side * scale + 0.5) for side in size]
    x = (picture.resize(fed[::-1], Image.Resampling.BILINEAR) - np.array(about["pixel_mean"])) / about["pixel_std"]
    x = np.pad(x.transpose(2, 0, 1), [(0, 0), *((0, -side % about["pad_to"]) for side in fed)])
    owner = np.repeat(range(len(groups)), list(map(len, groups)) if about["text"]["rows"] == "name" else 1)
    seen = [not set(group).isdisjoint(form.get("train_names", ())) for group in groups]
    inputs = {"image": x[None].astype("f4"), "text": rows, "classes": owner, "seen": np.array(seen)}
    out = network.run(None, {entry.name: inputs[entry.name] for entry in network.get_inputs()})
    maps = out[0].reshape(-1, *out[0].shape[-2:])
    if canvas := form["canvas"]:
        extra = [-side % unit for side, unit in zip(fed, canvas["multiple"], strict=True)]
        top, left = (side // 2 if canvas["centred"] else 0 for side in extra)
        maps = resize(maps, np.add(fed, extra).tolist())[:, top : top + fed[0], left : left + fed[1]]
    if about["kind"] == "names":
        maps = np.exp(form["rule"]["logit_scale"] * (resize(maps, size) - 1))
        return np.maximum.reduceat(maps / maps.sum(0), np.searchsorted(owner, range(len(groups))))
    maps = 1 / (1 + np.exp(-(resize(maps, size) if form["sigmoid_at_output"] else maps)))
    maps = resize(np.tensordot(out[1].T, maps, 1) if about["kind"] == "masks" else maps, size)
    if "kept" in about["outputs"]:
        every = np.full((len(groups), *size), form["rejected"])
        every[out[1][0]] = maps
        return every
    return maps


def written(labels, count, path):
    """A grey picture of the numbers of `count` classes, of 16 bits where a byte does not hold them."""
    Image.fromarray(labels.astype("u1" if count <= 256 else "u2")).save(path)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    network, about = load(sys.argv[1])
    if about["outside"]:
        sys.exit(f"this script lacks {', '.join(about['outside'])}: use twostage segment --engine onnx")
    groups = classes(sys.argv[3], about["text"])
    if not groups:
        sys.exit("no words are given")
    if about["form"].get("background_rule") and groups[0][0].lower() == "background":
        sys.exit("this file has a rule of its own for a class 'background': use twostage segment --engine onnx")
    picture = ImageOps.exif_transpose(Image.open(sys.argv[2]))
    if picture.mode[0] in "IF":
        sys.exit("this script reads pictures of 8 bits: use twostage segment --engine onnx")
    tower, about_text = load(sys.argv[1].removesuffix(".onnx") + ".text.onnx")
    if about["text_tower"] != about_text["text_tower"]:
        sys.exit("the two files are not of one export")
    rows = embed(groups, about["text"], tower, about_text)
    labels = scores(picture.convert("RGB"), groups, rows, network, about).argmax(0)
    written(labels, len(groups), sys.argv[4])
    print(*(f"{', '.join(group)}: {(labels == at).mean():.1%}" for at, group in enumerate(groups)), sep="\n")
