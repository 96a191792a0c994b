"""Data loaders. What a training step sees depends on (seed, iteration, position in the batch) and on nothing else.

Samples are numbered through the whole run: sample `t * B + p` is at position `p` of the total batch of `B` images in
iteration `t`. The number alone decides which image it is and how it is augmented. So a run resumed at iteration `t`, a
run with other numbers of loader workers, and a run on several processes (rank r takes its contiguous share of every
total batch) all see the same samples.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

import twostage.data.registration  # noqa: F401
from twostage.data.caption_mapper import CaptionMapper
from twostage.data.caption_words import CaptionWords, with_captions
from twostage.data.captions import is_caption_set
from twostage.data.catalogue import dataset_info
from twostage.data.catalogue.folders import check_labels
from twostage.data.mapper import Record, SemanticTestMapper, SemanticTrainingMapper
from twostage.data.randomness import derive_seed, seeded_sampling
from twostage.errors import UserError

Mapper = Callable[[Record], Record]

logger = logging.getLogger(__name__)

# Where so many files in a row are broken, something else is wrong.
_MOST_SUBSTITUTES = 20


def check_dataset(name: str, *, panoptic: bool = False) -> None:
    """Check that the dataset `name` is registered and its folders exist, before anything heavy is built.

    Args:
        panoptic: whether its panoptic labels are needed, too.

    Raises:
        UserError: unknown name (with near ones), or folders missing (with the commands that help).
    """
    if name not in DatasetCatalog.list():
        dataset_info(name)  # says so, with near names
    if _missing_folder(name):
        # toybox writes itself when it is asked for.
        with contextlib.suppress(OSError, AssertionError, UserError):
            DatasetCatalog.get(name)
    folder = _missing_folder(name)
    if folder:
        info = MetadataCatalog.get(name).get("info", None)
        raise UserError(
            f"dataset '{name}': folder '{folder}' is missing; make it by `python tools/prepare_datasets.py prepare "
            f"{info.benchmark if info else name} --source DIR` (DETECTRON2_DATASETS names the folder of all datasets), "
            f"or try out on DATASETS.TRAIN \"('toybox_train',)\" DATASETS.TEST \"('toybox_val_open',)\""
        )
    info = MetadataCatalog.get(name).get("info", None)
    if info is not None:
        check_labels(info)
    if panoptic and info is not None:
        info.check_panoptic()


def _missing_folder(name: str) -> str | None:
    """The first of the dataset's folders that does not exist."""
    metadata = MetadataCatalog.get(name)
    info = metadata.get("info", None)
    if info is not None:
        # Asked anew, because DETECTRON2_DATASETS may have changed since the dataset was registered.
        folders = [info.image_root, info.label_root]
    else:
        folders = [metadata.get(key, None) for key in ("image_root", "sem_seg_root")]
    return next((str(folder) for folder in folders if folder and not Path(folder).is_dir()), None)


def dataset_records(name: str, *, skip_broken: bool = False, panoptic: bool = False) -> list[Record]:
    """The records of a dataset, each with its `dataset_name`.

    Args:
        skip_broken: labels without a picture, and with `panoptic` pictures without panoptic labels, are left out.
        panoptic: add `pan_seg_file_name` and `segments_info`; datasets registered by other code bring them themselves.

    Raises:
        UserError: see `check_dataset`; or the folders hold no images, or pictures are missing.
    """
    check_dataset(name, panoptic=panoptic)
    info = MetadataCatalog.get(name).get("info", None)
    try:
        broken: list[str] | None = [] if skip_broken and info is not None else None
        records = DatasetCatalog.get(name) if broken is None else info.records(broken=broken)
        if panoptic and info is not None:
            records = info.panoptic_records(records, broken=broken)
        for line in broken or ():
            logger.warning("Left out of '%s': %s", name, line)
    except (OSError, AssertionError) as error:  # load_sem_seg asserts that there are label files
        raise UserError(f"dataset '{name}' can't be listed: {' '.join(str(error).split())}") from error
    if not records:
        raise UserError(
            f"dataset '{name}' holds no images; look into '{MetadataCatalog.get(name).get('image_root', None)}'"
        )
    return [{**record, "dataset_name": name} for record in records]


