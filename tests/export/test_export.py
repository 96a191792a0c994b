"""A system as ONNX files: it says what torch says, at other sizes and class counts, and a file that does not is not kept."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import twostage
from twostage.clip.toybox.models import toybox_tokenizer
from twostage.commands import benchmark_runtimes
from twostage.commands import export as command
from twostage.commands.main import run
from twostage.commands.tool_arguments import benchmark_runtimes_parser
from twostage.errors import UserError
from twostage.export.comparison import Comparison, compare, toybox_pictures
from twostage.export.half import halve_weights
from twostage.export.network import _check_size
from twostage.export.text_tower import merges_of, tokenizer_of, tokenizer_rule
from twostage.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
WORDS = ["grass", "sky", "blue star, star", "water", "sand"]
CACHE = ["MODEL.CLIP.TEXT_CACHE", ""]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MaskCLIP as a file for any size; the command has compared it."""
    for module in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(module, reason="needs the extra 'export'")
    path = tmp_path_factory.mktemp("export") / "maskclip.onnx"
    run(["export", "--system", "toybox/maskclip", "--output", str(path), "--pictures", "2", *CACHE])
    return path


@pytest.mark.slow
def test_file_says_what_torch_says(exported: Path) -> None:
    from twostage.export.engine import load_onnx

    assert sorted(path.name for path in exported.parent.iterdir()) == ["maskclip.onnx", "maskclip.text.onnx"]
    engine, ours = load_onnx(exported), twostage.load("toybox/maskclip", device="cpu", opts=CACHE)
    pictures = toybox_pictures(6)[3:]
    result = compare(ours, engine, pictures=pictures, class_counts=(2, 17))
    result.check()
    assert result.sizes == 3
    # Contrast words take pixels from the file as they do from torch.
    one, other = (segmenter(pictures[0], ["blue star"], others=["grass", "sky"]) for segmenter in (ours, engine))
    assert (one.labels == other.labels).mean() > 0.999 and (one.labels < 0).any()
    about = engine.model.session.about
    assert about["card"]["name"] == about["system"] == "MaskCLIP" and about["licence"]["weights"] == "not stated"
    assert about["pixel_mean"] == pytest.approx([122.7709383, 116.7460125, 104.09373615]) and len(about["names"]) == 54


@pytest.mark.slow
def test_stand_alone_script_and_segment_agree(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, labels = tmp_path / "scene.png", tmp_path / "labels.png"
    Image.fromarray(toybox_pictures(2)[1]).save(picture)
    monkeypatch.setattr("sys.argv", ["run_onnx.py", str(exported), str(picture), "; ".join(WORDS), str(labels)])
    runpy.run_path(str(ROOT / "docs/run_onnx.py"), run_name="__main__")
    assert "grass: " in capsys.readouterr().out
    words = ["--words", "; ".join(WORDS), "--others", "none", "--format", "npz", "--output", str(tmp_path)]
    run(["segment", str(picture), *words, "--engine", "onnx", str(exported)])
    with np.load(tmp_path / "scene.npz") as found, Image.open(labels) as alone:
        assert (np.asarray(alone) == found["labels"]).mean() > 0.999
    with pytest.raises(UserError, match="no config overrides"):
        run(["segment", str(picture), *words, "--engine", "onnx", str(exported), "--set", *CACHE])
    with pytest.raises(UserError, match="is a text tower"):
        run(["segment", str(picture), *words, "--engine", "onnx", str(exported.with_name("maskclip.text.onnx"))])


@pytest.mark.slow
def test_weights_in_half_precision(exported: Path, tmp_path: Path) -> None:
    """Toybox' CLIP ships in half precision, so that nothing is lost; the file is a good half of the other."""
    import onnx

    from twostage.export.engine import load_onnx, text_file

    path = tmp_path / "half.onnx"
    for file, target in ((exported, path), (text_file(exported), text_file(path))):
        model = onnx.load(file)
        halve_weights(model)
        onnx.save(model, target)
    assert path.stat().st_size < 0.6 * exported.stat().st_size
    whole, half = (load_onnx(file)(toybox_pictures(2)[1], WORDS, others=None) for file in (exported, path))
    assert np.array_equal(whole.labels, half.labels) and torch.equal(whole.scores(), half.scores())


def test_weights_out_of_half_precisions_reach_stay() -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
    values = {"small": np.full((2, 3), 0.1, "f4"), "large": np.full((2, 3), 1e5, "f4"), "vector": np.ones(3, "f4")}
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "weights", [], [], weights))
    halve_weights(model)
    stored = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    assert sorted(stored) == ["large", "small.half", "vector"] and stored["small.half"].dtype == np.float16
    assert [(node.op_type, *node.input, *node.output) for node in model.graph.node] == [("Cast", "small.half", "small")]


