"""Triton kernels of the chunked SSD: states of chunks, their passing, outputs, and all gradients.

A chunk of Q positions is one tile. Arrays named `dt`, `acs` (cumulative dt * A inside a chunk) are (B, H, c * Q)
float32, filled up behind the last position with dt = 0; `seg` is (B, c * Q) int32, read only with HAS_SEG. States are
(B, c, H, P, N). Products accumulate in float32. Dao and Gu 2024, arXiv:2405.21060, sections 6 and 7.
"""

import triton
import triton.language as tl


@triton.jit
def _decays(dt_ptr, acs_ptr, seg_ptr, row, heads, head, chunk, length, Q: tl.constexpr, HAS_SEG: tl.constexpr):
    """dt, and decays: from the chunk's start to a position, from a position to its end, and between two, later first.

    `length` is c * Q. Returns (Q), (Q), (Q), (Q, Q).
    """
    q = tl.arange(0, Q)
    place = (row * heads + head) * length + chunk * Q
    dt = tl.load(dt_ptr + place + q)
    acs = tl.load(acs_ptr + place + q)
    to_end = tl.exp(tl.load(acs_ptr + place + Q - 1) - acs)
    from_start = tl.exp(acs)
    visible = q[:, None] >= q[None, :]
    if HAS_SEG:
        segments = seg_ptr + row * length + chunk * Q
        seg = tl.load(segments + q)
        before = tl.load(segments - tl.where(chunk > 0, 1, 0))
        from_start = tl.where(seg == before, from_start, 0.0)
        to_end = tl.where(seg == tl.load(segments + Q - 1), to_end, 0.0)
        visible = visible & (seg[:, None] == seg[None, :])
    # masked before exp: differences above the diagonal are positive and could overflow
    return dt, from_start, to_end, tl.exp(tl.where(visible, acs[:, None] - acs[None, :], float("-inf")))


@triton.jit
def _rows(pointer, stride, size, left, Q: tl.constexpr, WIDTH: tl.constexpr):
    """A (Q, WIDTH) tile of a (T, size) matrix; zeros outside, and behind the `left` positions that remain."""
    q, column = tl.arange(0, Q)[:, None], tl.arange(0, WIDTH)[None, :]
    return tl.load(pointer + q * stride + column, mask=(q < left) & (column < size), other=0.0)


@triton.jit
def _write_rows(pointer, stride, value, size, left, Q: tl.constexpr, WIDTH: tl.constexpr):
    """The reverse of _rows, in the type of the matrix."""
    q, column = tl.arange(0, Q)[:, None], tl.arange(0, WIDTH)[None, :]
    value = value.to(pointer.dtype.element_ty)
    tl.store(pointer + q * stride + column, value, mask=(q < left) & (column < size))


