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
from detectron2.data import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from twostage.data.caption_mapper import CaptionMapper
from twostage.data.caption_words import CaptionWords, with_captions
from twostage.data.captions import CAPTIONS
from twostage.data.catalogue import DatasetInfo
from twostage.data.catalogue.folders import check_labels
from twostage.data.mapper import Record, SemanticTestMapper, SemanticTrainingMapper
from twostage.data.randomness import derive_seed, seeded_sampling
from twostage.data.segment_targets import PanopticTrainingMapper
from twostage.data.views import dataset_view, evaluated_view
from twostage.errors import UserError, find_user_error
from twostage.vocabulary import Vocabulary

Mapper = Callable[[Record], Record]

logger = logging.getLogger(__name__)

# Where so many files in a row are broken, something else is wrong.
_MOST_SUBSTITUTES = 20


def check_dataset(info: DatasetInfo, *, panoptic: bool = False) -> None:
    """Check that a dataset's folders exist, before anything heavy is built.

    Args:
        panoptic: whether its panoptic labels are needed, too.

    Raises:
        UserError: folders missing (with the commands that help), or labels that are colour pictures.
    """
    if _missing_folder(info):
        # toybox writes itself when it is asked for.
        with contextlib.suppress(OSError, AssertionError, UserError):
            info.records()
    folder = _missing_folder(info)
    if folder:
        raise UserError(
            f"dataset '{info.name}': folder '{folder}' is missing; {info.cure}, or try out on DATASETS.TRAIN "
            "\"('toybox_train',)\" DATASETS.TEST \"('toybox_val_open',)\""
        )
    check_labels(info)
    if panoptic:
        info.check_panoptic()


def _missing_folder(info: DatasetInfo) -> Path | None:
    """The first of the dataset's folders that does not exist; datasets of other code may name none."""
    roots = [info.image_root for _ in info.images[:1]] + [info.label_root for _ in info.labels[:1]]
    return next((root for root in roots if not root.is_dir()), None)


def dataset_records(info: DatasetInfo, *, skip_broken: bool = False, panoptic: bool = False) -> list[Record]:
    """The records of a dataset.

    Args:
        skip_broken: labels without a picture, and with `panoptic` pictures without panoptic labels, are left out.
        panoptic: add `pan_seg_file_name` and `segments_info`; datasets registered by other code bring them themselves.

    Raises:
        UserError: see `check_dataset`; or the folders hold no images, or pictures are missing.
    """
    check_dataset(info, panoptic=panoptic)
    broken: list[str] | None = [] if skip_broken else None
    try:
        records = info.records(broken=broken)
        if panoptic:
            records = info.panoptic_records(records, broken=broken)
    except (OSError, AssertionError) as error:  # load_sem_seg asserts that there are label files
        raise UserError(f"dataset '{info.name}' can't be listed: {' '.join(str(error).split())}") from error
    for line in broken or ():
        logger.warning("Left out of '%s': %s", info.name, line)
    if not records:
        raise UserError(f"dataset '{info.name}' holds no images; look into its folders {', '.join(info.images)}")
    return records


def training_records(sets: Sequence[DatasetInfo], *, skip_broken: bool = False, panoptic: bool = False) -> list[Record]:
    """The records of all training sets, in their order; `skip_broken` and `panoptic` as in `dataset_records`.

    Raises:
        UserError: none given, the same set under two names, or sets that do not share class list and ignore label.
    """
    if not sets:
        raise UserError("DATASETS.TRAIN is empty; name a dataset, e.g. DATASETS.TRAIN \"('toybox_train',)\"")
    for info in sets:
        if info.unseen and info.is_own_folder:
            logger.warning(
                "DATASETS.TRAIN: '%s' has labels of its %d unseen classes, which are learnt; '%s_seen' leaves them out",
                info.name,
                len(info.unseen),
                info.name,
            )
    lists = [dataset_records(info, skip_broken=skip_broken, panoptic=panoptic) for info in sets]
    if len(sets) > 1:
        _check_apart(sets, lists)
    first = sets[0]
    for other in sets[1:]:
        if (other.kind == CAPTIONS) != (first.kind == CAPTIONS):
            names = tuple(info.name for info in sets)
            raise UserError(
                f"DATASETS.TRAIN is {names}: sets with captions and sets with labels don't mix; take one kind"
            )
        if (other.prompts, other.ignore_label) != (first.prompts, first.ignore_label):
            raise UserError(
                f"DATASETS.TRAIN: '{other.name}' and '{first.name}' differ in classes or ignore label; train on one"
            )
    return [record for listed in lists for record in listed]


