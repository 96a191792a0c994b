"""What depends on the machine: the device, the user's home, the folder of the datasets, cores, memory used."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from twostage.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode as CN

logger = logging.getLogger(__name__)


def resolve_device(cfg: CN) -> str:
    """`MODEL.DEVICE` with "auto" replaced by what this machine has. Raises UserError as `find_device`.

    "meta", whose tensors have shapes and hold no numbers, is for who lists what a model is made of.
    """
    name = str(cfg.MODEL.DEVICE)
    return name if name == "meta" else find_device(name)


def find_device(name: str, key: str = "MODEL.DEVICE") -> str:
    """The device `name`, given as `key`, with "auto" replaced by what this machine has.

    Raises:
        UserError: no device of torch's, or none that is here and holds numbers.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{key} is {name!r}; give 'auto', 'cpu', 'cuda', or 'cuda:1' for the second GPU") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key} is {name!r} but torch sees no GPU; use 'cpu' or 'auto'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"{key} is {name!r}, but this machine has {torch.cuda.device_count()} GPU(s)")
    if device.type in ("cpu", "cuda"):  # a GPU is not touched: that would take memory of it in every process that asks
        return name
    try:
        # torch knows the names of many devices that it was built without, and says so in as many ways.
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f"{key} is {name!r}, which torch has not here; use 'cpu' or 'auto'") from error
    return name


def resolve_precision(cfg: CN) -> str:
    """`MODEL.PRECISION` with "fast" replaced by what is faster than float32 here: bfloat16 or float16 on GPUs, bfloat16 on
    CPUs that compute with it, else float32, which is said.

    Raises:
        UserError: float16 on a CPU, or bfloat16 on a GPU that knows none.
    """
    import torch

    precision, device = str(cfg.MODEL.PRECISION), resolve_device(cfg)
    on_gpu = device.startswith("cuda")
    if precision == "fast":
        if on_gpu:
            return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
        if cpu_has_bfloat16():
            return "bfloat16"
        logger.warning(
            "this processor has neither AVX512-BF16 nor AMX, so bfloat16 would not be faster; float32 is kept "
            "(MODEL.PRECISION bfloat16 saves memory all the same)"
        )
        return "float32"
    if precision == "float16" and not on_gpu:
        raise UserError(f"MODEL.PRECISION is 'float16', which needs a GPU; on {device!r} use 'bfloat16' or 'float32'")
    if precision == "bfloat16" and on_gpu and not torch.cuda.is_bf16_supported():
        raise UserError("MODEL.PRECISION is 'bfloat16', which this GPU does not know; use 'float16' or 'float32'")
    return precision


def settle_machine(cfg: CN) -> None:
    """Put what this machine has in place of "auto" and "fast", in place. Raises UserError as the two above."""
    cfg.MODEL.DEVICE, cfg.MODEL.PRECISION = resolve_device(cfg), resolve_precision(cfg)


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16 itself (Linux tells; elsewhere False)."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags())


def cpu_has_bfloat16_in_vectors_alone() -> bool:
    """Whether it has dot products of bfloat16 (AVX512-BF16) and no units for whole matrices (AMX)."""
    return "avx512_bf16" in _cpu_flags() and "amx_bf16" not in _cpu_flags()


@functools.cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split() for line in lines if line.startswith(("flags", "Features"))), ()))


def expand_home(text: str) -> str:
    """`text` with a leading `~` replaced by the user's home.

    Raises:
        UserError: there is a `~`, and this user has no home folder.
    """
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        raise UserError(
            f"'{text}' can't be found, because this user has no home folder; write the whole path"
        ) from error


def user_path(text: str | Path) -> Path:
    """The path that a user gave, `~` expanded. Raises UserError as `expand_home`."""
    return Path(expand_home(str(text)))


def home_folder() -> Path:
    """Folder of what twostage downloads: `$TWOSTAGE_HOME`, default `twostage` in the user's cache folder (`$XDG_CACHE_HOME`,
    `~/.cache`). Raises UserError as `expand_home`."""
    own = os.environ.get("TWOSTAGE_HOME")
    return user_path(own) if own else user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "twostage"


def datasets_root() -> Path:
    """Folder that holds all datasets: `$DETECTRON2_DATASETS`, default `datasets`."""
    return user_path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_together(processes: Iterable[BaseProcess]) -> None:
    """Start processes of multiprocessing that leave Ctrl-C, which a terminal sends to all of them, to this one.

    They would answer it with a traceback each, in the middle of their imports; this one ends them by SIGTERM.
    """
    # Only what is ignored stays so in a program that is started; and signals are of the main thread.
    if threading.current_thread() is not threading.main_thread():
        for process in processes:
            process.start()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for process in processes:
            process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent() -> None:
    """From now on SIGTERM ends this process, which multiprocessing started, when the one that started it is gone, however that
    ended: what works on unseen would write beside the run that goes on."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only processes that were started run this"

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def peak_resident_memory() -> int:
    """Most resident memory that this process has held so far, in bytes; 0 on Windows, which does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
