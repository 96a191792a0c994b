"""The catalogue against the facts: names, widths, class lists and the maps to the originals' ids."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from detectron2.data import MetadataCatalog

from twostage.config import load_config
from twostage.data.catalogue import benchmarks, class_list, class_list_hash, find_benchmark
from twostage.data.registration import register_catalogue
from twostage.data.views import dataset_info, dataset_view, registered_names, with_class_names
from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.vocabulary import Vocabulary

# Paper's name -> classes, ignore label, bits, pictures in val.
SIZES = {
    "COCO-171": (171, 255, 8, 5000),
    "A-150": (150, 255, 8, 2000),
    "A-847": (847, 65535, 16, 2000),
    "PC-59": (59, 255, 8, 5104),
    "PC-60": (60, 255, 8, 5104),
    "PC-459": (459, 65535, 16, 5104),
    "PAS-20": (20, 255, 8, 1449),
    "PAS-20b": (21, 255, 8, 1449),
    "VOC21": (21, 255, 8, 1449),
    "COCO-Object": (81, 255, 8, 5000),
    "Cityscapes": (19, 255, 8, 500),
    "COCO-Panoptic": (133, 255, 8, 5000),
}


@pytest.mark.parametrize(("paper", "facts"), SIZES.items())
def test_sizes(paper: str, facts: tuple[int, int, int, int]) -> None:
    benchmark = find_benchmark(paper)
    info = dataset_info(f"{benchmark.name}_val")
    assert (info.num_classes, info.ignore_label, info.label_bits, info.count) == facts
    assert info.num_classes == benchmark.num_labels
    assert paper in info.published


def test_every_registered_name_is_evaluable_and_consistent() -> None:
    for benchmark in benchmarks().values():
        for info in benchmark.infos():
            assert info.name in registered_names()
            assert dataset_info(info.name) == info
            checked = EvaluatedDataset.of(dataset_info(info.name))
            assert checked.class_names == info.class_names and checked.prompt_names == info.prompts
            assert len(Vocabulary.from_dataset(info.name)) == len(info.prompts) == len(info.prompt_to_class)
            assert set(info.prompt_to_class) == set(range(info.num_classes))
            assert info.ignore_label >= info.num_classes and info.ignore_label < 2**info.label_bits


def test_names_of_published_repositories() -> None:
    expected = {
        "coco_2017_train_stuff_all_sem_seg": ("coco_stuff", "train"),
        "coco_2017_test_stuff_sem_seg": ("coco_stuff", "val"),
        "ade20k_sem_seg_val": ("ade20k_150", "val"),
        "ade20k_full_sem_seg_freq_val_all": ("ade20k_847", "val"),
        "context_459_test_sem_seg": ("pascal_context_459", "val"),
        "pcontext_full_sem_seg_train": ("pascal_context_459", "train"),
        "pascalvoc20_sem_seg_val": ("pascal_voc_20", "val"),
        "voc_sem_seg_test": ("pascal_voc_20", "val"),
        "voc_2012_test_background_sem_seg": ("pascal_voc_20b", "val"),
        "openvocab_pascal21_sem_seg_val": ("pascal_voc_21", "val"),
        "voc_base_sem_seg_train": ("pascal_voc_base", "train"),
        "ade20k_panoptic_train": ("ade20k_150", "train"),
        "openvocab_ade20k_panoptic_val": ("ade20k_150", "val"),
        "coco_2017_val_panoptic_with_sem_seg": ("coco_panoptic", "val"),
        "openvocab_cityscapes_fine_panoptic_val": ("cityscapes", "val"),
    }
    for name, place in expected.items():
        info = dataset_info(name)
        assert (info.benchmark, info.split) == place
        assert find_benchmark(name.upper()).name == info.benchmark
    # Detectron2 uses these for detection.
    assert not {"voc_2012_train", "voc_2012_val"} & {i.name for b in benchmarks().values() for i in b.infos()}


def test_class_names_follow_the_registered_name() -> None:
    register_catalogue()
    assert MetadataCatalog.get("voc_sem_seg_val").stuff_classes[19] == "tv"
    assert MetadataCatalog.get("voc_2012_test_sem_seg").stuff_classes[19] == "tvmonitor"
    assert dataset_info("ade20k_sem_seg_val").class_names[6] == "road, route"
    assert dataset_info("ade20k_150_test_sem_seg").class_names[7] == "bed "
    assert Vocabulary.from_dataset("ade20k_150_test_sem_seg").names[7] == "bed"
    # OVSeg's own order is put into ours: only the one name differs.
    ours = dataset_info("context_59_test_sem_seg").class_names
    theirs = dataset_info("pascal_context_59_sem_seg_val").class_names
    assert [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b] == [("diningtable", "table")]


def test_variants_of_a_list() -> None:
    names = class_list("pascal_context_59")
    assert names.variant("scan").variant == "ovseg" and names.variant("odise").variant == "fcclip"
    assert names.variant("fcclip").synonyms[0] == ("aeroplane", "aeroplanes", "airplanes", "airplane")
    with pytest.raises(UserError, match=r"'cat-seg' do not exist for pascal_context_59 \(did you mean 'catseg'"):
        names.variant("cat-seg")
    # CAT-Seg cuts each of the 847 at the first comma; ten names then are no longer unique, so tables keep the long ones.
    info = with_class_names(dataset_info("ade20k_full_sem_seg_freq_val_all"), "catseg")
    assert len(set(info.prompts)) == 837 and len(set(info.class_names)) == 847
    assert info.class_names[1] == "building, edifice" and info.prompts[1] == "building"


def test_background_of_pas20b_is_everything_from_20_on() -> None:
    info = dataset_info("voc_2012_test_background_sem_seg")
    assert len(info.prompts) == 59 and info.num_classes == 21 and info.class_names[20] == "background"
    assert info.prompt_to_class == (*range(20), *[20] * 39)


def test_zero_shot_splits() -> None:
    info = dataset_info("coco_stuff_zero_shot_val")
    unseen = [info.class_names[c] for c in info.unseen]
    assert unseen[:3] == ["cow", "giraffe", "suitcase"] and unseen[-1] == "wall-concrete"
    assert len(info.seen) == 156 and not set(info.seen) & set(info.unseen)
    assert MetadataCatalog.get("coco_stuff_zero_shot_val").unseen_classes == list(info.unseen)
    # Who trains on all 171 has no unseen classes to report.
    assert MetadataCatalog.get("coco_stuff_val").get("unseen_classes", None) is None
    base = dataset_info("coco_stuff_base_train")
    assert base.num_classes == 156 and "cow" not in base.class_names
    assert base.class_names == tuple(info.class_names[c] for c in info.seen)
    assert base.image_root == dataset_info("coco_stuff_train").image_root
    assert dataset_info("voc_novel_sem_seg_test").class_names == (
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    )


def test_papers_test_sizes() -> None:
    assert dataset_info("ade20k_150_val").test_sizes["san"] == (640, 2560)
    assert dataset_info("ade20k_150_val").test_sizes["zsseg"] == (512, 2048)
    assert dataset_info("cityscapes_val").test_sizes["naclip"] == (560, 2048)
    assert dataset_info("coco_stuff_val").test_sizes["sclip"] == (448, 2048)


def test_folders_follow_the_root_and_other_layouts(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    info = dataset_info("coco_2017_test_stuff_all_sem_seg")
    assert info.label_root == tmp_path / "coco" / "stuffthingmaps_detectron2" / "val2017"
    theirs = tmp_path / "coco-stuff" / "annotations_detectron2" / "val2017"
    theirs.mkdir(parents=True)
    assert info.label_root == theirs


def test_class_names_by_config() -> None:
    """Two configs in one process don't disturb each other: what they change are values."""
    opts = ["DATASETS.TEST", "('voc_sem_seg_val','ade20k_150_val','toybox_val_open')", "DATASETS.CLASS_NAMES"]
    fcclip, auto = load_config(opts=[*opts, "fcclip"]), load_config(opts=[*opts, "auto"])
    info, plain = dataset_view(fcclip, "voc_sem_seg_val"), dataset_view(auto, "voc_sem_seg_val")
    assert info.names_variant == "fcclip" and info.class_names[19] == "tv"
    assert Vocabulary.of(info).names[19] == "tvmonitor, monitor, tv"
    assert class_list_hash(info.prompts) == info.class_hash != plain.class_hash
    assert EvaluatedDataset.of(info).prompt_names == info.prompts
    assert dataset_view(fcclip, "ade20k_150_val").prompts[0] == "wall, walls, brick wall, stone wall, interior wall"
    assert plain.prompts[19] == "tv" and plain == dataset_info("voc_sem_seg_val")
    assert Vocabulary.from_dataset("voc_sem_seg_val").names[19] == "tv"
    assert MetadataCatalog.get("voc_sem_seg_val").get("prompt_classes", None) is None
    # A set that is neither trained nor tested on keeps the names of who uses it.
    assert dataset_view(fcclip, "voc_2012_test_sem_seg") == dataset_info("voc_2012_test_sem_seg")
    with pytest.raises(UserError, match="'nobody' do not exist for pascal_voc_20"):
        dataset_view(load_config(opts=[*opts, "nobody"]), "voc_sem_seg_val")


