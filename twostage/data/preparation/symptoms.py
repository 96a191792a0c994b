"""From what label maps hold to what went wrong with them, in words."""

from __future__ import annotations

from collections.abc import Iterator

from twostage.data.catalogue import DatasetInfo
from twostage.data.catalogue.folders import black_and_white
from twostage.data.catalogue.label_ids import label_ids
from twostage.data.preparation.scanning import Totals, grey_of, voc_colors

# What most pixels of a photo collection show; tells label orders apart.
_COMMON = ("sky", "grass", "wall", "ground", "tree", "building", "floor", "water", "road")
# An order has to explain this much more of the pixels to be believed.
_CLEARLY = 0.1


def symptoms(info: DatasetInfo, totals: Totals) -> list[str]:
    """Everything that is wrong with a split's label maps, one sentence each."""
    return [
        *_wrong_kind(info, totals),
        *_wrong_values(info, totals),
        *_wrong_order(info, totals),
        *_own_labels(info, totals),
    ]


def _wrong_kind(info: DatasetInfo, totals: Totals) -> Iterator[str]:
    if totals.colored:
        known, cure = "no palette known here", "save the indices, not the picture of them"
        if totals.colors <= set(voc_colors()):
            known = "the colours of PASCAL VOC's palette"
        if info.colors is not None:
            others = len(totals.colors - set(info.colors))
            known = f"{others} of their colours are not in classes.json" if others else "the colours in classes.json"
            cure = f"`twostage prepare {info.benchmark}` makes them of the colours"
        yield (
            f"{len(totals.colored)} label maps are colour pictures ({known}), the first is '{totals.colored[0]}': labels hold "
            f"one class index per pixel; {cure}"
        )
    if info.label_bits == 16 and totals.only_eight_bits:
        yield (
            f"{len(totals.only_eight_bits)} label maps have 8 bits per pixel, the first is '{totals.only_eight_bits[0]}', but "
            f"{info.num_classes} classes and the ignore label {info.ignore_label} need 16: higher labels were cut off; "
            "prepare them again"
        )
    elif info.label_bits == 16 and totals.pixels and max(totals.pixels) <= 255:
        yield (
            f"no label is above 255, although there are {info.num_classes} classes: the labels went through 8 bits on their "
            "way; prepare them again from the originals"
        )
    if totals.other_size:
        yield f"{len(totals.other_size)} label maps have another size than their picture, the first: {totals.other_size[0]}"
    if info.short_edge and totals.largest_short_edge > info.short_edge:
        yield (
            f"labels have a short edge of up to {totals.largest_short_edge} pixels; published figures are measured with "
            f"pictures and labels reduced to {info.short_edge}; prepare them by `prepare {info.benchmark}`"
        )
    if totals.errors:
        yield f"{len(totals.errors)} files can't be read, the first: {totals.errors[0]}"


def _wrong_values(info: DatasetInfo, totals: Totals) -> Iterator[str]:
    classes, ignore = info.num_classes, info.ignore_label
    outside = sorted(value for value in totals.pixels if value >= classes and value != ignore)
    if not outside:
        yield from _shifted_within(info, totals)
        return
    where = f"the first file is '{totals.first_file[outside[0]]}'"
    greys = {grey_of(color) for color in voc_colors()[:21]} | {grey_of(voc_colors()[255])}
    if outside == [classes]:
        yield (
            f"labels are shifted by one: they hold {classes}, one more than the last class ({classes - 1}); they look like "
            f"the originals, where 0 is no class; {where}; subtract 1 (0 becomes {ignore}), as `prepare` does"
        )
    elif outside == [ignore - 1]:
        yield (
            f"labels are shifted by one too often: {ignore - 1} was the ignore label {ignore}; {where}; prepare them again "
            "from the originals"
        )
    elif info.benchmark == "coco_stuff" and set(outside) <= set(range(classes, 182)):
        yield (
            f"labels hold up to {outside[-1]}: these are the ids of the original stuffthingmaps (0..181), not the 171 "
            f"classes; {where}; run `prepare {info.benchmark}`"
        )
    elif len(totals.pixels) > 2 and set(totals.pixels) <= greys:
        yield (
            f"labels hold the grey levels of PASCAL VOC's colours ({_some(outside)}): a colour picture of the labels was "
            f"turned grey; {where}; take the palette indices instead"
        )
    else:
        yield (
            f"labels hold {_some(outside)}, but there are only the {classes} classes 0..{classes - 1} and {ignore} (ignore); "
            f"{where}; is it another class list, or were the labels not prepared?"
        )


