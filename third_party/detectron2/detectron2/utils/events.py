"""What a training run measures: `EventStorage` collects it, writers put it into files and logs."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from detectron2.utils.file_io import PathManager

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

# The storages whose `with` block we are in, innermost last.
_active: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the innermost `with EventStorage()` block. AssertionError outside of any."""
    assert _active, "get_event_storage() works only inside a 'with EventStorage(...)' block"
    return _active[-1]


def has_event_storage() -> bool:
    """Whether `get_event_storage` would work."""
    return bool(_active)


class EventStorage:
    """Values by name and iteration; a context manager that makes itself the current storage."""

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._prefix = ""
        # (name, tensor, iteration) and keyword arguments of SummaryWriter.add_histogram_raw; writers empty these.
        self._vis_data: list[tuple[str, Any, int]] = []
        self._histograms: list[dict[str, Any]] = []

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record a number for `name` at this iteration (or `cur_iter`).

        Args:
            smoothing_hint: whether writers should show the median of a window instead of the last value. The same at
                every call for this name, else AssertionError.
        """
        name = self._prefix + name
        iteration = self.iter if cur_iter is None else cur_iter
        number = float(value)
        self._histories[name].update(number, iteration)
        self._latest[name] = (number, iteration)
        known = self._smoothing.setdefault(name, smoothing_hint)
        assert known == smoothing_hint, f"scalar '{name}' came with smoothing_hint={known} before"

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """Record several numbers, given as keywords."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Record an image `[C, H, W]` for tensorboard: uint8, or float in [0, 1]; RGB."""
        self._vis_data.append((self._prefix + img_name, img_tensor, self.iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Record the distribution of a tensor's values for tensorboard."""
        values = hist_tensor.detach().float().cpu()
        low, high = values.min().item(), values.max().item()
        edges = torch.linspace(low, high, steps=bins + 1)
        self._histograms.append(
            {
                "tag": self._prefix + hist_name,
                "min": low,
                "max": high,
                "num": values.numel(),
                "sum": float(values.sum()),
                "sum_squares": float((values**2).sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(values, bins=bins).tolist(),
                "global_step": self.iter,
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        """All values of a name. KeyError where there are none."""
        if name not in self._histories:
            raise KeyError(f"no scalar was recorded under '{name}'")
        return self._histories[name]

    def histories(self) -> Mapping[str, HistoryBuffer]:
        """All values of all names."""
        return self._histories

    def latest(self) -> Mapping[str, tuple[float, int]]:
        """The last value of each name, and its iteration."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As `latest`; where smoothing was asked for, the median over the last `window_size` iterations."""
        return {
            name: (self._histories[name].median(self.count_samples(name, window_size)), iteration)
            if self._smoothing[name]
            else (value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of `name` fall into the last `window_size` iterations before its latest."""
        values = self._histories[name].values()
        begin = values[-1][1] - window_size
        # Iterations do not decrease, so counting from the end may stop at the first that is too old.
        for count, (_, iteration) in enumerate(reversed(values)):
            if iteration <= begin:
                return count
        return len(values)

    def smoothing_hints(self) -> Mapping[str, bool]:
        """The hint that each name was recorded with."""
        return self._smoothing

    def step(self) -> None:
        """Go to the next iteration."""
        self.iter += 1

    def clear_images(self) -> None:
        """Forget the images, once written."""
        self._vis_data = []

    def clear_histograms(self) -> None:
        """Forget the histograms, once written."""
        self._histograms = []

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Inside the block, names get the prefix `name/`; an outer scope is suspended."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def __enter__(self) -> EventStorage:
        _active.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert _active.pop() is self, "EventStorage blocks were left in the wrong order"


class EventWriter:
    """Writes somewhere what is new in the current storage."""

    def write(self) -> None:
        """Called now and then while training."""
        raise NotImplementedError

    def close(self) -> None:
        """Called after training."""


class _NewScalars:
    """The scalars of the current storage that were recorded after those that the last call gave."""

    def __init__(self, window_size: int) -> None:
        self._window_size = window_size
        self._last_iteration = -1

    def take(self) -> dict[int, dict[str, float]]:
        by_iteration: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_iteration:
                by_iteration[iteration][name] = value
        self._last_iteration = max(by_iteration, default=self._last_iteration)
        return by_iteration


class JSONWriter(EventWriter):
    """Appends to a file one JSON object per iteration: the names recorded at it, and "iteration"."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file = PathManager.open(json_file, "a")
        self._new = _NewScalars(window_size)

    def write(self) -> None:
        for iteration, scalars in self._new.take().items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()
        # Remote file handles have no descriptor.
        with contextlib.suppress(AttributeError, OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms as tensorboard events; makes its folder at the first use."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        self._options = {"log_dir": log_dir, **kwargs}
        self._new = _NewScalars(window_size)
        self._summary: Any = None

    def write(self) -> None:
        if self._summary is None:
            from torch.utils.tensorboard import SummaryWriter

            self._summary = SummaryWriter(**self._options)
        storage = get_event_storage()
        for iteration, scalars in self._new.take().items():
            for name, value in scalars.items():
                self._summary.add_scalar(name, value, iteration)
        for name, image, iteration in storage._vis_data:
            self._summary.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._summary.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        if self._summary is not None:
            self._summary.close()


class CommonMetricPrinter(EventWriter):
    """Logs a line with time left, losses, times, learning rate and memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size
        # (iteration, clock) of the last line, to estimate the time left where no "time" is recorded.
        self._last_line: tuple[int, float] | None = None

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # writers run once more after training
        losses = "  ".join(self._medians("loss", "{:.4g}"))
        metrics = "  ".join(self._medians("[metric]", "{:.4g}"))
        learning_rate = f"{storage.history('lr').latest():.5g}" if "lr" in storage.histories() else "N/A"
        eta = self._eta()
        memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        self.logger.info(
            " %siter: %d  %s%s  %s lr: %s%s",
            f"eta: {eta}  " if eta else "",
            storage.iter,
            losses,
            f"  {metrics}" if metrics else "",
            self._times(),
            learning_rate,
            f"  max_mem: {memory:.0f}M" if memory is not None else "",
        )

    def _medians(self, part: str, form: str) -> list[str]:
        storage = get_event_storage()
        return [
            f"{name}: {form.format(history.median(storage.count_samples(name, self._window_size)))}"
            for name, history in storage.histories().items()
            if part in name
        ]

    def _times(self) -> str:
        storage = get_event_storage()
        text = ""
        for name in ("time", "data_time"):
            if name in storage.histories():
                history = storage.history(name)
                mean = history.avg(storage.count_samples(name, self._window_size))
                text += f"{name}: {mean:.4f}  last_{name}: {history.latest():.4f}  "
        return text

    def _eta(self) -> str | None:
        """Time left, by the median of the last 1000 iterations or by the time since the last line."""
        if self._max_iter is None:
            return None
        storage = get_event_storage()
        left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        now, last_line = time.perf_counter(), self._last_line
        self._last_line = (storage.iter, now)
        if last_line is None or last_line[0] == storage.iter:
            return None
        return str(datetime.timedelta(seconds=int((now - last_line[1]) / (storage.iter - last_line[0]) * left)))