def test_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def write(segmenter: Any, path: Path, **options: Any) -> None:
        asked.append(options["half"])
        for file in (path, path.with_name(f"{path.stem}.text.onnx")):
            file.write_bytes(b"wrong")

    wrong = Comparison(
        pictures=1, sizes=1, class_counts=(3,), score_difference=2e-3, equal_labels=1.0, worst_picture=1.0,
        seconds=(1.0, 1.0),
    )  # fmt: skip
    monkeypatch.setattr(command, "export", write)
    monkeypatch.setattr(command, "load_onnx", lambda path: None)
    monkeypatch.setattr(command, "compare", lambda *_, **__: wrong)
    words = ["export", "--system", "toybox/maskclip", "--output", str(tmp_path / "a.onnx")]
    for more in ([], ["--precision", "float16"]):
        with pytest.raises(UserError, match=r"scores by up to 0.002 \(allowed 0.001\).*not kept"):
            run([*words, *more, *CACHE])
    assert asked == [False, True] and not list(tmp_path.iterdir())


def test_nobody_elses_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
    monkeypatch.setattr(command, "export", lambda *_, **__: pytest.fail("it is written all the same"))
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "theirs", [], []))
    for name, content in (("a.onnx", foreign.SerializeToString()), ("a.text.onnx", b"notes"), ("a.onnx", None)):
        path = tmp_path / name
        path.mkdir() if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}' would be replaced, and twostage has not written it"):
            run(["export", "--system", "toybox/maskclip", "--output", str(tmp_path / "a.onnx"), *CACHE])
        assert [entry.name for entry in tmp_path.iterdir()] == [name]
        path.rmdir() if content is None else path.unlink()


def changed(source: Path, target: Path, change: Any) -> Path:
    """A copy of a network and its text tower; `change` is given the network's metadata."""
    import onnx

    from twostage.export.engine import text_file
    from twostage.export.session import METADATA

    text_file(target).write_bytes(text_file(source).read_bytes())
    model = onnx.load(source)
    about = json.loads(model.metadata_props[0].value)
    change(about)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about)})
    onnx.save(model, target)
    return target


@pytest.mark.slow
def test_files_that_are_damaged_or_do_not_belong_together(exported: Path, tmp_path: Path) -> None:
    from twostage.export.engine import load_onnx, text_file
    from twostage.export.session import is_exported

    assert is_exported(exported) and is_exported(text_file(exported))
    path = tmp_path / "a.onnx"
    for key, reason in (("form", "lacks form in"), ("pixel_mean", "lacks pixel_mean"), ("config", "lacks config")):
        with pytest.raises(UserError, match=reason):
            load_onnx(changed(exported, path, lambda about, key=key: about.pop(key)))
    for config in ("A: 1", "- 1", "MODEL: [", "MODEL:\n  CLIP: 3"):
        with pytest.raises(UserError, match="config of another version"):
            load_onnx(changed(exported, path, lambda about, config=config: about.update(config=config)))
    with pytest.raises(UserError, match="another system's text tower"):
        load_onnx(changed(exported, path, lambda about: about.update(text_tower="0" * 64)))
    # Of files from before it was written down nothing is said.
    load_onnx(changed(exported, path, lambda about: about.pop("text_tower")))
    text_file(path).write_bytes(exported.read_bytes())
    with pytest.raises(UserError, match=r"a\.text\.onnx' lacks merges"):
        load_onnx(path)
    path.write_bytes(exported.read_bytes()[:100_000])
    with pytest.raises(UserError, match="can't be read"):
        load_onnx(path)
    text_file(path).unlink()
    path.write_bytes(exported.read_bytes())
    with pytest.raises(UserError, match=r"a\.text\.onnx' does not exist"):
        load_onnx(path)


def test_weights_that_no_file_holds_are_said_before_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(1000, 1000)
    monkeypatch.setattr("twostage.export.network._LARGEST", 3_000_000)
    _check_size(network, half=True)
    with pytest.raises(UserError, match="less than 2; try --precision float16"):
        _check_size(network, half=False)
    monkeypatch.setattr("twostage.export.network._LARGEST", 1_000_000)
    with pytest.raises(UserError, match=r"less than 2$"):
        _check_size(network, half=True)