def training_records(names: Sequence[str], *, skip_broken: bool = False) -> list[Record]:
    """The records of all training sets, in the order of `names`; `skip_broken` as in `dataset_records`.

    Raises:
        UserError: none given, or sets that do not share class list and ignore label.
    """
    if not names:
        raise UserError("DATASETS.TRAIN is empty; name a dataset, e.g. DATASETS.TRAIN \"('toybox_train',)\"")
    records = [record for name in names for record in dataset_records(name, skip_broken=skip_broken)]
    first = MetadataCatalog.get(names[0])
    if len({is_caption_set(name) for name in names}) > 1:
        raise UserError(
            f"DATASETS.TRAIN is {tuple(names)}: sets with captions and sets with labels don't mix; take one kind"
        )
    if is_caption_set(names[0]):
        return records
    for name in names[1:]:
        other = MetadataCatalog.get(name)
        if (_asked_for(other), other.ignore_label) != (_asked_for(first), first.ignore_label):
            raise UserError(
                f"DATASETS.TRAIN: '{name}' and '{names[0]}' differ in classes or ignore label; train on one"
            )
    return records


def _asked_for(metadata: Metadata) -> list[str]:
    return list(metadata.get("prompt_classes", None) or metadata.stuff_classes)


class SampleStream(Dataset[Record]):
    """Training samples by their number in the run; an endless sequence of shuffled epochs.

    Every epoch is a permutation of the records, drawn from (seed, epoch). Attribute `seed` may be set until the first
    sample is taken. With `skip_broken` another record, drawn from the number, stands in for one that can't be read; the
    reasons come along as `broken`.
    """

    def __init__(self, records: Sequence[Record], *, mapper: Mapper, seed: int, skip_broken: bool = False) -> None:
        self.records = records
        self.mapper = mapper
        self.seed = seed
        self.skip_broken = skip_broken

    def __getitem__(self, number: int) -> Record:
        epoch, place = divmod(number, len(self.records))
        index = _permutation(self.seed, epoch, len(self.records))[place]
        if not self.skip_broken:
            return self._sample(number, index)
        broken: list[str] = []
        while len(broken) < _MOST_SUBSTITUTES:
            try:
                return {**self._sample(number, index), "broken": broken}
            except UserError as error:
                broken.append(str(error))
                index = derive_seed("substitute", self.seed, number, len(broken)) % len(self.records)
        raise UserError(f"{len(broken)} files in a row are broken, the last: {broken[-1]}; check the dataset by verify")

    def _sample(self, number: int, index: int) -> Record:
        with seeded_sampling(derive_seed("sample", self.seed, number)):
            return self.mapper(self.records[index])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> list[int]:
    generator = torch.Generator().manual_seed(derive_seed("epoch", seed, epoch, size))
    return torch.randperm(size, generator=generator).tolist()


class SampleNumbers:
    """Batch sampler of one rank: the numbers of its samples, from iteration `start` on, endlessly."""

    def __init__(self, *, total_batch: int, rank: int, world_size: int) -> None:
        """
        Raises:
            UserError: the total batch does not divide into equal shares.
        """
        if total_batch % world_size:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH is {total_batch} for {world_size} processes; it is the batch of all together and "
                "must be a multiple of their number"
            )
        self.total_batch = total_batch
        self.share = total_batch // world_size
        self.rank = rank
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        iteration = self.start
        while True:
            first = iteration * self.total_batch + self.rank * self.share
            yield list(range(first, first + self.share))
            iteration += 1


class RecordLoader(DataLoader):
    """A DataLoader of lists of records in which a `UserError` of a worker process arrives as the one line it was."""

    def __init__(self, dataset: Dataset[Record], *, num_workers: int, **sampling: Any) -> None:
        super().__init__(
            dataset,
            num_workers=num_workers,
            collate_fn=_as_list,
            worker_init_fn=_single_threaded,
            generator=torch.Generator(),  # iterating must not draw from the global one
            **sampling,
        )

    def __iter__(self) -> Iterator[list[Record]]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            # torch wraps a worker's exception into the same type with the whole traceback as its text.
            marker = f"{UserError.__module__}.{UserError.__qualname__}: "
            text = str(error)
            if marker not in text:
                raise
            raise UserError(text.rsplit(marker, 1)[1].splitlines()[0]) from None


