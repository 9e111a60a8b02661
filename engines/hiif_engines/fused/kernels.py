"""HIIF's decoder as two Triton kernels: colours of queries, and the sums of a statistics pass (design/gpu.md).

A program processes a block of queries through all levels and keeps their values [BLOCK, width] on the chip. Weights are
streamed in slices: a slice of a level's first product, its GELU, and the part of the second product that this slice
feeds. Matrix products use the weights' dtype and accumulate in float32; moments, tables, LayerNorm, GELU, k̂ and v̂ are
float32.

Whatever a level adds to its first product — the table of its two bits, its base and the bias behind the LayerNorm — is
a second product over `PLACE` columns, accumulated by the same matrix units: element by element only the LayerNorm's
scale and the GELU are left. In half precision GELU takes its tanh form.

The readable references are the graphs of the bundle, run operation by operation (`torch_graph/interpreter.py`).
`decoder.py` lays out the arguments.
"""

# Triton reads these annotations itself: no `from __future__ import annotations` here.

import os

import triton
import triton.language as tl

AREA_SCALE = tl.constexpr(2.0**30)
"""Scale of the areas as in the exported graphs: a power of two, so that no bit of a ratio changes."""
AREA_EPSILON = tl.constexpr(1.0737418240000000)
"""float32(1e-9) · 2³⁰, rounded as the graphs round it (a test compares)."""
COLOURS = tl.constexpr(16)
"""Columns of the last product: three colours, padded to what a matrix unit takes."""
PLACE = tl.constexpr(16)
"""Columns of the product that adds positions and bias: nine, padded to what a matrix unit takes."""
LINEAR = tl.constexpr(0.8001571)
CUBIC = tl.constexpr(0.03470088)
"""GELU(x) = x/2 · (1 + tanh(LINEAR·x + CUBIC·x³)) within 2.8e-4 for every x: the minimax fit of that form."""
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Whether kernels run in Triton's interpreter, which knows no inline assembly."""


@triton.jit
def tanh(x):
    """Return tanh(x) within 2⁻¹¹ of its value, one instruction on a GPU."""
    if INTERPRETED:
        # Rounded to half precision: the error that the instruction may have.
        return (2.0 * tl.sigmoid(2.0 * x) - 1.0).to(tl.float16).to(tl.float32)
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def gelu(x, DTYPE: tl.constexpr):
    """Return x · Φ(x): by erf, or by tanh where DTYPE, to which the result is rounded, is float16."""
    half = 0.5 * x
    if tl.float16 == DTYPE:
        return half + half * tanh(x * (LINEAR + CUBIC * (x * x)))
    return half + half * tl.erf(x * 0.7071067811865476)


@triton.jit
def corners(r, c, row_tap, column_tap, row_distance, column_distance, rows, columns):
    """Return four map rows and four area weights of queries at rows r, columns c (design/model.md C5)."""
    top, bottom = tl.load(row_tap + r), tl.load(row_tap + rows + r)
    left, right = tl.load(column_tap + c), tl.load(column_tap + columns + c)
    high, low = tl.load(row_distance + r) * AREA_SCALE, tl.load(row_distance + rows + r) * AREA_SCALE
    near, far = tl.load(column_distance + c), tl.load(column_distance + columns + c)
    area_0, area_1 = high * near + AREA_EPSILON, high * far + AREA_EPSILON
    area_2, area_3 = low * near + AREA_EPSILON, low * far + AREA_EPSILON
    total = ((area_0 + area_1) + area_2) + area_3
    return (
        top + left, top + right, bottom + left, bottom + right,
        area_3 / total, area_2 / total, area_1 / total, area_0 / total,
    )  # fmt: skip


@triton.jit
def bits_of(r, c, row_bits, column_bits, rows, columns, level):
    """Return the two bits of a level as float32."""
    row = tl.load(row_bits + level * rows + r).to(tl.float32)
    return row, tl.load(column_bits + level * columns + c).to(tl.float32)