def _check_apart(sets: Sequence[DatasetInfo], lists: Sequence[list[Record]]) -> None:
    """UserError where two training sets are the same pictures and labels under two names, and so would weigh double."""
    known: dict[frozenset[tuple[str, str]], str] = {}
    for info, records in zip(sets, lists, strict=True):
        files = frozenset(
            (str(r.get("file_name")), str(r.get("sem_seg_file_name") or r.get("caption"))) for r in records
        )
        if files in known:
            raise UserError(
                f"DATASETS.TRAIN: '{known[files]}' and '{info.name}' are the same pictures and labels; name one of them"
            )
        known[files] = info.name


def entry_facts(info: DatasetInfo) -> Record:
    """What every batch entry of a dataset carries (`twostage.batch`): `vocabulary`, and where it is known `things`."""
    facts: Record = {"vocabulary": Vocabulary.of(info)} if info.prompts else {}
    return facts if info.things is None else {**facts, "things": info.prompt_things}


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
    """A DataLoader of lists of records in which a `UserError` of a worker process arrives as the one line it was.

    Args:
        facts: entries that all records share. They are added here, so that workers need not send them.
    """

    def __init__(self, dataset: Dataset[Record], *, num_workers: int, facts: Record, **sampling: Any) -> None:
        self.facts = facts
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
            for batch in super().__iter__():
                yield [{**record, **self.facts} for record in batch]
        except UserError as error:
            known = find_user_error(error)
            if known is error or known is None:
                raise
            raise known from None


class TrainingLoader(RecordLoader):
    """Endless loader of this rank's share of every total batch.

    Attributes:
        broken: why records were left out, each once (`DATALOADER.SKIP_BROKEN`); they are logged when they turn up.
    """

    def __init__(self, stream: SampleStream, *, total_batch: int, num_workers: int, facts: Record) -> None:
        self.stream = stream
        self.numbers = SampleNumbers(total_batch=total_batch, rank=comm.get_rank(), world_size=comm.get_world_size())
        self.broken: list[str] = []
        super().__init__(stream, num_workers=num_workers, facts=facts, batch_sampler=self.numbers)

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
    sets = [dataset_view(cfg, name) for name in cfg.DATASETS.TRAIN]
    by_segment = cfg.INPUT.TARGET_MASKS == "segment"
    records = DatasetFromList(training_records(sets, skip_broken=skip_broken, panoptic=by_segment), copy=False)
    with_masks = PanopticTrainingMapper if by_segment else SemanticTrainingMapper
    kind = CaptionMapper if sets[0].kind == CAPTIONS else with_masks
    mapper = mapper or kind.from_config(cfg)
    if cfg.DATASETS.CAPTIONS:
        records = DatasetFromList(with_captions(list(records), cfg.DATASETS.CAPTIONS), copy=False)
        mapper = CaptionWords(mapper, count=cfg.INPUT.CAPTIONS.WORDS)
    stream = SampleStream(records, mapper=mapper, seed=max(int(cfg.SEED), 0), skip_broken=skip_broken)
    return TrainingLoader(
        stream,
        total_batch=cfg.SOLVER.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        facts=entry_facts(sets[0]),
    )


def build_test_loader(
    cfg: CfgNode, name: str, mapper: Mapper | None = None, *, finished: Collection[str] = ()
) -> RecordLoader:
    """Loader of the test set `name`: batches of one, in order, this rank's contiguous part (`InferenceSampler`).

    With `TEST.SKIP_BROKEN` an image that can't be read comes as a record without `image`, but with the reason as `broken`.

    Args:
        mapper: default `SemanticTestMapper`.
        finished: `file_name` of images to leave out.
    """
    info = evaluated_view(cfg, name)
    known = dataset_records(info, skip_broken=bool(cfg.TEST.SKIP_BROKEN), panoptic=bool(cfg.TEST.PANOPTIC))
    records = [record for record in known if record["file_name"] not in finished]
    mapped = _MappedRecords(
        DatasetFromList(records, copy=False),
        mapper or SemanticTestMapper.from_config(cfg),
        skip_broken=bool(cfg.TEST.SKIP_BROKEN),
    )
    return RecordLoader(
        mapped,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        facts=entry_facts(info),
        batch_size=1,
        # The sampler refuses to have nothing to do.
        sampler=InferenceSampler(len(records)) if records else [],
    )
