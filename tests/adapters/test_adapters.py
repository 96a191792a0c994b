"""What other tools are given says what the result says: written, read back, equal masks."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

import twostage
from twostage.adapters import cvat, label_studio, label_studio_pictures
from twostage.adapters.coco_panoptic import read_panoptic, write_panoptic
from twostage.adapters.fiftyone import FiftyOneModel
from twostage.adapters.labelme import from_labelme, write_labelme
from twostage.adapters.polygons import covered, simple_polygons
from twostage.adapters.supervision import to_supervision
from twostage.adapters.transformers import to_pipeline
from twostage.adapters.voc import voc_palette, write_voc
from twostage.adapters.yolo import from_yolo, to_yolo, write_yolo
from twostage.api import Segmenter
from twostage.data.toybox.dataset import plan_scenes, render
from twostage.errors import UserError
from twostage.results.panoptic import PanopticSegmentation
from twostage.results.segmentation import Segmentation

WORDS = ["grass", "sky", "water", "blue star", "sand"]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return twostage.load("toybox/maskclip", device="cpu", opts=["MODEL.CLIP.TEXT_CACHE", ""])


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    ((_, scene),) = render(plan_scenes(0, "open", 1), 0, "open")
    return scene.image


@pytest.fixture(scope="module")
def result(segmenter: Segmenter, picture: np.ndarray) -> Segmentation:
    """With pixels that are none of the words, and with holes."""
    found = segmenter(picture, WORDS, others=["mud", "red ring"])
    labels = found.labels.copy()
    labels[20:40, 30:60] = 0
    labels[25:35, 40:50] = -1
    labels[29, 44] = 3
    return dataclasses.replace(found, labels=labels)


@pytest.mark.parametrize("seed", range(4))
def test_polygons_without_holes_cover_the_same_pixels(seed: int) -> None:
    noise = np.random.default_rng(seed).random((40, 50))
    mask = cv2.GaussianBlur(noise, (0, 0), 0.7 * seed + 0.01) > 0.5
    rings = simple_polygons(mask)
    np.testing.assert_array_equal(covered(rings, mask.shape), mask)
    assert len(rings) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


@pytest.mark.parametrize("seed", range(4))
def test_readers_of_yolo_see_the_same_pixels(seed: int, result: Segmentation, tmp_path: Path) -> None:
    """As Ultralytics draws polygons, and as supervision reads them where it is installed; also single pixels and lines."""
    noise = np.random.default_rng(seed).random((41, 157))
    labels = np.digitize(cv2.GaussianBlur(noise, (0, 0), 0.5 * seed + 0.01), [0.4, 0.5, 0.55]) - 1
    labels[:2], labels[10], labels[20, 30:60] = -1, 3, 4
    labels[5:8, 5:8], labels[6, 6] = -1, 2
    odd = dataclasses.replace(result, labels=labels)
    drawn = np.full(labels.shape, -1)
    for line in to_yolo(odd).splitlines():
        index, *numbers = line.split()
        corners = (np.array(numbers, np.float32).reshape(-1, 2) * labels.shape[::-1]).astype(np.int32)
        part = np.zeros(labels.shape, np.uint8)
        cv2.fillPoly(part, [corners], 1)
        assert len(corners) >= 3 and (labels[part == 1] == int(index)).all()
        drawn[part == 1] = int(index)
    np.testing.assert_array_equal(drawn, labels)
    np.testing.assert_array_equal(from_yolo(to_yolo(odd), labels.shape), labels)
    supervision = pytest.importorskip("supervision", reason="needs supervision")
    (tmp_path / "images").mkdir()
    Image.new("RGB", labels.shape[::-1]).save(tmp_path / "images/a.png")
    write_yolo([("a.png", odd)], tmp_path, WORDS)
    folders = [str(tmp_path / name) for name in ("images", "labels", "data.yaml")]
    ((_, _, read),) = supervision.DetectionDataset.from_yolo(*folders, force_masks=True)
    found = np.full(labels.shape, -1)
    for mask, index in zip(read.mask, read.class_id, strict=True):
        found[mask] = index
    np.testing.assert_array_equal(found, labels)


def test_supervision(result: Segmentation) -> None:
    supervision = pytest.importorskip("supervision", reason="needs supervision")
    detections = to_supervision(result)
    assert isinstance(detections, supervision.Detections)
    assert detections.data["class_name"].tolist() == list(result.areas())
    for mask, name, (left, top, right, bottom) in zip(
        detections.mask, detections.data["class_name"], detections.xyxy, strict=True
    ):
        np.testing.assert_array_equal(mask, result.mask(name))
        x, y, width, height = result.boxes()[name]
        assert (left, top, right, bottom) == (x, y, x + width - 1, y + height - 1)
    assert (detections.confidence > 0).all() and len(to_supervision(panoptic(result)).class_id) == 2


def test_pipeline(result: Segmentation) -> None:
    entries = to_pipeline(result)
    assert [entry["label"] for entry in entries] == list(result.areas())
    for entry in entries:
        np.testing.assert_array_equal(np.asarray(entry["mask"]) == 255, result.mask(entry["label"]))
        assert 0 < entry["score"] <= 1


def test_pipeline_says_what_transformers_own_says(result: Segmentation, picture: np.ndarray) -> None:
    """A tiny model of theirs in their pipeline: the same keys, and masks of the same kind."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'sam'")
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=3
    )
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    size = {"height": 32, "width": 32}
    pipeline = transformers.pipeline(
        "image-segmentation", model=model, image_processor=transformers.SegformerImageProcessor(size=size)
    )
    theirs, ours = pipeline(Image.fromarray(picture)), to_pipeline(result)
    assert theirs and set(theirs[0]) == set(ours[0])
    for entry in (*theirs, *ours):
        assert isinstance(entry["label"], str) and entry["mask"].size == picture.shape[1::-1]
        assert entry["mask"].mode == "L" and set(np.unique(entry["mask"])) <= {0, 255}