@triton.jit
def positioned(hidden, s, row, column, scale, vectors, WIDTH: tl.constexpr, DTYPE: tl.constexpr):
    """Return GELU((hidden + table of two bits) · scale + bias) on channels s; `vectors`: base, row, column, bias."""
    base, row_part = tl.load(vectors + s), tl.load(vectors + WIDTH + s)
    column_part, bias = tl.load(vectors + 2 * WIDTH + s), tl.load(vectors + 3 * WIDTH + s)
    place = base[None, :] + row[:, None] * row_part[None, :] + column[:, None] * column_part[None, :]
    return gelu((hidden + place) * scale[:, None] + bias[None, :], DTYPE)


@triton.jit
def moment(moments, i, weight):
    """Return Σ and Σ² that one corner adds to the first level's input."""
    return weight * tl.load(moments + 2 * i), weight * weight * tl.load(moments + 2 * i + 1)


@triton.jit
def first_scale(c, moments, row, column, cell_sum, cell_square, INPUTS: tl.constexpr, EPSILON: tl.constexpr):
    """Return 1 / σ of the first level's LayerNorm."""
    mean_0, square_0 = moment(moments, c[0], c[4])
    mean_1, square_1 = moment(moments, c[1], c[5])
    mean_2, square_2 = moment(moments, c[2], c[6])
    mean_3, square_3 = moment(moments, c[3], c[7])
    mean = (row + column + cell_sum + mean_0 + mean_1 + mean_2 + mean_3) / INPUTS
    power = (row + column + cell_square + square_0 + square_1 + square_2 + square_3) / INPUTS
    return tl.rsqrt(power - mean * mean + EPSILON)