def test_names_that_detectron2_took_are_kept() -> None:
    """Upstream registers `ade20k_sem_seg_val`: its function and metadata stay, what they lack is added."""
    code = """
import twostage
from detectron2.data import DatasetCatalog, MetadataCatalog
records = [{"file_name": "theirs.jpg"}]
if "ade20k_sem_seg_val" not in DatasetCatalog.list():
    DatasetCatalog.register("ade20k_sem_seg_val", lambda: records)
    MetadataCatalog.get("ade20k_sem_seg_val").set(image_root="theirs", evaluator_type="sem_seg", ignore_label=255)
from twostage.data.views import dataset_info, dataset_view, registered_names
before = dict(MetadataCatalog.get("ade20k_sem_seg_val").as_dict())
info = dataset_info("ade20k_sem_seg_val")
metadata = MetadataCatalog.get("ade20k_sem_seg_val")
assert all(metadata.get(key) == value for key, value in before.items())
assert metadata.info.num_classes == len(metadata.stuff_classes) == 150 and len(metadata.thing_ids) == 100
if metadata.image_root == "theirs":
    assert DatasetCatalog.get("ade20k_sem_seg_val") == info.records() == records
print("kept")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("kept"), done.stderr


def test_names_are_registered_on_demand_and_once() -> None:
    """Importing registers nothing; the first look-up does, by several threads at once too; a removed name stays removed."""
    code = """