def panoptic(result: Segmentation) -> PanopticSegmentation:
    ids = np.zeros(result.labels.shape, np.int32)
    ids[result.labels == 0], ids[result.labels == 3] = 300, 7
    segments = ({"id": 300, "category_id": 0, "isthing": False}, {"id": 7, "category_id": 3, "isthing": True})
    return PanopticSegmentation(ids=ids, segments=segments, names=result.names, image=result.image)


def test_coco_panoptic(result: Segmentation, tmp_path: Path) -> None:
    path = write_panoptic([("a.jpg", panoptic(result))], tmp_path, things=["blue star"])
    ids, classes = read_panoptic(path)["a.jpg"]
    np.testing.assert_array_equal(ids, panoptic(result).ids)
    assert classes == {300: 0, 7: 3}
    whole = json.loads(path.read_text())
    assert [entry["isthing"] for entry in whole["categories"]] == [0, 0, 0, 1, 0]
    with pytest.raises(UserError, match="there already"):
        write_panoptic([("a.jpg", panoptic(result))], tmp_path, things=[])
    with pytest.raises(UserError, match=r"thing 'blue stars' is not in the vocabulary .*'blue star'"):
        write_panoptic([("b.jpg", panoptic(result))], tmp_path / "other", things=["blue stars"])


