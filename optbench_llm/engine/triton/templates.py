"""How kernels cut tensors into tiles: the text that every kernel of a form begins with."""

from __future__ import annotations

from enum import Enum

#: Columns of a tensor's row in the table, before the pointers of the parameter and of its slots:
#: its sizes as a matrix, the elements from one row and column to the next, and the position of its
#: first element. What is flat is one row.
HEADER = ("rows", "columns", "row_stride", "column_stride", "origin")
#: Columns of a tensor's numbers of a step: where its gradient is, and which scalars it has.
NUMBERS = 2


class Form(Enum):
    """How a kernel cuts its tensors into tiles.

    ``FLAT``: ranges of elements. ``BLOCKS``: those of whole blocks of a blockwise storage, a block
    in each row. ``CHANNELS``: some rows of a matrix, whose columns the kernel walks along.
    """

    FLAT = "flat"
    BLOCKS = "blocks"
    CHANNELS = "channels"


#: What a kernel begins with: the tensor and the tile that a program has, and its tables.
_KERNEL = """\
@triton.jit
def {name}(table, tiles, numbers, scalars, sums, kept, out, SUMS: tl.constexpr, ROWS: tl.constexpr,
           COLUMNS: tl.constexpr, ALIGNED: tl.constexpr, ROW_MAJOR: tl.constexpr):
    tensor = tl.load(tiles + 2 * tl.program_id(0))
    place = tl.load(tiles + 2 * tl.program_id(0) + 1).to(tl.int64)
    table += tensor * {width}
    numbers += tensor * {numbers}
    scalars += tl.load(numbers + 1) * {scalars}
    sums += tensor * SUMS
    kept += tensor * {kept}
    first = place == 0
"""
#: A whole tile needs no mask, which lets its loads be as wide as the machine's.
_TILE = """\
    length = tl.load(table + 1)
    begin = place * (ROWS * COLUMNS)
    if begin + ROWS * COLUMNS <= length:
        {name}_tile(table, numbers, scalars, sums, kept, out, first, begin, length, ROWS, COLUMNS,
                    ALIGNED, True)
    else:
        {name}_tile(table, numbers, scalars, sums, kept, out, first, begin, length, ROWS, COLUMNS,
                    ALIGNED, False)


@triton.jit
def {name}_tile(table, numbers, scalars, sums, kept, out, first, begin, length, ROWS: tl.constexpr,
                COLUMNS: tl.constexpr, ALIGNED: tl.constexpr, WHOLE: tl.constexpr):
    start = (tl.load(table + 4) + begin).to(tl.int32)
    count = tl.minimum(length - begin, ROWS * COLUMNS).to(tl.int32)
"""
OPENINGS = {
    Form.FLAT: _KERNEL
    + _TILE
    + """\
    index = tl.arange(0, ROWS * COLUMNS)
    inside = index < count
""",
    Form.BLOCKS: _KERNEL
    + _TILE
    + """\
    block = tl.arange(0, ROWS)[:, None]
    index = block * {block} + tl.arange(0, {block})[None, :]
    inside = index < count
    row_inside = block * {block} < count
""",
    Form.CHANNELS: _KERNEL
    + """\
    WHOLE: tl.constexpr = False
    rows, columns = tl.load(table), tl.load(table + 1)
    row_stride, column_stride = tl.load(table + 2), tl.load(table + 3)
    if ALIGNED:
        if ROW_MAJOR:
            columns, row_stride = tl.multiple_of(columns, 16), tl.multiple_of(row_stride, 16)
        else:
            rows, column_stride = tl.multiple_of(rows, 16), tl.multiple_of(column_stride, 16)
    start = tl.load(table + 4).to(tl.int32)
    row = place * ROWS + tl.arange(0, ROWS)[:, None]
    row_inside = row < rows
    row_count = tl.minimum(rows - place * ROWS, ROWS)
    count = row_count * columns
""",
}
#: One walk along the columns. The stride that is 1 is known to be, so that loads are wide.
WALK = """\
for walked in range(0, columns, COLUMNS):
    column = walked + tl.arange(0, COLUMNS)[None, :]
    inside = row_inside & (column < columns)
    index = (row * columns + column).to(tl.int32)
    if ROW_MAJOR:
        offset = row * row_stride + column
    else:
        offset = row + column * column_stride
"""
#: How far from where a tensor begins the elements of a tile are.
PLACES = {
    Form.FLAT: "begin + index",
    Form.BLOCKS: "begin + index",
    Form.CHANNELS: "offset",
}
