"""Published figures: only what is known, in the same columns as our own; and which datasets a word means."""

from __future__ import annotations

import json
import re

import pytest

from twostage.commands.evaluate import published_figures, results_page
from twostage.errors import UserError
from twostage.evaluation.published import comparison_table, notes
from twostage.evaluation.selection import FIVE, published_name, select_datasets

# Of systems that are asked for the classes of other datasets than their own.
TRANSFER = [entry for entry in published_figures() if entry.setting == "transfer"]
FIVE_NAMES = [
    "ade20k_847_val",
    "pascal_context_459_val",
    "ade20k_150_val",
    "pascal_context_59_val",
    "pascal_voc_20_val",
]


# Systems that are younger than the table of all: their figures stand in their own facts.
OWN_FACTS = {"ERR-Seg": "errseg", "PCA-Seg": "pcaseg", "Mask-Adapter": "maskadapter"}


def test_only_high_confidence_is_shipped(reference) -> None:
    """Every figure of the facts file marked high is there with its source, and none that is not."""
    facts = json.loads((reference / "data" / "results.json").read_text())
    high = {
        (e["system"], e["variant"]): {c: e[c] for c in facts["columns"] if e.get(c) is not None}
        for e in facts["fully_supervised_masks"]
        if e.get("confidence") == "high"
    }
    tabled = [entry for entry in TRANSFER if entry.system not in OWN_FACTS]
    ours = {(e.system, e.variant): {c: v for c, v in e.miou.items() if c in facts["columns"]} for e in tabled}
    assert ours == high
    for entry in tabled:
        (fact,) = (
            e for e in facts["fully_supervised_masks"] if (e["system"], e["variant"]) == (entry.system, entry.variant)
        )
        assert entry.source and (entry.rule is None) == ("miou_rule" not in fact)
        assert entry.rule is None or fact["miou_rule"].startswith(entry.rule)
        assert entry.miou.get("PAS-21") == fact.get("PAS21") and entry.pq.get("A-150") == fact.get("A150_PQ")


@pytest.mark.parametrize(("system", "folder"), OWN_FACTS.items())
def test_figures_of_younger_systems_stand_in_their_facts(system: str, folder: str, reference) -> None:
    """A row of the card is a line of the facts: all its figures together."""
    lines = (reference / folder / "facts.md").read_text().splitlines()
    entries = [entry for entry in TRANSFER if entry.system == system]
    assert entries
    for entry in entries:
        assert any(all(re.search(rf"\b{value}\b", line) for value in entry.miou.values()) for line in lines), entry


def test_entries_are_well_formed() -> None:
    keys = [(entry.system, entry.variant, entry.train) for entry in published_figures()]
    assert len(keys) == len(set(keys))
    for entry in published_figures():
        assert entry.rule in ("gt-present", "pred-or-gt", None) and entry.source and entry.miou
        assert all(0 < value < 100 for value in [*entry.miou.values(), *entry.pq.values()])
        assert entry.setting != "transfer" or set(entry.miou) <= {*FIVE, "PAS-20b", "PAS-21"}


def test_only_transfer_is_compared() -> None:
    """MaskCLIP+ sees the benchmark's pictures, Mask2Former its labels: neither may stand beside the others."""
    page = results_page("Ours", {"ade20k_150_val": record(31.5, 31.25), "pascal_context_59_val": record(50, 50)})
    assert "| FC-CLIP" in page and "Mask2Former" not in page and "MaskCLIP" not in page
    assert {entry.setting for entry in published_figures()} > {"transfer", "supervised", "target images"}


def record(miou: float, other: float) -> dict:
    return {"figures": {"mIoU": miou, "mIoU-pred-or-gt": other, "mIoU-seen": None}}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_comparison_table() -> None:
    records = {"PC-459": record(20.123, 15.0), "toybox": record(1, 1), "A-150": record(30, 30)}
    table = comparison_table("Ours", records, TRANSFER)
    lines = [cells(line) for line in table.splitlines()]
    assert lines[0] == ["system", "variant", "trained on", "rule", "PC-459", "A-150", "source"]
    assert lines[2][0] == "**Ours**" and lines[2][3:6] == ["gt-present", "20.12", "30.00"]
    assert lines[3][3:6] == ["pred-or-gt", "15.00", "30.00"]
    rows = {(line[0], line[1]): line[3:6] for line in lines[4:]}
    assert rows["SAN", "ViT-B/16"] == ["pred-or-gt", "12.6", "27.5"]
    assert rows["CAT-Seg v2", "ViT-L/14 (336)"] == ["gt-present", "23.8", "37.9"]
    assert rows["ZegFormer", "R-50"] == ["not stated", "-", "16.4"]
    assert any(note.startswith("SAN, ViT-B/16: ") for note in notes(["PC-459"], TRANSFER))
    assert comparison_table("Ours", {"toybox": record(1, 1)}, TRANSFER) == ""


def test_results_page_names_benchmarks_as_papers_do() -> None:
    page = results_page("Ours", {"ade20k_150_val": record(31.5, 31.25), "toybox_val_open": record(40, 39)})
    assert "| ade20k_150_val  | 31.50 |" in page and "31.25" in page and "| toybox_val_open | 40.00 |" in page
    (ours,) = (cells(line) for line in page.splitlines() if line.startswith("| **Ours**") and "gt-present" in line)
    assert ours[4] == "31.50" and "toybox" not in page.split("## Beside published figures")[1]
    assert "Beside" not in results_page("Ours", {"toybox_val_open": record(40, 39)})


def test_words_for_datasets() -> None:
    assert select_datasets(["five"]) == FIVE_NAMES
    assert select_datasets(["A-150", "toybox_val_open", "ade20k_150_val", "voc_2012_test_sem_seg"]) == [
        "ade20k_150_val", "toybox_val_open", "voc_2012_test_sem_seg"
    ]  # fmt: skip
    everything = select_datasets(["all"])
    assert set(FIVE_NAMES) < set(everything) and "cityscapes_val" in everything and "pascal_voc_20b_val" in everything
    assert not any("train" in name or "toybox" in name for name in everything)
    with pytest.raises(UserError, match=r"'A-149' is not known"):
        select_datasets(["A-149"])
    with pytest.raises(UserError, match="no validation set"):
        select_datasets(["COCO-Stuff-156"])
    with pytest.raises(UserError, match="give names, 'five' or 'all'"):
        select_datasets([])


def test_names_in_papers() -> None:
    assert [published_name(name) for name in FIVE_NAMES] == list(FIVE)
    assert published_name("voc_2012_test_background_sem_seg") == "PAS-20b"
    assert published_name("ade20k_150_train") == published_name("toybox_val_open") == published_name("nowhere") == ""
