"""The projection of AdamP and SGDP (Heo et al. 2021, arXiv:2006.08217, eq. 11 and 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


PROJECTION_SUMS = ("aligned_channels", "p_dot_g", "p_sq", "g_sq", "p_dot_u", "elements")


def measure_projection(p: Tensor, g: Tensor, u: Tensor, c: Any) -> tuple[Tensor, ...]:
    """Sums that decide on a projection and carry it out, in the order of PROJECTION_SUMS.

    ``p, g, u`` are whole rows (output channels) of a weight. ``aligned_channels`` counts those
    whose gradient is not orthogonal to the weight; a channel-wise projection needs it to be 0.
    After a shortcut it is 1, whatever there are, and channels are not seen: their sums would be
    passes of their own, across memory where the weight lies (in, out).
    """
    elements = p.new_full((), p.numel())
    if hasattr(c, "shortcut"):
        return p.new_ones(()), (p * g).sum(), (p * p).sum(), (g * g).sum(), (p * u).sum(), elements
    if p.ndim < 2:
        return (p.new_zeros(()),) * len(PROJECTION_SUMS)
    p, g, u = p.flatten(1), g.flatten(1), u.flatten(1)
    # All sums by rows first, also those of the whole: one pass over the data serves them all.
    pg, pp, gg, pu = ((a * b).sum(1) for a, b in ((p, g), (p, p), (g, g), (p, u)))
    aligned = _aligned(pg, pp, gg, p.shape[1], c).to(p.dtype).sum()
    return aligned, pg.sum(), pp.sum(), gg.sum(), pu.sum(), elements


def some_channel_is_aligned(p: Tensor, g: Tensor, c: Any) -> bool:
    """Whether one of these channels has a gradient that is not orthogonal to its weight.

    Then there is no projection by channel of the whole weight. Mostly it is the first, and the
    others stay unread.
    """
    p, g = p.flatten(1), g.flatten(1)
    threshold = c.delta * p.shape[1] ** -0.5
    for i in range(len(p)):
        # A channel that is a column of memory is read once; numbers are quicker than tensors.
        both = p.new_empty(2, p.shape[1])
        both[0], both[1] = p[i], g[i]
        (p_sq, dot), (_, g_sq) = (both @ both.t()).tolist()
        if abs(dot) >= threshold * max(p_sq**0.5, c.eps) * max(g_sq**0.5, c.eps):
            return True
    return False


def project(p: Tensor, u: Tensor, c: Any, sums: Any) -> tuple[Tensor, Any]:
    """The projected direction, and the factor of the weight decay: ``wd_ratio`` where projected."""
    by_channels = not hasattr(c, "shortcut")
    if p.ndim < 2 and by_channels:
        return u, 1.0
    length = sums.p_sq.sqrt() + c.eps
    by_layer = sums.p_dot_u / (length * length)
    cosine = _cosine(sums.p_dot_g, sums.p_sq, sums.g_sq, c.eps)
    free = cosine < c.delta * sums.elements.rsqrt()
    along = by_layer.where(free, 0.0)
    if by_channels:
        rows = p.flatten(1)
        lengths = (rows * rows).sum(1, keepdim=True).sqrt() + c.eps
        by_channel = (rows * u.flatten(1)).sum(1, keepdim=True) / (lengths * lengths)
        channels_free = sums.aligned_channels == 0
        along = by_channel.where(channels_free, along).view(-1, *[1] * (p.ndim - 1))
        free = channels_free | free
    return u - p * along, 1 - free.to(p.dtype) * (1 - c.wd_ratio)


def _aligned(dot: Tensor, p_sq: Tensor, g_sq: Tensor, elements: int, c: Any) -> Tensor:
    return _cosine(dot, p_sq, g_sq, c.eps) >= c.delta * elements**-0.5


def _cosine(dot: Tensor, p_sq: Tensor, g_sq: Tensor, eps: Any) -> Tensor:
    lengths = p_sq.sqrt().clamp(min=eps) * g_sq.sqrt().clamp(min=eps)
    return dot.abs() / lengths
