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


class LoadBalance:
    """DeepSeekMoE's expert-level balance loss (equations 12 to 14), reported by all mixtures of a model in training.

    It is 1 where tokens spread evenly, up to E / k where all take the same experts.
    """

    def __init__(self, *, weight: float) -> None:
        """
        Args:
            weight: of the loss.
        """
        self.weight = weight
        self._parts: list[Tensor] = []

    def report(self, scores: Tensor, chosen: Tensor) -> None:
        """Add one mixture: the softmax over all experts `[M, E]` and the experts chosen by each token, int64 `[M, k]`."""
        tokens, experts = scores.shape
        share = F.one_hot(chosen, experts).sum(dim=(0, 1)) * (experts / (chosen.shape[1] * tokens))
        self._parts.append((share * scores.mean(dim=0)).sum())

    def take(self) -> dict[str, Tensor]:
        """`loss_balance`, the weighted mean of what was reported since this was last asked for."""
        parts, self._parts = self._parts, []
        return {"loss_balance": self.weight * torch.stack(parts).mean()}


class ExpertFeedForward(nn.Module):
    """Each token goes through its best `active` of `experts` small networks, and through all `shared` ones.

    Without shared experts the gates are a softmax over the chosen ones (Shazeer, equations 3 to 5); with them they are the
    chosen entries of a softmax over all (DeepSeekMoE, equations 9 to 11).
    """

    def __init__(
        self, *, channels: int, hidden: int, experts: int, active: int, shared: int = 0, balance: LoadBalance
    ) -> None:
        """
        Args:
            hidden: width that active and shared experts have together.
            balance: is told in training how evenly tokens spread.
        """
        super().__init__()
        width = max(1, hidden // (active + shared))
        self.active = active
        self.router = nn.Linear(channels, experts, bias=False)
        self.experts = nn.ModuleList(_expert(channels, width) for _ in range(experts))
        self.shared = nn.ModuleList(_expert(channels, width) for _ in range(shared))
        self.balance = balance

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
        if self.training:
            self.balance.report(scores, chosen)
        return out.view_as(x)


def _expert(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, channels))
