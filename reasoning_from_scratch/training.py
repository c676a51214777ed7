"""What every training loop needs: optimiser, schedule, precision, micro-batches, several processes.

Not here: the loops themselves (`sft.py`, `grpo.py`, …) and what a run leaves on disk (`runs.py`).
"""

import contextlib
import ctypes
import math
import os
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reasoning_from_scratch.checks import check_choice


def make_optimizer(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
) -> torch.optim.AdamW:
    """Return AdamW in which only matrices decay: norms, biases and embeddings keep their scale."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decays = [p for p in trained if p.dim() >= 2 and id(p) not in embeddings]
    rest = [p for p in trained if p.dim() < 2 or id(p) in embeddings]
    groups = [{"params": decays, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)


def learning_rate(
    step: int, *, lr: float, steps: int, warmup: int = 0, final: float = 1.0, shape: str = "linear"
) -> float:
    """Return the rate of optimiser step `step` (from 0): a linear warm-up, then a decay.

    Args:
        lr:     the peak.
        steps:  optimiser steps in all; the last one still has a rate above `final · lr`.
        warmup: steps to reach the peak; step 0 already moves, by lr / warmup.
        final:  where the decay ends, as a share of the peak. 1 keeps it constant.
        shape:  "linear" or "cosine".
    """
    check_choice("shape", shape, ("linear", "cosine"))
    if step < warmup:
        return lr * (step + 1) / warmup
    done = min((step - warmup) / max(steps - warmup, 1), 1.0)
    left = 1 - done if shape == "linear" else (1 + math.cos(math.pi * done)) / 2
    return lr * (final + (1 - final) * left)


def precision(device: torch.device) -> contextlib.AbstractContextManager:
    """Return the context to compute in: bfloat16 autocast on CUDA, plain float32 elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()


def micro_batches(lengths: Tensor, *, max_tokens: int) -> list[Tensor]:
    """Split rows into parts of similar length and at most `max_tokens` padded tokens each.

    Args:
        lengths:    [B] tokens in each row.
        max_tokens: rows · longest row of a part; a single longer row is a part of its own. On a
                    CPU about a thousand keeps a tiny model's activations in cache.

    Returns:
        Index tensors, the longest rows first (so that memory runs out at once or never).
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}, expected at least 1")
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes, parts, start = lengths[order].tolist(), [], 0
    while start < len(sizes):
        count = max(1, max_tokens // max(sizes[start], 1))
        parts.append(order[start : start + count])
        start += count
    return parts


def optimiser_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Tensor],
    *,
    lr: float,
    max_grad_norm: float,
) -> Tensor:
    """Accumulate the gradients of the given parts, clip, and step once.

    Args:
        losses:        the parts' losses, *already weighted by their share* of what the whole loss
                       averages over: here they are only added up. A generator keeps one part's
                       activations in memory at a time.
        lr:            the rate of this step.
        max_grad_norm: the gradient is shortened to this 2-norm.

    Returns:
        The gradient's norm before clipping. Where it is not finite, the weights stay as they are:
        one bad batch must not destroy a run; the log shows the norm.
    """
    optimizer.zero_grad(set_to_none=True)
    parts = 0
    for loss in losses:
        loss.backward()
        parts += 1
    (parts,) = sum_over_processes(parts)
    if not parts:  # nothing counts: the optimiser's moments must not move the weights either
        return torch.zeros(())
    parameters = [p for p in model.parameters() if p.requires_grad]
    if world_size() > 1:
        for p in parameters:
            if p.grad is None:  # a process without a counted row still takes part in the sum
                p.grad = torch.zeros_like(p)
            dist.all_reduce(p.grad)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    if bool(norm.isfinite()):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    return norm


def average(stats: list[Mapping[str, Tensor]], weights: list[float]) -> dict[str, float]:
    """Return each entry's weighted mean over the parts of a step that have it."""
    means = {}
    for name in dict.fromkeys(name for part in stats for name in part):
        found = [(float(s[name]), w) for s, w in zip(stats, weights, strict=True) if name in s]
        means[name] = sum(x * w for x, w in found) / (sum(w for _, w in found) or 1.0)
    return means


def warnings(stats: Mapping[str, float]) -> list[str]:
    """Say in words when a step cannot teach anything, or is about to go wrong.

    Reads `mixed_groups`, `finished`, `entropy` and `grad_norm` where present.
    """
    found = []
    if stats.get("mixed_groups") == 0:
        found.append("all completions of every group have the same reward: none beats another")
    if stats.get("finished", 1.0) < 0.5:
        found.append(
            f"{1 - stats['finished']:.0%} of the completions were cut off: raise max_new_tokens"
        )
    if 0 <= stats.get("entropy", 1.0) < 0.005:
        found.append(
            f"entropy is {stats['entropy']:.4f} nats a token: nearly all samples of a prompt are "
            "the same: a policy that is not right yet will hardly find out how"
        )
    if not math.isfinite(stats.get("grad_norm", 0.0)):
        found.append("the gradient is not finite: this step was skipped")
    return found


def world_size() -> int:
    """Return how many processes train together: 1 unless `torchrun` started more."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0. Only process 0 writes files."""
    return dist.get_rank() if world_size() > 1 else 0


def start_processes() -> torch.device:
    """Join the processes that `torchrun` started, if it did; return the device to train on."""
    cuda = torch.cuda.is_available()
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def sum_over_processes(*values: float) -> list[float]:
    """Return each number's sum over all processes; the numbers themselves if there is one."""
    if world_size() == 1:
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def gather_over_processes(tensor: Tensor) -> Tensor:
    """Return every process's tensor, stacked in the order of their ranks."""
    if world_size() == 1:
        return tensor[None]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    parts = [torch.empty_like(tensor, device=device) for _ in range(world_size())]
    dist.all_gather(parts, tensor.to(device))
    return torch.stack(parts).to(tensor.device)


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of returning them to the system each time.

    A training step frees and asks again for the same megabytes; without this, a tenth of its time
    goes into fresh pages. Where the C library is another one, nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # from malloc.h
        mallopt(mmap_threshold, 32 << 20)  # the largest value that glibc takes
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 256 << 20)
