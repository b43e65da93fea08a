"""What makes a step on several processes the step of one: means and samples over all of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sizes_over_processes(rows: Tensor) -> list[int]:
    """How many rows each process holds, by rank."""
    if world_size() == 1:
        return [rows.shape[0]]
    own = torch.tensor([rows.shape[0]], device=rows.device)
    sizes = [torch.zeros_like(own) for _ in range(world_size())]
    dist.all_gather(sizes, own)
    return [int(size) for size in sizes]


def mean_over_processes(values: Tensor, empty: float) -> Tensor:
    """The share that this process has in the mean of all processes' values (N,): the shares' mean is that mean.

    A mean of the processes' own means would weigh a value by how few its process holds. `empty`: where there is no
    value at all.
    """
    count = sum(sizes_over_processes(values))
    if not count:
        return values.sum() + empty
    return values.sum() * (world_size() / count)


def mean_of_shares(share: Tensor) -> Tensor:
    """The mean itself, from every process's result of `mean_over_processes`; without gradients."""
    total = share.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def sample_over_processes(rows: Tensor, sizes: list[int], count: int, generator: torch.Generator | None) -> Tensor:
    """At most `count` of all processes' rows (N, P), without replacement, the same on each; gradients flow back.

    `sizes` are those of `sizes_over_processes`; the generator (on the CPU) must be in the same state everywhere.
    """
    total, rank = sum(sizes), dist.get_rank() if len(sizes) > 1 else 0
    chosen = torch.arange(total)
    if total > count:
        # In rising order, so that one process and several have the rows in the same order.
        chosen = torch.randperm(total, generator=generator)[:count].sort().values
    first = sum(sizes[:rank])
    own = chosen[(chosen >= first) & (chosen < first + sizes[rank])] - first
    picked: Tensor = rows[own.to(rows.device)]
    return picked if len(sizes) == 1 else _GatherRows.apply(picked)  # type: ignore[no-untyped-call]


class _GatherRows(torch.autograd.Function):
    """Rows (N, P) of all processes below one another; N may differ."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        sizes = sizes_over_processes(rows)
        ctx.first, ctx.count = sum(sizes[: dist.get_rank()]), rows.shape[0]
        padded = rows.new_zeros(max(sizes), rows.shape[1])
        padded[: rows.shape[0]] = rows
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every process has the whole loss: the sum of their gradients, averaged by DDP later, is the one gradient.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.first : ctx.first + ctx.count]