class TrainingLoader(RecordLoader):
    """Endless loader of this rank's share of every total batch.

    Attributes:
        broken: why records were left out, each once (`DATALOADER.SKIP_BROKEN`); they are logged when they turn up.
    """

    def __init__(self, stream: SampleStream, *, total_batch: int, num_workers: int) -> None:
        self.stream = stream
        self.numbers = SampleNumbers(total_batch=total_batch, rank=comm.get_rank(), world_size=comm.get_world_size())
        self.broken: list[str] = []
        super().__init__(stream, num_workers=num_workers, batch_sampler=self.numbers)

    def __iter__(self) -> Iterator[list[Record]]:  # type: ignore[override]
        for batch in super().__iter__():
            for record in batch:
                self._note(record.pop("broken", ()))
            yield batch

    def _note(self, broken: Sequence[str]) -> None:
        for line in broken:
            if line not in self.broken:
                self.broken.append(line)
                logger.warning("Skipped (%d so far): %s", len(self.broken), line)

    def start_at(self, *, iteration: int, seed: int) -> None:
        """Where the next `iter(loader)` begins, and the run's seed."""
        self.numbers.start = iteration
        self.stream.seed = seed


def _as_list(batch: list[Record]) -> list[Record]:
    return batch


def _single_threaded(worker: int) -> None:
    """Workers are the parallelism; OpenCV's own threads on top of them only get in each other's way."""
    import cv2

    cv2.setNumThreads(0)


class _MappedRecords(Dataset[Record]):
    """Records through a mapper; with `skip_broken` an unreadable one comes back with the error's text as `broken`."""

    def __init__(self, records: Sequence[Record], mapper: Mapper, *, skip_broken: bool) -> None:
        self.records = records
        self.mapper = mapper
        self.skip_broken = skip_broken

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        record = self.records[index]
        try:
            return self.mapper(record)
        except UserError as error:
            if not self.skip_broken:
                raise
            return {**record, "broken": str(error)}


def build_train_loader(cfg: CfgNode, mapper: Mapper | None = None) -> TrainingLoader:
    """Loader of `DATASETS.TRAIN` with total batch `SOLVER.IMS_PER_BATCH`; seed `max(SEED, 0)` until `start_at`.

    Images are not grouped by aspect ratio: training pads or crops to one size, and the order stays that of the numbers.
    """
    skip_broken = bool(cfg.DATALOADER.SKIP_BROKEN)
    records = DatasetFromList(training_records(cfg.DATASETS.TRAIN, skip_broken=skip_broken), copy=False)
    kind = CaptionMapper if is_caption_set(cfg.DATASETS.TRAIN[0]) else SemanticTrainingMapper
    mapper = mapper or kind.from_config(cfg)
    if cfg.DATASETS.CAPTIONS:
        records = DatasetFromList(with_captions(list(records), cfg.DATASETS.CAPTIONS), copy=False)
        mapper = CaptionWords(mapper, count=cfg.INPUT.CAPTIONS.WORDS)
    stream = SampleStream(records, mapper=mapper, seed=max(int(cfg.SEED), 0), skip_broken=skip_broken)
    return TrainingLoader(stream, total_batch=cfg.SOLVER.IMS_PER_BATCH, num_workers=cfg.DATALOADER.NUM_WORKERS)


def build_test_loader(
    cfg: CfgNode, name: str, mapper: Mapper | None = None, *, finished: Collection[str] = ()
) -> RecordLoader:
    """Loader of the test set `name`: batches of one, in order, this rank's contiguous part (`InferenceSampler`).

    With `TEST.SKIP_BROKEN` an image that can't be read comes as a record without `image`, but with the reason as `broken`.

    Args:
        mapper: default `SemanticTestMapper`.
        finished: `file_name` of images to leave out.
    """
    known = dataset_records(name, skip_broken=bool(cfg.TEST.SKIP_BROKEN), panoptic=bool(cfg.TEST.PANOPTIC))
    records = [record for record in known if record["file_name"] not in finished]
    mapped = _MappedRecords(
        DatasetFromList(records, copy=False),
        mapper or SemanticTestMapper.from_config(cfg),
        skip_broken=bool(cfg.TEST.SKIP_BROKEN),
    )
    # The sampler refuses to have nothing to do.
    sampler = InferenceSampler(len(records)) if records else []
    return RecordLoader(mapped, num_workers=cfg.DATALOADER.NUM_WORKERS, batch_size=1, sampler=sampler)