@triton.jit
def _place(chunks):
    """Row and chunk of this program."""
    return (tl.program_id(0) // chunks).to(tl.int64), (tl.program_id(0) % chunks).to(tl.int64)


@triton.jit
def _state(pointer, P, N, WIDTH_P: tl.constexpr, WIDTH_N: tl.constexpr):
    """A (P, N) state as one tile."""
    p, n = tl.arange(0, WIDTH_P)[:, None], tl.arange(0, WIDTH_N)[None, :]
    return tl.load(pointer + p * N + n, mask=(p < P) & (n < N), other=0.0)


@triton.jit
def chunk_state_kernel(
    x_ptr, b_ptr, dt_ptr, acs_ptr, seg_ptr, out_ptr, length, heads, groups, P, N, chunks,
    x_row, x_time, x_head, b_row, b_time, b_group,
    Q: tl.constexpr, WIDTH_P: tl.constexpr, BLOCK_N: tl.constexpr, HAS_SEG: tl.constexpr, FROM_START: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out[b, c, h] = sum over the chunk of weight * x b^T, (P, N) float32; a program is one head's block of N.

    weight is dt times the decay to the chunk's end, or with FROM_START the decay from its start (for gradients).
    """
    row, chunk = _place(chunks)
    head, first = tl.program_id(1).to(tl.int64), tl.program_id(2) * BLOCK_N
    group = head // (heads // groups)
    left = length - chunk * Q
    dt, from_start, to_end, _ = _decays(dt_ptr, acs_ptr, seg_ptr, row, heads, head, chunk, chunks * Q, Q, HAS_SEG)
    weight = from_start if FROM_START else dt * to_end
    x = _rows(x_ptr + row * x_row + chunk * Q * x_time + head * x_head, x_time, P, left, Q, WIDTH_P)
    b = _rows(b_ptr + row * b_row + chunk * Q * b_time + group * b_group + first, b_time, N - first, left, Q, BLOCK_N)
    weighted = (x.to(tl.float32) * weight[:, None]).to(x.dtype)
    state = tl.dot(tl.trans(weighted), b, input_precision=PRECISION)
    p, n = tl.arange(0, WIDTH_P)[:, None], tl.arange(0, BLOCK_N)[None, :] + first
    place = ((row * chunks + chunk) * heads + head) * P * N
    tl.store(out_ptr + place + p * N + n, state, mask=(p < P) & (n < N))


@triton.jit
def pass_states_kernel(
    added_ptr, whole_ptr, first_ptr, starts_ptr, last_ptr, other_ptr, product_ptr, heads, size, chunks, blocks,
    BLOCK: tl.constexpr, HAS_FIRST: tl.constexpr, REVERSE: tl.constexpr, HAS_OTHER: tl.constexpr,
):
    """Walk over the chunks: starts[c] = running; running = running * whole[c] + added[c]; last = running.

    whole (B, c, H) float32; added, starts, other (B, c, H, size); first, last (B, H, size) float32. REVERSE walks from
    the last chunk to the first. With HAS_OTHER product[b, c, h, block] = sum of running * other before the update.
    """
    pair = tl.program_id(0).to(tl.int64)
    row, head, block = pair // heads, pair % heads, tl.program_id(1)
    i = block * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    running = tl.zeros((BLOCK,), dtype=tl.float32)
    if HAS_FIRST:
        running = tl.load(first_ptr + pair * size + i, mask=inside, other=0.0).to(tl.float32)
    forward, place = heads, row * chunks * heads + head
    if REVERSE:
        forward, place = -heads, place + (chunks - 1) * heads
    added = tl.load(added_ptr + place * size + i, mask=inside, other=0.0)
    left = chunks
    # a while loop: the interpreter cannot count to a number it learns at run time
    while left > 0:
        # read ahead, so that the memory works while this chunk is written
        following = tl.load(added_ptr + (place + forward) * size + i, mask=inside & (left > 1), other=0.0)
        tl.store(starts_ptr + place * size + i, running.to(starts_ptr.dtype.element_ty), mask=inside)
        if HAS_OTHER:
            other = tl.load(other_ptr + place * size + i, mask=inside, other=0.0).to(tl.float32)
            tl.store(product_ptr + place * blocks + block, tl.sum(running * other, axis=0))
        running = running * tl.load(whole_ptr + place) + added
        added = following
        place += forward
        left -= 1
    tl.store(last_ptr + pair * size + i, running, mask=inside)


@triton.jit
def output_kernel(
    x_ptr, b_ptr, c_ptr, dt_ptr, acs_ptr, seg_ptr, starts_ptr, y_ptr, length, heads, groups, P, N, chunks,
    x_row, x_time, x_head, b_row, b_time, b_group, c_row, c_time, c_group,
    SPLIT: tl.constexpr, Q: tl.constexpr, WIDTH_P: tl.constexpr, WIDTH_N: tl.constexpr, HAS_SEG: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y (B, T, H, P) contiguous; a program is SPLIT heads of one group, which share the matrix C B^T."""
    row, chunk = _place(chunks)
    first = tl.program_id(1).to(tl.int64) * SPLIT
    group = first // (heads // groups)
    left = length - chunk * Q
    b = _rows(b_ptr + row * b_row + chunk * Q * b_time + group * b_group, b_time, N, left, Q, WIDTH_N)
    c = _rows(c_ptr + row * c_row + chunk * Q * c_time + group * c_group, c_time, N, left, Q, WIDTH_N)
    scores = tl.dot(c, tl.trans(b), input_precision=PRECISION)  # (Q, Q)
    for number in range(SPLIT):
        head = first + number
        dt, from_start, to_end, decay = _decays(
            dt_ptr, acs_ptr, seg_ptr, row, heads, head, chunk, chunks * Q, Q, HAS_SEG)
        x = _rows(x_ptr + row * x_row + chunk * Q * x_time + head * x_head, x_time, P, left, Q, WIDTH_P)
        start = _state(starts_ptr + ((row * chunks + chunk) * heads + head) * P * N, P, N, WIDTH_P, WIDTH_N)
        y = tl.dot(c, tl.trans(start).to(c.dtype), input_precision=PRECISION) * from_start[:, None]
        y += tl.dot((scores * decay * dt[None, :]).to(x.dtype), x, input_precision=PRECISION)
        _write_rows(y_ptr + ((row * length + chunk * Q) * heads + head) * P, heads * P, y, P, left, Q, WIDTH_P)


@triton.jit
def gradient_kernel(
    x_ptr, b_ptr, c_ptr, dy_ptr, dt_ptr, acs_ptr, seg_ptr, starts_ptr, ends_ptr,
    dx_ptr, db_ptr, dc_ptr, later_ptr, earlier_ptr, to_end_ptr, length, heads, groups, P, N, chunks,
    x_row, x_time, x_head, b_row, b_time, b_group, c_row, c_time, c_group,
    SPLIT: tl.constexpr, Q: tl.constexpr, WIDTH_P: tl.constexpr, WIDTH_N: tl.constexpr, HAS_SEG: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients inside a chunk, given its first state and the gradient `ends` of its last; SPLIT heads a program.

    dx (B, T, H, P) like x; db, dc (H / SPLIT, B, T, N) float32, to be summed over the programs of a group;
    later, earlier, to_end (B, H, c * Q): gradient of acs where a position reads, of dt where it is read, of its end.
    """
    row, chunk = _place(chunks)
    part, first = tl.program_id(1).to(tl.int64), tl.program_id(1).to(tl.int64) * SPLIT
    group, left = first // (heads // groups), length - chunk * Q
    b = _rows(b_ptr + row * b_row + chunk * Q * b_time + group * b_group, b_time, N, left, Q, WIDTH_N)
    c = _rows(c_ptr + row * c_row + chunk * Q * c_time + group * c_group, c_time, N, left, Q, WIDTH_N)
    scores = tl.dot(c, tl.trans(b), input_precision=PRECISION)  # (Q, Q), the reading position first
    dscores = tl.zeros((Q, Q), dtype=tl.float32)
    db, dc = tl.zeros((Q, WIDTH_N), dtype=tl.float32), tl.zeros((Q, WIDTH_N), dtype=tl.float32)
    for number in range(SPLIT):
        head = first + number
        dt, from_start, to_end, decay = _decays(
            dt_ptr, acs_ptr, seg_ptr, row, heads, head, chunk, chunks * Q, Q, HAS_SEG)
        x = _rows(x_ptr + row * x_row + chunk * Q * x_time + head * x_head, x_time, P, left, Q, WIDTH_P)
        flat = ((row * length + chunk * Q) * heads + head) * P
        dy = _rows(dy_ptr + flat, heads * P, P, left, Q, WIDTH_P)
        state = ((row * chunks + chunk) * heads + head) * P * N
        start = _state(starts_ptr + state, P, N, WIDTH_P, WIDTH_N).to(dy.dtype)
        end = _state(ends_ptr + state, P, N, WIDTH_P, WIDTH_N).to(x.dtype)
        pairs = tl.dot(dy, tl.trans(x), input_precision=PRECISION) * decay  # (Q, Q)
        dscores += pairs * dt[None, :]
        seen = pairs * scores  # one tile for sums over rows and columns: they nearly cancel in the gradient of acs
        through = tl.dot(dy, start, input_precision=PRECISION) * from_start[:, None]  # (Q, WIDTH_N)
        dc += through
        later = tl.sum(seen * dt[None, :], axis=1) + tl.sum(through * c.to(tl.float32), axis=1)
        kept = tl.dot(x, end, input_precision=PRECISION) * to_end[:, None]  # (Q, WIDTH_N)
        db += kept * dt[:, None]
        dx = tl.dot(tl.trans((scores * decay).to(dy.dtype)), dy, input_precision=PRECISION)
        dx += tl.dot(b, tl.trans(end), input_precision=PRECISION) * to_end[:, None]
        _write_rows(dx_ptr + flat, heads * P, dx * dt[:, None], P, left, Q, WIDTH_P)
        place = (row * heads + head) * chunks * Q + chunk * Q + tl.arange(0, Q)
        tl.store(later_ptr + place, later)
        tl.store(earlier_ptr + place, tl.sum(seen, axis=0))
        tl.store(to_end_ptr + place, tl.sum(kept * b.to(tl.float32), axis=1))
    dc += tl.dot(dscores.to(b.dtype), b, input_precision=PRECISION)
    db += tl.dot(tl.trans(dscores).to(c.dtype), c, input_precision=PRECISION)
    flat = ((part * (tl.num_programs(0) // chunks) + row) * length + chunk * Q) * N
    _write_rows(db_ptr + flat, N, db, N, left, Q, WIDTH_N)
    _write_rows(dc_ptr + flat, N, dc, N, left, Q, WIDTH_N)
