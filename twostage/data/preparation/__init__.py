"""Labels in our layout from the original downloads, and checks of what lies there.

`prepare` writes, `verify` checks; `tools/prepare_datasets.py` is their command line. One module per kind of original:

| module                | originals                                                                                          |
|-----------------------|----------------------------------------------------------------------------------------------------|
| `indexed.py`          | 8-bit maps whose values are looked up: COCO, ADE20K 150, PASCAL VOC, Cityscapes                    |
| `ade20k_full.py`      | ADE20K_2021_17_01: object ids in two colour channels, pictures reduced to a short edge of 512      |
| `pascal_context.py`   | .mat files of 459 ids, or trainval_merged.json                                                     |
| `colored.py`          | colour pictures in a folder of one's own, by the colours of its classes.json                       |
| `panoptic_recipes.py` | ADE20K's annotations_instance, Cityscapes' instanceIds, COCO's panoptic PNGs                       |
"""