@pytest.mark.parametrize(
    ("system", "opts", "reason"),
    [
        ("toybox/ovseg", [], "OVSeg's masked crops"),
        ("toybox/segclip", [], "another number of tiles .* or set TEST.SLIDING.ENABLED False"),
        ("toybox/trident", [], "give --size HEIGHTxWIDTH$"),
        ("toybox/corrclip", [], "CorrClip is not exported: segments"),
        ("toybox/sed", ["TEST.EARLY_REJECTION.ENABLED", "True"], "computes all classes"),
        ("toybox/clip_surgery", [], "compare all names"),
    ],
)
def test_what_is_not_exported_says_why(system: str, opts: list[str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        run(["export", "--system", system, "--output", str(tmp_path / "a.onnx"), *CACHE, *opts])


def test_a_fixed_size_stretches_pictures() -> None:
    opts = [*CACHE, "INPUT.RESIZE_TEST", "stretch", "INPUT.SIZE_TEST", "(64, 96)"]
    segmenter = twostage.load("toybox/maskclip", device="cpu", opts=opts)
    assert segmenter.resized(np.zeros((50, 40, 3), np.uint8)).shape == (3, 64, 96)
    with pytest.raises(UserError, match=r"SIZE_TEST is \(0, 0\); a side has 1 to"):
        twostage.load("toybox/maskclip", device="cpu", opts=["INPUT.RESIZE_TEST", "stretch"])


def test_tokenizers_agree() -> None:
    """The one made of the merges, and the stand-alone script's."""
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    tokenizer = toybox_tokenizer()
    merges = merges_of(tokenizer)
    script = runpy.run_path(str(ROOT / "docs/run_onnx.py"))
    about = {**tokenizer_rule(tokenizer), "context_length": 32}
    for text in ("a photo of a striped blue star.", "Café au  lait", "cat's 2 ears, x_y!?", "sofa  & couch", "猫"):
        expected = tokenizer([text], context_length=32)[0].tolist()
        assert tokenizer_of(merges)([text], context_length=32)[0].tolist() == expected
        assert script["tokens"](text, about) == expected


@pytest.mark.slow
def test_runtimes_beside_torch(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = benchmark_runtimes_parser().parse_args(
        [str(exported), "--pictures", "1", "--repeats", "1", "--classes", "3", "--scale", "2"]
    )
    benchmark_runtimes.run_from_arguments(args)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows][:2] == ["torch", "onnxruntime"]
    # Nothing is random in MaskCLIP, so that both see the same.
    assert all(row[0] == "maskclip" and float(row[-2]) > 99.9 and float(row[2]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("split", "first", "rows"),
    [(True, True, "templates"), (True, False, "class"), (False, False, "class"), (True, True, "name")],
)
def test_the_script_reads_words_as_the_command_does(split: bool, first: bool, rows: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    classes = runpy.run_path(str(ROOT / "docs/run_onnx.py"))["classes"]
    rule = {"split_synonyms": split, "first_synonym": first, "rows": rows}
    for text in ("cat", "cat, dog", "cat; sofa, couch", "cat;sofa,couch, ;", " a  cat ; ;sofa , couch", "sofa,couch;"):
        groups = Vocabulary.parse(text).synonyms(split=split)
        expected = [group[:1] for group in groups] if first and rows != "name" else groups
        assert [tuple(group) for group in classes(text, rule)] == list(expected), text
    assert classes(" ; ", rule) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "depth", "said"),
    [
        (" ; ", 8, "no words are given"),
        ("grass", 16, "reads pictures of 8 bits"),
        (f"grass; {'star ' * 80}", 8, r"has \d+ tokens and the text tower takes 77"),
    ],
)
def test_what_the_script_does_not_take(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, depth: int, said: str
) -> None:
    pixels = toybox_pictures(1)[0]
    Image.fromarray(pixels if depth == 8 else pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "scene.png")
    monkeypatch.setattr(
        "sys.argv", ["run_onnx.py", str(exported), str(tmp_path / "scene.png"), words, str(tmp_path / "l.png")]
    )
    with pytest.raises(SystemExit, match=said):
        runpy.run_path(str(ROOT / "docs/run_onnx.py"), run_name="__main__")


def test_the_script_numbers_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    written = runpy.run_path(str(ROOT / "docs/run_onnx.py"))["written"]
    for count, kind in ((256, np.uint8), (257, np.uint16)):
        labels = np.arange(count)[None].repeat(2, 0)
        written(labels, count, str(tmp_path / "labels.png"))
        with Image.open(tmp_path / "labels.png") as found:
            assert np.array_equal(np.asarray(found), labels) and np.asarray(found).dtype == kind
