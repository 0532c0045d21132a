"""Kernels as real-time and best-effort work has them, compiled by Triton without a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def add(x, y, out, n, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    kept = at < n
    tl.store(out + at, tl.load(x + at, kept) + tl.load(y + at, kept), kept)


@triton.jit
def scale(x, factor, n, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(x + at, tl.load(x + at, at < n) * factor, at < n)


@triton.jit
def gelu(x, out, n, programs, SIZE: tl.constexpr):
    for tile in range(tl.program_id(0), tl.cdiv(n, SIZE), programs):
        at = tile * SIZE + tl.arange(0, SIZE)
        value = tl.load(x + at, at < n)
        tl.store(out + at, value * tl.sigmoid(1.702 * value), at < n)


@triton.jit
def softmax(x, out, stride, n, SIZE: tl.constexpr):
    row, at = tl.program_id(0) * stride, tl.arange(0, SIZE)
    value = tl.load(x + row + at, at < n, other=-float("inf"))
    value = tl.exp(value - tl.max(value, 0))
    tl.store(out + row + at, value / tl.sum(value, 0), at < n)


@triton.jit
def norm(x, out, weight, bias, stride, n, eps, SIZE: tl.constexpr):
    row, at = tl.program_id(0) * stride, tl.arange(0, SIZE)
    value = tl.load(x + row + at, at < n, other=0.0).to(tl.float32)
    mean = tl.sum(value, 0) / n
    away = tl.where(at < n, value - mean, 0.0)
    value = away / tl.sqrt(tl.sum(away * away, 0) / n + eps)
    value = value * tl.load(weight + at, at < n) + tl.load(bias + at, at < n)
    tl.store(out + row + at, value, at < n)


@triton.jit
def product(a, b, c, m, n, k, stride_a, stride_b, stride_c,
            M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0) * M + tl.arange(0, M)
    columns = tl.program_id(1) * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    left = a + rows[:, None] * stride_a + inner[None, :]
    right = b + inner[:, None] * stride_b + columns[None, :]
    total = tl.zeros([M, N], tl.float32)
    for at in range(0, k, K):
        one = tl.load(left, inner[None, :] < k - at, other=0.0)
        other = tl.load(right, inner[:, None] < k - at, other=0.0)
        total = tl.dot(one, other, total)
        left += K
        right += K * stride_b
    kept = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(c + rows[:, None] * stride_c + columns[None, :], total.to(tl.float16), kept)


@triton.jit
def embedding(index, gradient, out, width, SIZE: tl.constexpr):
    row, at = tl.load(index + tl.program_id(0)), tl.arange(0, SIZE)
    value = tl.load(gradient + tl.program_id(0) * width + at, at < width, other=0.0)
    tl.atomic_add(out + row * width + at, value, at < width)


@triton.jit
def adam(weight, gradient, first, second, rate, one, two, eps, n, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    g = tl.load(gradient + at, at < n)
    m = tl.load(first + at, at < n) * one + g * (1 - one)
    v = tl.load(second + at, at < n) * two + g * g * (1 - two)
    tl.store(first + at, m, at < n)
    tl.store(second + at, v, at < n)
    w = tl.load(weight + at, at < n)
    tl.store(weight + at, w - rate * m / (tl.sqrt(v) + eps), at < n)


FLOATS, HALVES, NUMBERS, NUMBER = "*fp32", "*fp16", "*i64", "i32"
KERNELS = {
    add: ([FLOATS] * 3 + [NUMBER], {"SIZE": 1024}, 4),
    scale: ([FLOATS, "fp32", NUMBER], {"SIZE": 1024}, 4),
    gelu: ([FLOATS] * 2 + [NUMBER] * 2, {"SIZE": 1024}, 4),
    softmax: ([HALVES] * 2 + [NUMBER] * 2, {"SIZE": 2048}, 8),
    norm: ([HALVES] * 2 + [FLOATS] * 2 + [NUMBER] * 2 + ["fp32"], {"SIZE": 1024}, 8),
    product: ([HALVES] * 3 + [NUMBER] * 6, {"M": 128, "N": 128, "K": 64}, 8),
    embedding: ([NUMBERS, FLOATS, FLOATS, NUMBER], {"SIZE": 1024}, 4),
    adam: ([FLOATS] * 4 + ["fp32"] * 4 + [NUMBER], {"SIZE": 1024}, 4),
}


def compiled(arch: int) -> Mapping[str, tuple[str, int, int]]:
    """Of each kernel by its name: PTX, threads of a block, bytes of shared memory given to it."""
    found = {}
    for function, (types, constants, warps) in KERNELS.items():
        names = function.arg_names
        signature = dict(zip(names, [*types, *("constexpr" for _ in constants)], strict=True))
        values = {(names.index(name),): value for name, value in constants.items()}
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if str(signature[name])[0] == "*" or name in ("k", "n", "width", "stride")
            or name.startswith("stride_")
        }  # fmt: skip
        source = ASTSource(function, signature, constexprs=values, attrs=aligned)
        target = GPUTarget("cuda", arch, 32)
        made = triton.compile(source, target=target, options={"num_warps": warps})
        found[function.__name__] = made.asm["ptx"], 32 * warps, made.metadata.shared
    return found