@triton.jit
def first_place(
    r, c, moments, row_tap, column_tap, row_distance, column_distance, row_bits, column_bits, cell_sums, rows, columns,
    INPUTS: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """Return the corners with weights, the two bits and 1 / σ of level 0 for queries at rows r, columns c."""
    taps = corners(r, c, row_tap, column_tap, row_distance, column_distance, rows, columns)
    row, column = bits_of(r, c, row_bits, column_bits, rows, columns, 0)
    scale = first_scale(taps, moments, row, column, tl.load(cell_sums), tl.load(cell_sums + 1), INPUTS, EPSILON)
    return taps, row, column, scale


@triton.jit
def gathered(map_k, i, weight, s, stride, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Return channels s of one corner's map, weighted, float32; zero beyond the map's channels."""
    place = map_k + i.to(tl.int64)[:, None] * stride + s[None, :]
    if CHANNELS == WIDTH:  # noqa: SIM108  Triton decides it when it compiles
        values = tl.load(place)
    else:
        values = tl.load(place, mask=(s < CHANNELS)[None, :], other=0.0)
    return values.to(tl.float32) * weight[:, None]


@triton.jit
def first_hidden(
    c, s, map_0, map_1, map_2, map_3, stride, row, column, scale, vectors, CHANNELS: tl.constexpr, WIDTH: tl.constexpr
):
    """Return channels s of level 0 after its GELU, float32."""
    hidden = gathered(map_0, c[0], c[4], s, stride, CHANNELS, WIDTH)
    hidden += gathered(map_1, c[1], c[5], s, stride, CHANNELS, WIDTH)
    hidden += gathered(map_2, c[2], c[6], s, stride, CHANNELS, WIDTH)
    hidden += gathered(map_3, c[3], c[7], s, stride, CHANNELS, WIDTH)
    return positioned(hidden, s, row, column, scale, vectors, WIDTH, map_0.dtype.element_ty)


@triton.jit
def product(x, weight, s, FROM: tl.constexpr, TO: tl.constexpr):
    """Return x @ weight[:, s] in float32."""
    return tl.dot(x, tl.load(weight + tl.arange(0, FROM)[:, None] * TO + s[None, :]), input_precision="ieee")


@triton.jit
def add_product(total, part, weight, s, TO: tl.constexpr):
    """Return total + part @ weight[s, :] in float32."""
    w = tl.load(weight + s[:, None] * TO + tl.arange(0, TO)[None, :])
    return tl.dot(part.to(w.dtype), w, total, input_precision="ieee")


@triton.jit
def place_columns(row, column, deviation, DTYPE: tl.constexpr):
    """Return [BLOCK, PLACE]: what multiplies a level's table (`_place_table` in decoder.py lists its rows).

    1, 1, row, row, column, column, σ, what DTYPE rounds off σ, σ: with the table's own two parts, nothing that half
    precision would round is lost.
    """
    k = tl.arange(0, PLACE)[None, :]
    rest = deviation - deviation.to(DTYPE).to(tl.float32)
    bits = tl.where(k < 2, 1.0, tl.where(k < 4, row[:, None], column[:, None]))
    parts = tl.where(k == 7, rest[:, None], deviation[:, None])
    return tl.where(k < 6, bits, tl.where(k < 9, parts, 0.0)).to(DTYPE)


@triton.jit
def attention(x, w1, b1, w2, b2, WIDTH: tl.constexpr, SLICE: tl.constexpr, BLOCK: tl.constexpr):
    """Return x + GELU(x @ w1 + b1) @ w2 + b2: one attention block with its folded matrix w1."""
    y = tl.zeros((BLOCK, WIDTH), tl.float32)
    for start in range(0, WIDTH, SLICE):
        s = start + tl.arange(0, SLICE)
        hidden = product(x, w1, s, WIDTH, WIDTH) + tl.load(b1 + s).to(tl.float32)[None, :]
        y = add_product(y, gelu(hidden, x.dtype), w2, s, WIDTH)
    y += tl.load(b2 + tl.arange(0, WIDTH))[None, :]
    return (y + x.to(tl.float32)).to(x.dtype)


@triton.jit
def level(
    x, row, column, w1, table, w2, b2, INPUTS: tl.constexpr, EPSILON: tl.constexpr,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, TO: tl.constexpr, SLICE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Apply LayerNorm over [x | bits], product, GELU, product → float32 [BLOCK, TO]."""
    wide = x.to(tl.float32)
    mean = (tl.sum(wide, 1) + row + column) / INPUTS
    power = (tl.sum(wide * wide, 1) + row + column) / INPUTS
    variance = power - mean * mean + EPSILON
    scale = tl.rsqrt(variance)
    place = place_columns(row, column, variance * scale, x.dtype)
    y = tl.zeros((BLOCK, TO), tl.float32)
    for start in range(0, HIDDEN, SLICE):
        s = start + tl.arange(0, SLICE)
        hidden = product(x, w1, s, WIDTH, HIDDEN) + product(place, table, s, PLACE, HIDDEN)
        y = add_product(y, gelu(hidden * scale[:, None], x.dtype), w2, s, TO)
    return y + tl.load(b2 + tl.arange(0, TO))[None, :]


@triton.jit
def first_level(
    c, map_0, map_1, map_2, map_3, stride, row, column, scale, vectors, w2, b2, CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, SLICE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute level 0, gathered slice by slice → [BLOCK, WIDTH] in the maps' dtype."""
    x = tl.zeros((BLOCK, WIDTH), tl.float32)
    for start in range(0, HIDDEN, SLICE):
        s = start + tl.arange(0, SLICE)
        hidden = first_hidden(c, s, map_0, map_1, map_2, map_3, stride, row, column, scale, vectors, CHANNELS, HIDDEN)
        x = add_product(x, hidden, w2, s, WIDTH)
    return (x + tl.load(b2 + tl.arange(0, WIDTH))[None, :]).to(w2.dtype.element_ty)


@triton.jit(do_not_specialize=["rows", "columns"])
def colour_kernel(
    map_0, map_1, map_2, map_3, stride, moments, row_tap, column_tap, row_distance, column_distance,
    row_bits, column_bits, cell_sums, first, second, second_bias, folded, folded_bias, attention_2,
    attention_bias, level_1, level_table, level_2, level_bias, last, last_bias, colour, rows, columns,
    CHANNELS: tl.constexpr, FIRST_INPUTS: tl.constexpr, FIRST_EPSILON: tl.constexpr, INPUTS: tl.constexpr,
    EPSILON: tl.constexpr, ATTENTIONS: tl.constexpr, LEVELS: tl.constexpr, WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr, SLICE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write `colour` [rows · columns, 3] float32 of all queries; programs share the blocks (`FusedDecoder`)."""
    queries = rows * columns
    for block in range(tl.program_id(0), tl.cdiv(queries, BLOCK), tl.num_programs(0)):
        place = block * BLOCK + tl.arange(0, BLOCK)
        q = tl.minimum(place, queries - 1)
        r, c = q // columns, q % columns
        taps, row, column, scale = first_place(
            r, c, moments, row_tap, column_tap, row_distance, column_distance, row_bits, column_bits, cell_sums, rows,
            columns, FIRST_INPUTS, FIRST_EPSILON,
        )  # fmt: skip
        x = first_level(
            taps, map_0, map_1, map_2, map_3, stride, row, column, scale, first, second, second_bias,
            CHANNELS, WIDTH, HIDDEN, SLICE, BLOCK,
        )  # fmt: skip
        for n in range(ATTENTIONS):
            square, vector = n * WIDTH * WIDTH, n * WIDTH
            x = attention(
                x, folded + square, folded_bias + vector, attention_2 + square, attention_bias + vector,
                WIDTH, SLICE, BLOCK,
            )  # fmt: skip
        for n in range(LEVELS - 2):
            row, column = bits_of(r, c, row_bits, column_bits, rows, columns, n + 1)
            matrix = n * WIDTH * HIDDEN
            x = level(
                x, row, column, level_1 + matrix, level_table + n * PLACE * HIDDEN, level_2 + matrix,
                level_bias + n * WIDTH, INPUTS, EPSILON, WIDTH, HIDDEN, WIDTH, SLICE, BLOCK,
            ).to(x.dtype)  # fmt: skip
        row, column = bits_of(r, c, row_bits, column_bits, rows, columns, LEVELS - 1)
        y = level(
            x, row, column, level_1 + (LEVELS - 2) * WIDTH * HIDDEN, level_table + (LEVELS - 2) * PLACE * HIDDEN,
            last, last_bias, INPUTS, EPSILON, WIDTH, HIDDEN, COLOURS, SLICE, BLOCK,
        )  # fmt: skip
        channel = tl.arange(0, COLOURS)
        inside = (place < queries)[:, None] & (channel < 3)[None, :]
        tl.store(colour + place.to(tl.int64)[:, None] * 3 + channel[None, :], y, mask=inside)


@triton.jit
def normalised(x, inside, HEAD: tl.constexpr, EPSILON: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """Normalise centred k or v over each head, without the affine; zero for places without a query."""
    heads = tl.reshape(x, (BLOCK, COLUMNS // HEAD, HEAD))
    scale = tl.rsqrt(tl.sum(heads * heads, 2) / HEAD + EPSILON)
    scale = tl.where(inside[:, None], scale, 0.0)
    return tl.reshape(heads * scale[:, :, None], (BLOCK, COLUMNS))


@triton.jit
def add_sums(
    x, inside, weight, bias, outer, key, value, WIDTH: tl.constexpr, FROM: tl.constexpr, HEAD: tl.constexpr,
    EPSILON: tl.constexpr, HEADS_AT_ONCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add this block's Σ k̂ᵀv̂, Σ k̂ and Σ v̂ to the program's own; only heads of one slice meet in a product."""
    COLUMNS: tl.constexpr = HEADS_AT_ONCE * HEAD
    for start in range(0, WIDTH, COLUMNS):
        s = start + tl.arange(0, COLUMNS)
        k = product(x, weight, s, FROM, 2 * WIDTH) + tl.load(bias + s)[None, :]
        k = normalised(k, inside, HEAD, EPSILON, BLOCK, COLUMNS)
        v = product(x, weight, WIDTH + s, FROM, 2 * WIDTH) + tl.load(bias + WIDTH + s)[None, :]
        v = normalised(v, inside, HEAD, EPSILON, BLOCK, COLUMNS)
        local = tl.arange(0, COLUMNS)
        square = outer + start * COLUMNS + local[:, None] * COLUMNS + local[None, :]
        outer_product = tl.dot(tl.trans(k.to(x.dtype)), v.to(x.dtype), input_precision="ieee")
        tl.store(square, tl.load(square) + outer_product)
        tl.store(key + s, tl.load(key + s) + tl.sum(k, 0))
        tl.store(value + s, tl.load(value + s) + tl.sum(v, 0))


@triton.jit(do_not_specialize=["rows", "columns"])
def sum_kernel(
    map_0, map_1, map_2, map_3, stride, moments, row_tap, column_tap, row_distance, column_distance,
    row_bits, column_bits, cell_sums, first, second, second_bias, folded, folded_bias, attention_2,
    attention_bias, key_value, key_value_bias, outer, key, value, rows, columns,
    CHANNELS: tl.constexpr, FIRST_INPUTS: tl.constexpr, FIRST_EPSILON: tl.constexpr, HEAD: tl.constexpr,
    HEAD_EPSILON: tl.constexpr, ATTENTIONS: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr,
    HEADS_AT_ONCE: tl.constexpr, LIST: tl.constexpr, SLICE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over all queries in front of attention block `ATTENTIONS`, one part per program (stage one of two).

    `outer` [programs, WIDTH, HEADS_AT_ONCE · HEAD], `key` and `value` [programs, WIDTH], float32, zero before.
    Queries are a grid, every row with every column, or a LIST: entry n of the rows with entry n of the columns.
    Every program adds its own blocks in a fixed order, so equal calls give equal bits.
    """
    program, queries = tl.program_id(0), columns if LIST else rows * columns
    outer += program * WIDTH * HEADS_AT_ONCE * HEAD
    key += program * WIDTH
    value += program * WIDTH
    for block in range(program, tl.cdiv(queries, BLOCK), tl.num_programs(0)):
        place = block * BLOCK + tl.arange(0, BLOCK)
        q = tl.minimum(place, queries - 1)
        r, c = (q, q) if LIST else (q // columns, q % columns)
        taps, row, column, scale = first_place(
            r, c, moments, row_tap, column_tap, row_distance, column_distance, row_bits, column_bits, cell_sums, rows,
            columns, FIRST_INPUTS, FIRST_EPSILON,
        )  # fmt: skip
        if ATTENTIONS == 0:
            # The first keys and values are composed with level 0's second layer, so they start from its hidden values.
            hidden = first_hidden(
                taps,
                tl.arange(0, HIDDEN),
                map_0,
                map_1,
                map_2,
                map_3,
                stride,
                row,
                column,
                scale,
                first,
                CHANNELS,
                HIDDEN,
            )
            add_sums(
                hidden.to(key_value.dtype.element_ty), place < queries, key_value, key_value_bias, outer, key, value,
                WIDTH, HIDDEN, HEAD, HEAD_EPSILON, HEADS_AT_ONCE, BLOCK,
            )  # fmt: skip
        else:
            x = first_level(
                taps, map_0, map_1, map_2, map_3, stride, row, column, scale, first, second, second_bias,
                CHANNELS, WIDTH, HIDDEN, SLICE, BLOCK,
            )  # fmt: skip
            for n in range(ATTENTIONS):
                square, vector = n * WIDTH * WIDTH, n * WIDTH
                x = attention(
                    x, folded + square, folded_bias + vector, attention_2 + square, attention_bias + vector,
                    WIDTH, SLICE, BLOCK,
                )  # fmt: skip
            add_sums(
                x, place < queries, key_value, key_value_bias, outer, key, value,
                WIDTH, WIDTH, HEAD, HEAD_EPSILON, HEADS_AT_ONCE, BLOCK,
            )  # fmt: skip
        # Other threads of this program may do the next block's additions: wait until the stores are visible.
        tl.debug_barrier()
