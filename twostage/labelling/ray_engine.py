"""The engine on Ray Data: units go to a pool of actors, each with a system of its own, by `map_batches`.

Ray brings the cluster: where actors run, how many units wait for them, and starting those anew that die. What is complete
is told by the results on disk, so that a stopped run goes on as with the local engine, and rows are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from twostage.errors import UserError
from twostage.labelling.labeller import Labeller
from twostage.labelling.progress import Progress
from twostage.labelling.shards import Output
from twostage.labelling.units import Unit


class LabelUnits:
    """An actor: numbers of units in, the same with their counts out. Holds one system for as long as it lives."""

    def __init__(self, labeller: Labeller, units: Sequence[Unit], output: Output, threads: int) -> None:
        torch.set_num_threads(threads)
        self.labeller = labeller
        self.units = units
        self.output = output

    def __call__(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """A batch of Ray Data: `number` of each unit, to `pictures` and `broken` of each."""
        counts = []
        for number in map(int, batch["number"]):
            rows = list(self.labeller(self.units[number].items()))
            counts.append(self.output.write(number, rows, self.labeller.words))
        found = {key: np.array([entry[key] for entry in counts]) for key in ("pictures", "broken")}
        return {"number": batch["number"], **found}


def run(labeller: Labeller, units: Sequence[Unit], output: Output, *, processes: int) -> None:
    """Label the units that are not complete with so many actors.

    Joins the cluster that `RAY_ADDRESS` names; without it a cluster of this machine is started and ended.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install 'twostage[ray]'") from error
    left = [number for number in range(len(units)) if not output.is_done(number)]
    progress = Progress(sum(len(units[number]) for number in left))
    if left:
        started = not ray.is_initialized()
        if started:
            ray.init(log_to_driver=False, include_dashboard=False)
        try:
            gpus = 1 if torch.cuda.is_available() else 0
            threads = max(1, torch.get_num_threads() // processes)
            # A unit is a block of its own, so that units are what waits, moves and is repeated.
            numbers = ray.data.from_items([{"number": number} for number in left], override_num_blocks=len(left))
            done = numbers.map_batches(
                LabelUnits,
                fn_constructor_args=(labeller, units, output, threads),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=processes),
                num_gpus=gpus,
            )
            for row in done.iter_rows():
                progress.settle(len(units[row["number"]]), int(row["pictures"]))
                progress.add(int(row["pictures"]), int(row["broken"]))
        finally:
            if started:
                ray.shutdown()
    print(progress.line(), flush=True)