from concurrent.futures import ThreadPoolExecutor
import twostage.data.loaders, twostage.vocabulary, twostage.evaluation.building, twostage.data.captions
from detectron2.data import DatasetCatalog
from twostage.data.views import dataset_info, find_info, registered_names
assert not any("toybox" in name or "cityscapes_val" in name for name in DatasetCatalog.list())
with ThreadPoolExecutor(8) as pool:
    assert len({info.class_hash for info in pool.map(dataset_info, 32 * ["toybox_val_open"])}) == 1
names = registered_names()
assert len(names) == len(set(names)) and "cc3m_captions" in names
DatasetCatalog.remove("toybox_train")
assert registered_names() == [name for name in names if name != "toybox_train"]
print("once")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("once"), done.stderr


def test_metadata_alone_is_a_dataset_of_other_code() -> None:
    MetadataCatalog.get("only_metadata").set(stuff_classes=["a", "b"], ignore_label=7, thing_ids=[1])
    try:
        info = dataset_info("only_metadata")
    finally:
        MetadataCatalog.remove("only_metadata")
    assert (info.class_names, info.ignore_label, info.prompt_things, info.images) == (("a", "b"), 7, (1,), ())
    assert info.records() == []
    MetadataCatalog.get("lacking").set(stuff_classes=["a"], evaluator_type="sem_seg")
    with pytest.raises(UserError, match="'lacking' has no 'ignore_label'"):
        dataset_info("lacking")
    MetadataCatalog.remove("lacking")


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(UserError, match=r"benchmark 'ade20k_149' is not known \(did you mean .*'ade20k_150'"):
        find_benchmark("ade20k_149")
    with pytest.raises(UserError, match=r"did you mean 'toybox_train'.*DATASETS\.FOLDERS"):
        dataset_info("toybox_trian")


def test_class_lists_equal_the_reference(reference) -> None:
    """Every list of the facts is there, name by name."""
    facts = json.loads((reference / "data" / "classes.json").read_text())
    pairs = [
        ("ade20k-150", "default", "ade20k_150", "catseg"),
        ("ade20k-150", "detectron2", "ade20k_150", "detectron2"),
        ("ade20k-150", "prompt_engineered", "ade20k_150", "fcclip"),
        ("ade20k-847", "default", "ade20k_847", "san"),
        ("ade20k-847", "prompt_engineered", "ade20k_847", "fcclip"),
        ("pascal-context-59", "default", "pascal_context_59", "san"),
        ("pascal-context-59", "prompt_engineered", "pascal_context_59", "fcclip"),
        ("pascal-context-459", "default", "pascal_context_459", "ovseg"),
        ("pascal-context-459", "catseg", "pascal_context_459", "sed"),
        ("pascal-context-459", "prompt_engineered", "pascal_context_459", "fcclip"),
        ("voc-20", "default", "pascal_voc_20", "catseg"),
        ("voc-20", "san", "pascal_voc_20", "san"),
        ("voc-20b", "default", "pascal_voc_20b", "catseg"),
        ("voc-20b", "voc21_prompt_engineered", "pascal_voc_21", "fcclip"),
        ("coco-stuff-171", "default", "coco_stuff", "zsseg"),
        ("coco-stuff-171", "prompt_engineered", "coco_stuff", "fcclip"),
    ]
    for benchmark, key, ours, system in pairs:
        names = [", ".join(name) if isinstance(name, list) else name for name in facts[benchmark][key]]
        assert list(class_list(ours).variant(system).names) == names, (benchmark, key)
    ovseg = class_list("pascal_context_59").variant("ovseg").names
    ids = [
        entry["id459"] for entry in json.loads((reference / "data/pascal_context_map.json").read_text())["classes59"]
    ]
    order = json.loads((reference / "data" / "pascal_context_map.json").read_text())["ovseg59_ids"]
    assert [ovseg[ids.index(i)] for i in order] == facts["pascal-context-59"]["ovseg"]


def test_panoptic_labels_are_declared_with_one_category_per_class() -> None:
    declared = {info.benchmark: info for b in benchmarks().values() for info in b.infos() if info.panoptic is not None}
    assert set(declared) == {"ade20k_150", "cityscapes", "coco_panoptic"}
    for info in declared.values():
        assert info.panoptic is not None
        assert len(set(info.panoptic.category_ids)) == len(info.panoptic.category_ids) == info.num_classes
        assert info.things, "panoptic quality tells things from stuff"
