"""Z-buffer: which face every pixel sees. One Triton kernel, and the same rule in plain torch.

A pixel belongs to a triangle when its centre is inside or on the border; the nearest depth wins,
then the lowest face number. Depth and face share one int64 (depth above, face in the low 16 bits),
so that a single atomic minimum decides both.
"""

from __future__ import annotations

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # the CPU builds of torch come without it
    triton = None

EMPTY = 1 << 62
FACE_BITS = 16
DEPTH_SCALE = float(1 << 28)
SMALLEST_AREA = 1e-9  # pixels squared; smaller triangles are seen edge-on
BLOCK = 64  # triangles a program of the kernel
PAIRED = 200_000  # triangles at a time in plain torch

if triton is not None:

    @triton.jit
    def _rasterize_kernel(
        points, faces, buffer, face_count, vertex_count, size,
        block: tl.constexpr, depth_scale: tl.constexpr, smallest: tl.constexpr,
    ):  # fmt: skip
        picture = tl.program_id(1).to(tl.int64)
        face = tl.program_id(0) * block + tl.arange(0, block)
        valid = face < face_count
        vertices = points + picture * vertex_count * 3
        a = vertices + tl.load(faces + face * 3, mask=valid, other=0) * 3
        b = vertices + tl.load(faces + face * 3 + 1, mask=valid, other=0) * 3
        c = vertices + tl.load(faces + face * 3 + 2, mask=valid, other=0) * 3
        ax, ay, az = tl.load(a), tl.load(a + 1), tl.load(a + 2)
        bx, by, bz = tl.load(b), tl.load(b + 1), tl.load(b + 2)
        cx, cy, cz = tl.load(c), tl.load(c + 1), tl.load(c + 2)
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        valid = valid & (tl.abs(area) > smallest)
        inverse = 1.0 / tl.where(valid, area, 1.0)
        left = tl.maximum(tl.ceil(tl.minimum(tl.minimum(ax, bx), cx) - 0.5), 0.0)
        right = tl.minimum(tl.floor(tl.maximum(tl.maximum(ax, bx), cx) - 0.5), size - 1.0)
        top = tl.maximum(tl.ceil(tl.minimum(tl.minimum(ay, by), cy) - 0.5), 0.0)
        bottom = tl.minimum(tl.floor(tl.maximum(tl.maximum(ay, by), cy) - 0.5), size - 1.0)
        valid = valid & (right >= left) & (bottom >= top)
        columns = tl.where(valid, right - left + 1.0, 0.0).to(tl.int32)
        rows = tl.where(valid, bottom - top + 1.0, 0.0).to(tl.int32)
        corner = top.to(tl.int32) * size + left.to(tl.int32)
        pixels = buffer + picture * size * size
        for row in range(0, tl.max(rows, 0)):
            y = top + row + 0.5
            for column in range(0, tl.max(columns, 0)):
                x = left + column + 0.5
                wb = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) * inverse
                wc = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) * inverse
                wa = 1.0 - wb - wc
                inside = (row < rows) & (column < columns) & (wa >= 0) & (wb >= 0) & (wc >= 0)
                depth = wa * az + wb * bz + wc * cz
                key = ((depth + 1.0) * depth_scale).to(tl.int64) << 16 | face.to(tl.int64)
                tl.atomic_min(
                    pixels + corner + row * size + column, key, mask=inside, sem="relaxed"
                )


def barycentric(corners: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Weights (..., 3) of the points (x, y) in the triangles (..., 3, 2 or more)."""
    (ax, ay), (bx, by), (cx, cy) = (corners[..., i, :2].unbind(-1) for i in range(3))
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    inverse = 1.0 / torch.where(area.abs() > SMALLEST_AREA, area, 1.0)
    wb = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) * inverse
    wc = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) * inverse
    return torch.stack([1.0 - wb - wc, wb, wc], -1)


def _rasterize_torch(points: torch.Tensor, faces: torch.Tensor, size: int) -> torch.Tensor:
    pictures = len(points)
    buffer = torch.full((pictures, size * size), EMPTY, dtype=torch.int64, device=points.device)
    corners = points[:, faces]  # (N, F, 3, 3)
    x, y = corners[..., :2].unbind(-1)
    area = (x[..., 1] - x[..., 0]) * (y[..., 2] - y[..., 0])
    area = area - (x[..., 2] - x[..., 0]) * (y[..., 1] - y[..., 0])
    left = (x.amin(-1) - 0.5).ceil().clamp(min=0)
    right = (x.amax(-1) - 0.5).floor().clamp(max=size - 1)
    top = (y.amin(-1) - 0.5).ceil().clamp(min=0)
    bottom = (y.amax(-1) - 0.5).floor().clamp(max=size - 1)
    columns, rows = (right - left + 1).long(), (bottom - top + 1).long()
    boxed = (area.abs() > SMALLEST_AREA) & (columns > 0) & (rows > 0)
    for picture, face in zip(*(t.split(PAIRED) for t in boxed.nonzero(as_tuple=True)), strict=True):
        # Every pixel of every box, laid out in one row.
        wide = columns[picture, face]
        pixels = wide * rows[picture, face]
        owner = torch.repeat_interleave(torch.arange(len(face), device=face.device), pixels)
        place = torch.arange(len(owner), device=face.device) - (pixels.cumsum(0) - pixels)[owner]
        column = left[picture, face].long()[owner] + place % wide[owner]
        row = top[picture, face].long()[owner] + place // wide[owner]
        corner = corners[picture, face][owner]
        weights = barycentric(corner, column + 0.5, row + 0.5)
        depth = (weights * corner[..., 2]).sum(-1)
        key = ((depth + 1.0) * DEPTH_SCALE).long() << FACE_BITS | face[owner]
        inside = (weights >= 0).all(-1)
        target = (picture[owner] * size + row) * size + column
        buffer.view(-1).scatter_reduce_(0, target[inside], key[inside], "amin")
    return buffer.view(pictures, size, size)


def rasterize(
    points: torch.Tensor, faces: torch.Tensor, size: int, *, kernel: bool | None = None
) -> torch.Tensor:
    """Faces seen by the pixels of square pictures.

    Args:
        points: (N, V, 3) column and row in pixels (centres at .5), depth in -1..1, near is small.
        faces: (F, 3) int64, F below 65 536.
        size: pixels a side.
        kernel: None takes the Triton kernel on CUDA; False forces plain torch.

    Returns:
        (N, size, size) int64 face numbers, -1 where nothing is seen.
    """
    if kernel is None:
        kernel = triton is not None and points.is_cuda
    if kernel:
        count = len(points)
        buffer = torch.full((count, size, size), EMPTY, dtype=torch.int64, device=points.device)
        grid = (triton.cdiv(len(faces), BLOCK), count)
        _rasterize_kernel[grid](
            points.contiguous(),
            faces.int().contiguous(),
            buffer,
            len(faces),
            points.shape[1],
            size,
            block=BLOCK,
            depth_scale=DEPTH_SCALE,
            smallest=SMALLEST_AREA,
            num_warps=2,
        )
    else:
        buffer = _rasterize_torch(points, faces, size)
    return torch.where(buffer == EMPTY, -1, buffer & ((1 << FACE_BITS) - 1))
