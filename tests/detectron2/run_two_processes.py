"""What `test_two_processes` runs: launch() with two gloo processes; each writes what it saw to <folder>/<rank>.json.

A script, because spawned processes import it first, and with it twostage, before they unpickle anything of Detectron2's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import twostage  # noqa: F401  isort: skip
import torch
from detectron2.data.samplers import InferenceSampler
from detectron2.engine import create_ddp_model, launch
from detectron2.utils import comm


def observe(folder: str) -> None:
    """Use every function of `comm`."""
    rank = comm.get_rank()
    seeds = comm.all_gather(comm.shared_random_seed())
    reduced = comm.reduce_dict({"a": torch.tensor(float(rank)), "b": torch.tensor(2.0)})
    layer = torch.nn.Linear(1, 1, bias=False)
    model = create_ddp_model(layer, device_ids=None)
    model(torch.tensor([[float(rank)]])).sum().backward()
    result = {
        "world": comm.get_world_size(),
        "local": [comm.get_local_rank(), comm.get_local_size()],
        "gathered": comm.all_gather({"rank": rank}),
        "to_first": comm.gather(rank),
        "same_seed": len(set(seeds)) == 1,
        "shards": comm.all_gather(list(InferenceSampler(5))),
        "mean": reduced["a"].item() if rank == 0 else None,
        "gradient": layer.weight.grad.item(),
    }
    comm.synchronize()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    launch(observe, 2, dist_url="auto", args=(sys.argv[1],))
