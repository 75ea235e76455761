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
    """
    if p.ndim < 2:
        return (p.new_zeros(()),) * len(PROJECTION_SUMS)
    p, g, u = p.flatten(1), g.flatten(1), u.flatten(1)
    # All sums by rows first, also those of the whole: one pass over the data serves them all.
    pg, pp, gg, pu = ((a * b).sum(1) for a, b in ((p, g), (p, p), (g, g), (p, u)))
    cosine = _cosine(pg, pp, gg, c.eps)
    aligned = (cosine >= c.delta * p.shape[1] ** -0.5).to(p.dtype).sum()
    elements = p.new_full((), p.numel())
    return aligned, pg.sum(), pp.sum(), gg.sum(), pu.sum(), elements


def project(p: Tensor, u: Tensor, c: Any, sums: Any) -> tuple[Tensor, Any]:
    """The projected direction, and the factor of the weight decay: ``wd_ratio`` where projected."""
    if p.ndim < 2:
        return u, 1.0
    rows, directions = p.flatten(1), u.flatten(1)
    lengths = (rows * rows).sum(1, keepdim=True).sqrt() + c.eps
    by_channel = (rows * directions).sum(1, keepdim=True) / (lengths * lengths)
    length = sums.p_sq.sqrt() + c.eps
    by_layer = sums.p_dot_u / (length * length)
    cosine = _cosine(sums.p_dot_g, sums.p_sq, sums.g_sq, c.eps)
    channels_free = sums.aligned_channels == 0
    layer_free = cosine < c.delta * sums.elements.rsqrt()
    along = by_channel.where(channels_free, by_layer.where(layer_free, 0.0))
    free = (channels_free | layer_free).to(p.dtype)
    return (directions - rows * along).view_as(u), 1 - free * (1 - c.wd_ratio)


def _cosine(dot: Tensor, p_sq: Tensor, g_sq: Tensor, eps: Any) -> Tensor:
    lengths = p_sq.sqrt().clamp(min=eps) * g_sq.sqrt().clamp(min=eps)
    return dot.abs() / lengths