def test_coco_is_read_by_pycocotools(result: Segmentation, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    path = tmp_path / "coco.json"
    path.write_text(json.dumps(result.to_coco(file_name="a.jpg")))
    coco = COCO(str(path))
    labels = np.full(result.labels.shape, -1)
    for entry in coco.loadAnns(coco.getAnnIds()):
        labels[coco.annToMask(entry).astype(bool)] = entry["category_id"] - 1
    np.testing.assert_array_equal(labels, result.labels)


def test_yolo(result: Segmentation, tmp_path: Path) -> None:
    np.testing.assert_array_equal(from_yolo(to_yolo(result), result.labels.shape), result.labels)
    paths = write_yolo([("photos/a.jpg", result)], tmp_path, WORDS)
    assert paths[1] == tmp_path / "labels/a.txt"
    assert yaml.safe_load(paths[0].read_text()) == {
        "train": "images",
        "val": "images",
        "names": dict(enumerate(WORDS)),
    }
    with pytest.raises(UserError, match="there already"):
        write_yolo([], tmp_path, WORDS)
    with pytest.raises(UserError, match="line 1 is no polygon"):
        from_yolo("0 0.1 0.2 0.3\n", (4, 4))


def test_yolo_holds_any_names(result: Segmentation, tmp_path: Path) -> None:
    names = ('it\'s "x"', "back\\slash", "a/b: #c", "no", "zero\u200cwidth", "sofa, couch", "草")
    odd = dataclasses.replace(result, names=names, labels=np.minimum(result.labels, 6))
    given = [*names[:5], "sofa,couch", names[6]]
    paths = write_yolo([("a.jpg", odd)], tmp_path, given)
    assert yaml.safe_load(paths[0].read_text(encoding="utf-8"))["names"] == dict(enumerate(given))
    # Lines hold numbers alone, so that other names would be taken for these; what is refused is not half a dataset.
    with pytest.raises(UserError, match=r"'b\.jpg' was segmented into other names"):
        write_yolo([("b.jpg", result)], tmp_path / "other", given)
    assert not (tmp_path / "other").exists()


def test_labelme(result: Segmentation, tmp_path: Path) -> None:
    path = write_labelme(result, tmp_path / "a.jpg")
    content = json.loads(path.read_text())
    assert path.name == "a.json" and content["imagePath"] == "a.jpg"
    np.testing.assert_array_equal(from_labelme(content, WORDS), result.labels)
    with pytest.raises(UserError, match="there already"):
        write_labelme(result, tmp_path / "a.png")


def test_voc(result: Segmentation, tmp_path: Path) -> None:
    path = write_voc(result, tmp_path / "a.png")
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture).astype(int) - 1, result.labels)
        assert picture.mode == "P" and picture.getpalette()[:6] == voc_palette()[:2].flatten().tolist()


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_of_cvat_and_label_studio(seed: int) -> None:
    mask = np.random.default_rng(seed).random((30, 70)) < (0.03, 0.5, 0.999)[seed]
    np.testing.assert_array_equal(cvat.mask_of(cvat.cvat_mask(mask), mask.shape), mask)
    np.testing.assert_array_equal(label_studio.mask_of(label_studio.brush_rle(mask), mask.shape), mask)
    large = np.zeros((300, 400), bool)
    np.testing.assert_array_equal(label_studio.mask_of(label_studio.brush_rle(large), large.shape), large)


