"""One of two processes that hold half a batch each: prints the grounding loss and the gradient of its half."""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F

from twostage.systems.two_stage.odise.grounding import grounding_loss

if __name__ == "__main__":
    rank, world, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    torch.manual_seed(0)
    masks, words = torch.randn(4, 3, 8), F.normalize(torch.randn(4, 2, 8), dim=-1)
    valid = torch.tensor([True, False, True, True])
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    half = masks[share].clone().requires_grad_()
    loss = grounding_loss(half, words[share], valid[share], torch.tensor(3.0))
    loss.backward()
    assert half.grad is not None
    print(json.dumps({"loss": loss.item(), "gradient": half.grad.flatten().tolist()}))
