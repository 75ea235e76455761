"""From a traced graph of a rule's stage to the source of one Triton kernel over many tensors.

Rules are pure functions of elements and sums. A kernel sees one tile of one tensor: what the graph
has as a tensor of the parameter's shape is a tile there, what has a number for each of its rows
(the scales of blocks, the sums of channels) is a column of the tile, and what is 0-dim is a number.

Pointers, sizes and numbers come from tables, so one kernel serves any tensors of any shapes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch.fx import Graph, Node

from optbench_llm.engine.storage import BLOCK
from optbench_llm.engine.triton.operations import (
    REDUCTIONS,
    SAME,
    SIZES,
    TYPES,
    Unsupported,
    aten,
    constant,
    dtype_of,
    power,
    written,
)
from optbench_llm.engine.triton.templates import HEADER, NUMBERS, OPENINGS, PLACES, WALK, Form


class Level(Enum):
    """What a value of the graph is to a tile."""

    NUMBER = 0
    ROW = 1
    ELEMENT = 2


_MASKS = {Level.ELEMENT: "inside", Level.ROW: "row_inside"}


@dataclass(frozen=True)
class Inputs:
    """The names of a graph's placeholders, in their order.

    ``parts`` are the tensors of the slots; ``scalars`` and ``sums`` are 0-dim.
    """

    parts: tuple[str, ...]
    scalars: tuple[str, ...]
    sums: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return ("p", "g", *self.parts, "start", *self.scalars, *self.sums)


@dataclass(frozen=True)
class Source:
    """A kernel's text, and what its caller must know.

    ``sums`` counts the partial sums that each tile leaves. ``kept`` are the numbers among the
    inputs' parts, slots of one element, whose new values the kernel leaves in a table: other tiles
    still read the old ones.
    """

    name: str
    text: str
    sums: int
    kept: tuple[int, ...]


def emit(name: str, graph: Graph, inputs: Inputs, form: Form) -> Source:
    """The source of a kernel of this name.

    Raises Unsupported where a value of the graph is neither an element's, a row's nor the
    tensor's, or an operation is none that rules have.
    """
    return _Emitter(name, graph, inputs, form).source()


class _Emitter:
    def __init__(self, name: str, graph: Graph, inputs: Inputs, form: Form) -> None:
        self._name, self._inputs, self._form = name, inputs, form
        self._nodes: Sequence[Node] = [*graph.nodes]
        given = [node for node in self._nodes if node.op == "placeholder"]
        self._given = dict(zip(given, inputs.names, strict=True))
        p = given[0].meta["val"]
        self._elements, self._rows = _size(p.numel()), _size(p.shape[0])
        self._stores = [node for node in self._nodes if node.target is aten.copy_.default]
        results: Any = graph.output_node().args[0]
        self._results: Sequence[Node] = [*results]
        self._walks: dict[Node, int] = {}
        for node in self._nodes:
            self._walks[node] = self._walks_before(node)
        self._text: dict[Node, str] = {}
        self._lines: list[str] = []
        self._check_reductions()

    # What a node is.

    def _level(self, node: Node) -> Level:
        value = node.meta["val"]
        size = _size(value.numel()) if isinstance(value, torch.Tensor) else 1
        levels = {self._elements: Level.ELEMENT, 1: Level.NUMBER}
        if self._form is not Form.FLAT:
            levels.setdefault(self._rows, Level.ROW)
        if size not in levels:
            raise Unsupported(f"{node.target} has {size} of {self._elements} elements")
        return levels[size]

    def _walks_before(self, node: Node) -> int:
        """How many walks along the columns must be over before a value is known."""
        before = max((self._walks[given] for given in node.all_input_nodes), default=0)
        return before + (self._form is Form.CHANNELS and self._sums_elements(node))

    def _sums_elements(self, node: Node) -> bool:
        return node.target in REDUCTIONS and self._level(_input(node)) is Level.ELEMENT

    def _check_reductions(self) -> None:
        """Raise Unsupported for what a tile cannot know: it sees a part of its tensor."""
        of_part: set[Node] = set()
        for node in self._nodes:
            if node.target in REDUCTIONS and self._level(node) is Level.NUMBER:
                of_part.add(node)
            elif of_part.intersection(node.all_input_nodes) and node.op != "output":
                if self._level(node) is not Level.NUMBER:
                    raise Unsupported(f"{node.target} of a sum over the tensor, within a stage")
                of_part.add(node)
            if node.target is aten.amax.default and self._form is not Form.BLOCKS:
                raise Unsupported("a largest value of what is no block")

    # Text.

    def source(self) -> Source:
        """The whole kernel."""
        kept = self._kept()
        body = self._channels() if self._form is Form.CHANNELS else self._tile()
        opening = OPENINGS[self._form]
        text = opening.format(
            name=self._name,
            width=len(HEADER) + 1 + len(self._inputs.parts),
            numbers=NUMBERS,
            scalars=len(self._inputs.scalars),
            kept=len(kept),
            block=BLOCK,
        )
        return Source(self._name, text + body, len(self._results), kept)

    def _kept(self) -> tuple[int, ...]:
        stored = [self._given[_input(store)] for store in self._stores
                  if self._level(_input(store)) is Level.NUMBER]  # fmt: skip
        return tuple(self._inputs.parts.index(name) for name in stored)

    def _tile(self) -> str:
        """The body for a tile that is seen once."""
        self._lines = []
        self._load_pointers()
        self._load_numbers()
        self._emit(self._nodes)
        self._store_all()
        return _joined(self._lines, 1)

    def _channels(self) -> str:
        """The body that walks along the columns, as often as sums of rows depend on others."""
        self._lines, lines = [], []
        self._load_pointers()
        self._load_numbers()
        last = max((self._walks[node] for node in self._stores), default=-1)
        sums = [node for node in self._nodes if self._sums_elements(node)]
        walks = max([last, *(self._walks[node] - 1 for node in sums)]) + 1
        for walk in range(walks):
            self._emit(n for n in self._nodes if self._walks[n] <= walk and not self._is_tile(n))
            wanted = [node for node in sums if self._walks[node] == walk + 1]
            for node in wanted:
                self._lines.append(f"{_variable(node)} = tl.zeros((ROWS, COLUMNS), tl.float32)")
            lines += [(line, 1) for line in self._lines]
            known, self._lines = dict(self._text), []
            stores = self._stores if walk == last else []
            needed = _ancestors([*(_input(node) for node in wanted), *stores])
            self._emit(n for n in self._nodes if n in needed and self._is_tile(n))
            for node in wanted:
                value = f"within({self._operand(_input(node))}, inside, 0.0, WHOLE)"
                self._lines.append(f"{_variable(node)} += {value}")
            if stores:
                self._store_tiles()
            lines += [(line, 1) for line in WALK.splitlines()]
            lines += [(line, 2) for line in self._lines]
            self._text, self._lines = known, []
            for node in wanted:
                self._finish_sum(node)
        self._emit(node for node in self._nodes if not self._is_tile(node))
        self._store_results()
        lines += [(line, 1) for line in self._lines]
        return "".join(_joined([line], depth) for line, depth in lines)

    def _is_tile(self, node: Node) -> bool:
        of_tile = node.op in ("placeholder", "call_function")
        return of_tile and self._level(node) is Level.ELEMENT

    def _finish_sum(self, node: Node) -> None:
        """What an accumulator of a walk comes to."""
        name = _variable(node)
        self._lines.append(f"{name} = tl.sum({name}, 1)[:, None]")
        if self._level(node) is Level.NUMBER:
            self._lines.append(f"{name} = tl.sum(tl.where(row < rows, {name}, 0.0))")
        if node.target in (aten.mean.default, aten.mean.dim):
            count = "columns" if self._level(node) is Level.ROW else "(rows * columns)"
            self._lines.append(f"{name} = tl.div_rn({name}, {count}.to(tl.float32))")
        self._text[node] = name

    def _load_numbers(self) -> None:
        """The scalars of the step and the sums of the tensor."""
        places = [("scalars", self._inputs.scalars), ("sums", self._inputs.sums)]
        of_input = {name: node for node, name in self._given.items()}
        for table, names in places:
            for number, name in enumerate(names):
                node = of_input[name]
                if node.users:
                    self._lines.append(f"{_variable(node)} = tl.load({table} + {number})")
                    self._text[node] = _variable(node)

    def _emit(self, nodes: Iterable[Node]) -> None:
        """A line for each of these that is not written yet, unless it is another one's value."""
        for node in nodes:
            if node in self._text or node.op == "output" or node.target is aten.copy_.default:
                continue
            if node.op == "placeholder":
                self._load(node)
            elif node.target in SAME or node.target is aten.expand.default:
                self._text[node] = self._seen(node)
            else:
                text = self._expression(node)
                if text is not None and text.isidentifier():
                    self._text[node] = text
                elif text is not None:
                    self._lines.append(f"{_variable(node)} = {text}")
                    self._text[node] = _variable(node)

    def _load(self, node: Node) -> None:
        if not node.users:
            return
        name = self._given[node]
        if name == "start":
            self._text[node] = "start"
            return
        if all(user.target is aten.copy_.default and user.args[0] is node for user in node.users):
            return
        level = self._level(node)
        address = self._address(node)
        if level is not Level.NUMBER:
            address = f"{address}, {_MASKS[level]}, WHOLE"
        load = "tl.load" if level is Level.NUMBER else "load"
        self._lines.append(f"{_variable(node)} = {load}({address})")
        self._text[node] = _variable(node)

    def _load_pointers(self) -> None:
        """Where the tensors begin, for those that have more than one element."""
        for node, name in self._given.items():
            if name == "start" or self._level(node) is Level.NUMBER or not node.users:
                continue
            base = f"{_variable(node)}_at"
            self._lines += [f"{base} = {self._pointer(node)}"]
            if self._level(node) is Level.ELEMENT:
                self._lines += ["if ALIGNED:", f"    {base} = tl.multiple_of({base}, 16)"]

    def _pointer(self, node: Node) -> str:
        """Where an input begins."""
        name, kind = self._given[node], TYPES[dtype_of(node)]
        place = "numbers"
        if name != "g":
            column = len(HEADER) + (0 if name == "p" else 1 + self._inputs.parts.index(name))
            place = f"table + {column}"
        return f"tl.load({place}).to(tl.pointer_type({kind}))"

    def _address(self, node: Node) -> str:
        """Where the values of an input are that belong to the tile."""
        level = self._level(node)
        if level is Level.NUMBER:
            return self._pointer(node)
        if level is Level.ELEMENT:
            return f"{_variable(node)}_at + {PLACES[self._form]}"
        if self._form is not Form.BLOCKS:
            raise Unsupported("a slot with an element for each channel")
        return f"{_variable(node)}_at + begin // {BLOCK} + block"

    def _seen(self, node: Node) -> str:
        """A value in another shape; Unsupported where it then is another thing to a tile."""
        given = node.args[0]
        assert isinstance(given, Node)
        before, after = self._level(given), self._level(node)
        text = self._operand(given)
        if before is after:
            return text
        if node.target is aten.expand.default and after is Level.ELEMENT:
            return f"tl.broadcast_to({text}, index.shape)"
        if before is Level.NUMBER or after is Level.NUMBER:
            raise Unsupported(f"{node.target} makes a number of several elements, or the reverse")
        raise Unsupported(f"{node.target} makes {after.name} of {before.name}")

    def _expression(self, node: Node) -> str | None:
        """The text of a value; None for a size that is no value by itself."""
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            return self._size_text(node)
        if node.target in REDUCTIONS:
            return self._reduced(node)
        if node.target is aten.arange.start_step:
            if self._level(node) is not Level.ELEMENT:
                raise Unsupported("a range of numbers that are no positions")
            return "index"
        return written(node, self._operand)

    def _reduced(self, node: Node) -> str:
        """A sum or a largest value, of what is in the tile."""
        given = _input(node)
        text, before, after = self._operand(given), self._level(given), self._level(node)
        if before is after:
            raise Unsupported(f"{node.target} that leaves {after.name} what it was")
        if node.target is aten.amax.default:
            assert after is Level.ROW, "a largest value of more than a block"
            return f"row_maximum(within({text}, {_MASKS[before]}, float('-inf'), WHOLE))"
        if node.target in (aten.mean.default, aten.mean.dim):
            raise Unsupported("a mean over what may be a part of a tensor")
        within = f"within({text}, {_MASKS[before]}, 0.0, WHOLE)"
        return f"tl.sum({within}, 1)[:, None]" if after is Level.ROW else f"tl.sum({within})"

    def _size_text(self, node: Node) -> str | None:
        """A size, by what it counts; operations on sizes."""
        value = node.meta["val"]
        size = _size(value)
        known = {self._elements: "count"}
        if self._form is Form.CHANNELS:
            known[self._rows] = "row_count"
        if size in known:
            self._text[node] = f"{known[size]}.to(tl.float32)"
            return None
        if self._form is Form.CHANNELS and size * self._rows == self._elements:
            self._text[node] = "columns.to(tl.float32)"
            return None
        if any(given not in self._text for given in node.all_input_nodes):
            # What counts a part of the dimensions is in the shapes of views alone.
            return None
        operation: Any = node.target
        if operation in SIZES:
            return SIZES[operation].format(*(self._operand(arg) for arg in node.args))
        if operation in (pow, operator.pow):
            return power(self._operand(node.args[0]), node.args[1])
        return None

    def _operand(self, given: Any, dtype: torch.dtype | None = None) -> str:
        if not isinstance(given, Node):
            return constant(given)
        if given not in self._text:
            raise Unsupported(f"{given.target} of {given.args} has no value in a kernel")
        text = self._text[given]
        if dtype is None or dtype_of(given) is dtype:
            return text
        if dtype is torch.bfloat16:
            return f"to_bfloat16({text})"
        return f"{text}.to({TYPES[dtype]})"

    # What a kernel leaves.

    def _store_all(self) -> None:
        self._store_tiles()
        self._store_results()

    def _store_tiles(self) -> None:
        for store in self._stores:
            target, value = store.args[:2]
            assert isinstance(target, Node)
            level = self._level(target)
            if level is Level.NUMBER:
                continue
            text = self._operand(value, dtype_of(target))
            self._lines.append(f"store({self._address(target)}, {text}, {_MASKS[level]}, WHOLE)")

    def _store_results(self) -> None:
        """The partial sums, and the new values of slots of one element."""
        for number, node in enumerate(self._results):
            text = self._operand(node, torch.float32)
            place = f"out + {number} * tl.num_programs(0) + tl.program_id(0)"
            self._lines.append(f"tl.store({place}, {text})")
        kept = [s for s in self._stores if self._level(_input(s)) is Level.NUMBER]
        for number, store in enumerate(kept):
            text = self._operand(store.args[1], torch.float32)
            self._lines.append(f"tl.store(kept + {number}, {text}, first)")


def _variable(node: Node) -> str:
    """A name that is none of the kernel's own."""
    return f"x_{node.name}"


def _joined(lines: Iterable[str], depth: int) -> str:
    return "".join(f"{'    ' * depth}{line}\n" for line in lines)


def _input(node: Node) -> Node:
    given = node.args[0]
    assert isinstance(given, Node)
    return given


def _ancestors(nodes: Iterable[Node]) -> set[Node]:
    found: set[Node] = set()
    waiting = [*nodes]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _size(size: Any) -> Any:
    """A size as a symbolic expression, or a number."""
    return size.node.expr if hasattr(size, "node") else size