def test_label_studio_reads_our_run_lengths(result: Segmentation) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="needs label-studio-sdk")
    mask = result.mask("grass")
    decoded = brush.decode_rle(label_studio.brush_rle(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(decoded[..., 3] > 0, mask)


def test_label_studio_backend(segmenter: Segmenter, picture: np.ndarray) -> None:
    server = label_studio.serve(label_studio.Backend(segmenter, "maskclip"), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG")
        data = {"photo": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"}
        labels = "".join(f'<Label value="{word}"/>' for word in WORDS)
        config = f'<View><Image name="img" value="$photo"/><BrushLabels name="tag" toName="img">{labels}</BrushLabels></View>'
        address = f"http://127.0.0.1:{server.server_port}"
        body = json.dumps({"tasks": [{"id": 1, "data": data}], "label_config": config}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{address}/predict", body)) as reply:
            (prediction,) = json.load(reply)["results"]
        with urllib.request.urlopen(f"{address}/health") as reply:
            assert json.load(reply)["status"] == "UP"
    finally:
        server.shutdown()
        server.server_close()
    expected = segmenter(picture, WORDS)
    assert [entry["value"]["brushlabels"][0] for entry in prediction["result"]] == list(expected.areas())
    for entry in prediction["result"]:
        assert (entry["from_name"], entry["to_name"]) == ("tag", "img")
        mask = label_studio.mask_of(entry["value"]["rle"], expected.labels.shape)
        np.testing.assert_array_equal(mask, expected.mask(entry["value"]["brushlabels"][0]))


def test_label_studio_answers_in_its_own_labels_and_says_what_is_wrong(
    segmenter: Segmenter, picture: np.ndarray
) -> None:
    backend = label_studio.Backend(segmenter, "maskclip")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    data = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    labels = (
        '<Label value="grass,lawn"/><Label value="sky"/><Label value="mud"/><Label value="sand"/><Label value="water"/>'
    )
    config = f'<View><Image name="i" value="$p"/><BrushLabels name="b" toName="i">{labels}</BrushLabels></View>'
    (found,) = backend.answer("/predict", {"label_config": config, "tasks": [{"data": {"p": data}}]})["results"]
    named = {entry["value"]["brushlabels"][0] for entry in found["result"]}
    expected = segmenter(picture, ["grass,lawn", "sky", "mud", "sand", "water"]).areas()
    assert named == {name.replace(", ", ",") for name in expected} and "grass,lawn" in named
    for task in ({}, {"data": {}}, {"data": {"p": None}}, None):
        with pytest.raises(UserError, match="no picture in its field 'p'"):
            backend.answer("/predict", {"label_config": config, "tasks": [task]})
    for request in ([], {"tasks": 5}):
        with pytest.raises(UserError, match="the request must be an object"):
            backend.answer("/predict", request)
    for address in ("data:image/png;base64,草", "ftp://a/b", "http://[", "http://a b"):
        with pytest.raises(UserError, match="picture"):
            label_studio_pictures.read_picture(address, label_studio_pictures.Origin())


@pytest.mark.parametrize(("key", "sent"), [("abc", "Token abc"), ("a.b.c", "Bearer short-lived")])
def test_uploads_are_fetched_from_label_studio(key: str, sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the key is told to nobody else, also where Label Studio sends the file's reader on."""
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            if self.path == "/data/upload/sent-on.png":
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{other.server_port}/storage.png")
                self.end_headers()
                return
            self._send(b"picture" if self.path.endswith(".png") else b"")

        def do_POST(self) -> None:
            assert json.loads(self.rfile.read(int(self.headers["Content-Length"]))) == {"refresh": key}
            self._send(b'{"access": "short-lived"}')

        def _send(self, content: bytes) -> None:
            self.send_response(200 if content else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    ours, other = servers
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{ours.server_port}"
    monkeypatch.setenv("LABEL_STUDIO_URL", f"{address}/")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", key)
    origin, read = label_studio_pictures.Origin.from_environment(), label_studio_pictures.read_picture
    try:
        for asked in ("/data/upload/1/a.png", f"{address}/data/upload/1/a.png", "/data/upload/sent-on.png"):
            assert read(asked, origin) == b"picture"
        assert read(f"http://127.0.0.1:{other.server_port}/b.png", origin) == b"picture"
        with pytest.raises(UserError, match="can't be fetched"):
            read("/data/upload/missing", origin)
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
    assert [header for path, header in seen if path.startswith("/data/")] == [sent] * 4
    assert [header for path, header in seen if not path.startswith("/data/")] == [None] * 2
    with pytest.raises(UserError, match="set LABEL_STUDIO_URL"):
        read("/data/upload/1/a.png", label_studio_pictures.Origin())


def test_cvat_function(segmenter: Segmenter, picture: np.ndarray) -> None:
    pytest.importorskip("cvat_sdk.auto_annotation", reason="needs cvat-sdk")
    function = cvat.CvatFunction(segmenter, WORDS)
    assert [label.name for label in function.spec.labels] == WORDS
    labels = np.full(picture.shape[:2], -1)
    for shape in function.detect(None, Image.fromarray(picture)):
        labels[cvat.mask_of(shape.points, labels.shape)] = shape.label_id
    np.testing.assert_array_equal(labels, segmenter(picture, WORDS).labels)


def test_fiftyone_model(segmenter: Segmenter, picture: np.ndarray) -> None:
    pytest.importorskip("fiftyone", reason="needs FiftyOne")
    model = FiftyOneModel(segmenter, WORDS)
    mask = model.predict(picture).mask
    np.testing.assert_array_equal(mask.astype(int) - 1, segmenter(picture, WORDS).labels)
    assert model.media_type == "image" and model.mask_targets[4] == "blue star"
