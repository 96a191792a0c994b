"""Mixtures of experts in place of an aggregation layer's feed-forward network.

Sparse top-k gating: Shazeer et al., ICLR 2017, section 2. Shared and fine-grained routed experts with load balancing:
DeepSeekMoE, Dai et al., ACL 2024, sections 3.1 to 3.3. The hidden width of an expert is chosen so that a token costs as
much as in the plain network.

Legend: M tokens, C channels, E experts, k active ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExpertFeedForward(nn.Module):
    """Each token goes through its best `active` of `experts` small networks, and through all `shared` ones.

    Without shared experts the gates are a softmax over the chosen ones (Shazeer, equations 3 to 5); with them they are the
    chosen entries of a softmax over all (DeepSeekMoE, equations 9 to 11).

    Attributes:
        balance: after a forward pass in training, DeepSeekMoE's expert-level balance loss (equations 12 to 14): 1 where
            tokens spread evenly, up to E / k where all take the same experts.
    """

    balance: Tensor | None

    def __init__(self, *, channels: int, hidden: int, experts: int, active: int, shared: int = 0) -> None:
        """
        Args:
            hidden: width that active and shared experts have together.
        """
        super().__init__()
        width = max(1, hidden // (active + shared))
        self.active = active
        self.router = nn.Linear(channels, experts, bias=False)
        self.experts = nn.ModuleList(_expert(channels, width) for _ in range(experts))
        self.shared = nn.ModuleList(_expert(channels, width) for _ in range(shared))
        self.balance = None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` -> the same shape."""
        tokens = x.flatten(0, -2)
        affinity = self.router(tokens)
        values, chosen = affinity.topk(self.active, dim=-1)
        scores = affinity.softmax(dim=-1)
        gates = scores.gather(1, chosen) if len(self.shared) else values.softmax(dim=-1)
        out = torch.zeros_like(tokens)
        for expert in self.shared:
            out = out + expert(tokens)
        for index, expert in enumerate(self.experts):
            token, slot = (chosen == index).nonzero(as_tuple=True)
            out = out.index_add(0, token, expert(tokens[token]) * gates[token, slot, None])
        self.balance = self._balance(scores, chosen) if self.training else None
        return out.view_as(x)

    def _balance(self, scores: Tensor, chosen: Tensor) -> Tensor:
        experts = scores.shape[1]
        share = F.one_hot(chosen, experts).sum(dim=(0, 1)) * (experts / (self.active * len(scores)))
        return (share * scores.mean(dim=0)).sum()


def _expert(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, channels))


def balance_loss(module: nn.Module) -> Tensor | None:
    """Mean balance of all mixtures in `module` in the pass just made; None where there are none."""
    parts = [m.balance for m in module.modules() if isinstance(m, ExpertFeedForward) and m.balance is not None]
    return torch.stack(parts).mean() if parts else None