def _own_labels(info: DatasetInfo, totals: Totals) -> Iterator[str]:
    """What is wrong with the labels of a folder of one's own; benchmarks are what they are."""
    if not info.is_own_folder or not totals.pixels:
        return
    if totals.other_palette and info.colors is None:
        value, file = next(iter(sorted(totals.other_palette.items())))
        yield (
            f"the palettes of the label maps differ ({value} is {list(totals.palette[value])} in one and another colour in "
            f"'{file}'): an image editor has numbered the colours anew in every file; give each class its 'color' in "
            f"classes.json and run `twostage prepare {info.benchmark}`"
        )
    if set(totals.pixels) == {0, info.ignore_label} and info.num_classes > 1:
        yield black_and_white(info)
        return
    if not info.split:
        yield from never_labelled(info, absent_classes(info, totals))
    if totals.mostly_ignored:
        yield (
            f"{len(totals.mostly_ignored)} of {totals.files} label maps are ignored nearly everywhere (over 90 % of pixels "
            f"hold {info.ignore_label}), the first is '{totals.mostly_ignored[0]}'; label them, leave them out, or make "
            "the unlabelled pixels a class"
        )


def absent_classes(info: DatasetInfo, totals: Totals) -> frozenset[int]:
    """The classes that no label map holds."""
    return frozenset(index for index in range(info.num_classes) if not totals.pixels[index])


def never_labelled(info: DatasetInfo, absent: frozenset[int]) -> Iterator[str]:
    """What it means that `absent` classes occur in no split of a folder of one's own."""
    if absent:
        names = _named([info.class_names[index] for index in sorted(absent)])
        yield (
            f"{len(absent)} of the {info.num_classes} listed classes never occur ({names}): the list is longer than the "
            "labels or in another order, or their numbers begin at 1; take out classes that nobody has labelled"
        )


def _named(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown}{', ...' if len(names) > 5 else ''}"


def _shifted_within(info: DatasetInfo, totals: Totals) -> Iterator[str]:
    """Shifts that leave all values inside the list."""
    if info.background is not None and totals.pixels:
        usual = totals.pixels.most_common(1)[0][0]
        other = 0 if info.background else 20
        if usual == other and totals.share(usual) > 0.5 and totals.share(info.background) < totals.share(usual) / 4:
            yield (
                f"background seems to be {usual} here, but {info.published[0]} wants it at {info.background}: the labels of "
                f"another protocol; run `prepare {info.benchmark}`"
            )
    present = [value for value in range(info.num_classes) if totals.pixels[value]]
    if info.num_classes > 2 and present == list(range(info.num_classes - 1)):
        yield (
            f"the last class, '{info.class_names[-1].strip()}', never occurs and all others do: labels may be shifted down by "
            "one; look at one picture with its labels"
        )


def _wrong_order(info: DatasetInfo, totals: Totals) -> Iterator[str]:
    """PASCAL-Context's 59 in OVSeg's order lie in the same folder as ours."""
    if info.benchmark != "pascal_context_59":
        return
    ours, theirs = label_ids("pascal_context_59"), label_ids("pascal_context_59_ovseg")
    common = [label for label, name in enumerate(info.class_names) if name.split(",")[0] in _COMMON]
    as_ours = sum(totals.share(label) for label in common)
    as_theirs = sum(totals.share(theirs.index(ours[label])) for label in common)
    if as_theirs > as_ours + _CLEARLY:
        yield (
            "labels are in OVSeg's and SCAN's order (VOC's 20 classes first), not in the ascending order of the ids that "
            "CAT-Seg, SAN and this catalogue use; prepare them again"
        )


def _some(values: list[int]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return f"the values {shown}{', ...' if len(values) > 5 else ''}"
