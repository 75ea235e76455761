"""What each operation of a traced graph is in Triton's language: forty, elementwise."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten
#: Writes an argument of an operation, a node or a constant, cast to a dtype where one is given.
Operand = Callable[..., str]


class Unsupported(NotImplementedError):
    """A graph that no kernel of ours computes; torch's own kernels do."""


TYPES = {
    torch.float32: "tl.float32",
    torch.float16: "tl.float16",
    torch.bfloat16: "tl.bfloat16",
    torch.int8: "tl.int8",
    torch.uint8: "tl.uint8",
    torch.int32: "tl.int32",
    torch.int64: "tl.int64",
    torch.bool: "tl.int1",
}
_INFIX: dict[Any, str] = {
    aten.add.Tensor: "+",
    aten.sub.Tensor: "-",
    aten.mul.Tensor: "*",
    aten.bitwise_and.Tensor: "&",
    aten.bitwise_or.Tensor: "|",
    aten.bitwise_xor.Tensor: "^",
    aten.bitwise_and.Scalar: "&",
    aten.__rshift__.Scalar: ">>",
    aten.__lshift__.Scalar: "<<",
    aten.logical_and.default: "&",
    aten.logical_or.default: "|",
}
_COMPARISONS = {
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
}
_COMPARED: dict[Any, str] = {
    getattr(getattr(aten, name), kind): sign
    for name, sign in _COMPARISONS.items()
    for kind in ("Tensor", "Scalar")
}
#: Roots and quotients as IEEE rounds them, as torch's kernels do; numbers that are NaN stay it.
_CALLS: dict[Any, str] = {
    aten.sqrt.default: "tl.sqrt_rn({})",
    aten.rsqrt.default: "tl.div_rn(1.0, tl.sqrt_rn({}))",
    aten.reciprocal.default: "tl.div_rn(1.0, {})",
    aten.abs.default: "tl.abs({})",
    aten.neg.default: "-{}",
    aten.exp.default: "tl.exp({})",
    aten.log.default: "tl.log({})",
    aten.sigmoid.default: "tl.div_rn(1.0, 1.0 + tl.exp(-{}))",
    aten.sign.default: "sign({})",
    aten.bitwise_not.default: "~{}",
    aten.logical_not.default: "~{}",
    aten.div.Tensor: "tl.div_rn({}, {})",
    aten.maximum.default: "larger({}, {})",
    aten.minimum.default: "smaller({}, {})",
}
#: The same values, seen in another shape.
SAME = {
    aten.view.default,
    aten.alias.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.clone.default,
    aten.detach.default,
}
REDUCTIONS = {
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.mean.default,
    aten.mean.dim,
    aten.amax.default,
}
#: Operations on sizes, which are numbers.
SIZES: dict[Any, str] = {
    operator.mul: "({} * {})",
    operator.add: "({} + {})",
    operator.truediv: "tl.div_rn({}, {})",
    torch.sym_float: "{}",
}


def constant(value: Any) -> str:
    """A number of Python's, as Triton takes it."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(int(value) if isinstance(value, bool) else value)


def written(node: Node, operand: Operand) -> str:
    """The expression of an elementwise operation.

    Raises Unsupported for an operation that is none of those that rules have.
    """
    target, args, out = node.target, node.args, dtype_of(node)
    if target in _COMPARED:
        common = promoted(args)
        return f"{operand(args[0], common)} {_COMPARED[target]} {operand(args[1], common)}"
    if target in _INFIX:
        second = operand(args[1], out)
        if node.kwargs.get("alpha", 1) != 1:
            second = f"{second} * {constant(node.kwargs['alpha'])}"
        return f"{operand(args[0], out)} {_INFIX[target]} {second}"
    if target in _CALLS:
        return _CALLS[target].format(*(operand(arg, out) for arg in args))
    if target in (aten.clamp.default, aten.clamp.Tensor):
        return _clamped(node, operand, out)
    if target is aten.where.self:
        condition, first, second = args
        return f"tl.where({operand(condition)}, {operand(first, out)}, {operand(second, out)})"
    if target is aten.pow.Tensor_Scalar:
        return power(operand(args[0], out), args[1])
    if target is aten._to_copy.default:
        return operand(args[0], out)
    if target is aten.copy.default:
        return operand(args[1], out)
    if target is aten.view.dtype:
        return f"{operand(args[0])}.to({TYPES[out]}, bitcast=True)"
    if target is aten.scalar_tensor.default:
        return operand(args[0])
    if target in (aten.full.default, aten.full_like.default):
        return operand(args[1])
    raise Unsupported(f"no kernel of ours has the operation {target}")


def _clamped(node: Node, operand: Operand, out: torch.dtype) -> str:
    value, *bounds = node.args
    low, high = [*bounds, None, None][:2]
    low = node.kwargs.get("min", low)
    high = node.kwargs.get("max", high)
    text = operand(value, out)
    if low is not None:
        text = f"larger({text}, {operand(low, out)})"
    return text if high is None else f"smaller({text}, {operand(high, out)})"


def power(base: str, exponent: Any) -> str:
    """A power by a constant, out of products and roots where it is one of these.

    Raises Unsupported for one that is not a number.
    """
    if not isinstance(exponent, (int, float)):
        raise Unsupported(f"a power by {exponent}")
    roots = {0.5: "tl.sqrt_rn({})", 0.25: "tl.sqrt_rn(tl.sqrt_rn({}))"}
    size = abs(exponent)
    if size in roots:
        text = roots[size].format(base)
    elif size == int(size) and 1 <= size <= 4:
        text = "(" + " * ".join([base] * int(size)) + ")"
    else:
        text = f"tl.exp(tl.log({base}) * {constant(float(size))})"
    return text if exponent > 0 else f"tl.div_rn(1.0, {text})"


def dtype_of(node: Node) -> torch.dtype:
    """The dtype of a node's tensor; fp32 of a number that is a size."""
    value = node.meta["val"]
    return value.dtype if isinstance(value, torch.Tensor) else torch.float32


def promoted(args: Any) -> torch.dtype | None:
    """What the tensors among the arguments are compared as."""
    found = [dtype_of(arg) for arg in args if isinstance(arg, Node)]
    return reduce(torch.promote_types, found) if found else None
