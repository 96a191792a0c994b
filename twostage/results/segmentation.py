"""Which of the words each pixel shows, in the forms in which people need it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image
from torch import Tensor

from twostage.errors import UserError, near_names, shown
from twostage.files import write_text
from twostage.predictions.contrasted import masks_of
from twostage.predictions.prediction import Prediction, TopScores
from twostage.predictions.segments import panoptic_segments
from twostage.results import notebook, shapes
from twostage.results.coco import Part, coco_json
from twostage.results.formats import parse_formats
from twostage.results.panoptic import PanopticSegmentation
from twostage.results.saving import save_arrays, save_label_map, save_picture

# Names that a result tells in a line.
_TOLD = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Which of the names each pixel shows.

    Attributes:
        labels: int64 `[H, W]`, indices into `names`; -1 where it is none of them.
        names: the vocabulary.
        others: the contrast words that competed with the names; their pixels are -1.
        image: uint8 RGB `[H, W, 3]`.
        prediction: the system's own output, for scores or panoptic segments.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    image: np.ndarray
    prediction: Prediction
    others: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """In a line: arrays and the system's output would fill pages."""
        areas = self.areas()
        told = [f"{shown(name)} {100 * share:.1f} %" for name, share in [*areas.items()][:_TOLD]]
        told += [f"{len(areas) - _TOLD} more"] if len(areas) > _TOLD else []
        none = float((self.labels < 0).mean())
        told += [f"none of the words {100 * none:.1f} %"] if none else []
        rivals = f"; {len(self.others)} other words competed" if self.others else ""
        height, width = self.labels.shape
        return f"<Segmentation of {width} x {height} pixels into {len(self.names)} names: {', '.join(told)}{rivals}>"

    def mask(self, name: str) -> np.ndarray:
        """bool `[H, W]`: where `name` is.

        Raises:
            UserError: not in the vocabulary.
        """
        if name not in self.names:
            raise UserError(f"{name!r} is not in the vocabulary{near_names(name, self.names)}")
        # Published class lists may hold a name twice.
        return np.isin(self.labels, [index for index, other in enumerate(self.names) if other == name])

    def areas(self) -> dict[str, float]:
        """Share of the picture that each name covers, largest first; absent names are left out."""
        shares: dict[str, float] = {}
        for index, share in self._found():
            shares[self.names[index]] = shares.get(self.names[index], 0.0) + share
        return shares

    def _found(self) -> list[tuple[int, float]]:
        """Indices of the names that are in the picture and their shares of it, largest first."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.names))
        order = np.argsort(-counts, kind="stable")
        return [(int(i), float(counts[i] / self.labels.size)) for i in order if counts[i]]

    def masks(self) -> dict[str, np.ndarray]:
        """bool `[H, W]` of every name that is in the picture, largest first."""
        return {name: self.mask(name) for name in self.areas()}

    def boxes(self) -> dict[str, tuple[int, int, int, int]]:
        """(x, y, width, height) in pixels around every name that is in the picture, largest first."""
        return {name: shapes.box(mask) for name, mask in self.masks().items()}

    def polygons(self, *, tolerance: float = 0.0) -> dict[str, list[np.ndarray]]:
        """Rings `[N, 2]` of (x, y) around every name that is in the picture, and around its holes, largest name first.

        Args:
            tolerance: by how many pixels a ring may be simplified; 0 follows the pixels. See `twostage.results.shapes`.
        """
        return {name: shapes.outlines(mask, tolerance=tolerance) for name, mask in self.masks().items()}

    @overload
    def scores(self) -> Tensor: ...
    @overload
    def scores(self, *, top: int) -> TopScores: ...
    def scores(self, *, top: int | None = None) -> Tensor | TopScores:
        """Scores `[C, H, W]`, or only the `top` best of each pixel with their names' indices, without a map per class.

        They are what the system compares names by: probabilities, logits or similarities.

        Raises:
            UserError: `top` is less than 1 or more than there are names.
        """
        if top is not None and not 1 <= top <= len(self.names):
            raise UserError(f"top is {top!r}; it must lie between 1 and {len(self.names)}, the number of names")
        sizes = [(self.labels.shape[0], self.labels.shape[1])]
        return self.prediction.scores(sizes)[0] if top is None else self.prediction.top(sizes, top)[0]

    def overlay(self) -> np.ndarray:
        """uint8 RGB picture with the names painted over it and a legend."""
        from twostage.visualization.overlay import draw_segmentation

        return draw_segmentation(self.image, self.labels, self.names)

    def panoptic(self, things: Sequence[str], *, score_threshold: float = 0.8) -> PanopticSegmentation:
        """Segments that don't overlap: one per object of a name in `things`, one per other name.

        Raises:
            UserError: the system predicts no masks, or a thing is not in the vocabulary.
        """
        if not 0 <= score_threshold <= 1:
            raise UserError(f"score_threshold is {score_threshold!r}; it must lie between 0 and 1")
        masks = masks_of(self.prediction)
        if masks is None:
            raise UserError("panoptic segments need a system that predicts masks, such as SAN, Mask2Former or OVSeg")
        for name in things:
            if name not in self.names:
                raise UserError(f"thing {name!r} is not in the vocabulary{near_names(name, self.names)}")
        indices = [self.names.index(name) for name in things]
        ((ids, segments),) = panoptic_segments(masks, [self.labels.shape], indices, score_threshold=score_threshold)
        return PanopticSegmentation(ids=ids.cpu().numpy(), segments=tuple(segments), names=self.names, image=self.image)

    def to_coco(self, *, image_id: int = 1, file_name: str = "") -> dict[str, Any]:
        """COCO's json with an annotation per name that is in the picture; see `twostage.results.coco`."""
        parts = (Part(index, self.labels == index) for index, _ in self._found())
        size = (self.labels.shape[0], self.labels.shape[1])
        return coco_json(parts, self.names, size, image_id=image_id, file_name=file_name)

    def to_dict(self) -> dict[str, Any]:
        """All of it but the picture and the scores, of numbers, strings, lists and dicts, so that json takes it.

        `height`, `width`, `names`, `others` (contrast words), `none` (share that is none of the names) and `found`: per name
        in the picture `name`, `share`, `box` and `segmentation` (COCO's compressed run lengths), largest first.
        """
        found = []
        for index, share in self._found():
            mask = self.labels == index
            about = {"name": self.names[index], "share": share, "box": list(shapes.box(mask))}
            found.append({**about, "segmentation": shapes.rle(mask)})
        return {
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "names": list(self.names),
            "others": list(self.others),
            "none": float((self.labels < 0).mean()),
            "found": found,
        }

    def save(self, folder: str | Path, stem: str, *, format: str | Iterable[str] = "png") -> list[Path]:
        """Write what `format` names, one or several of `twostage.results.formats`; returns the paths.

        png: `<stem>_overlay.png` and `<stem>_labels.png`, indices into `names` (`twostage.results.saving.save_label_map`);
        coco: `<stem>_coco.json`; npz: `<stem>.npz` with `labels` and `names`.

        Raises:
            UserError: an unknown format, more names than a PNG can tell apart, or a folder that can't be written.
        """
        folder = Path(folder)
        paths = []
        for name in parse_formats(format):
            if name == "png":
                paths.append(save_picture(Image.fromarray(self.overlay()), folder / f"{stem}_overlay.png"))
                paths.append(save_label_map(self.labels, self.names, folder / f"{stem}_labels.png"))
            elif name == "coco":
                paths.append(folder / f"{stem}_coco.json")
                write_text(
                    paths[-1], json.dumps(self.to_coco(file_name=stem), ensure_ascii=False) + "\n", durable=False
                )
            else:
                paths.append(save_arrays(self.labels, self.names, folder / f"{stem}.npz"))
        return paths

    def _repr_png_(self) -> bytes:
        return notebook.png_bytes(self.overlay())

    def _repr_html_(self) -> str:
        return notebook.figure(self.overlay(), self.areas(), self.names)
