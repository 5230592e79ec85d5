"""The matrix products of real models, as (N, K) of ``x[M, K] @ w[K, N]``."""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """One matrix product of a model, with weights [n, k]."""

    model: str
    name: str
    n: int
    k: int
    rows: tuple[int, ...] = (1, 512)  # the M to measure: a token, and a prompt or a batch

    def __str__(self) -> str:
        return f"{self.model} {self.name}"


# One of the two halves of gate_up: the shape that targets are stated for, for every M.
HEADLINE = Layer("Llama-3.1-8B", "up", 14336, 4096, (1, 2, 4, 8, 16, 64, 512))

LLAMA = (
    Layer("Llama-3.1-8B", "qkv", 6144, 4096),
    Layer("Llama-3.1-8B", "out", 4096, 4096),
    Layer("Llama-3.1-8B", "gate_up", 28672, 4096),
    Layer("Llama-3.1-8B", "down", 4096, 14336),
)
QWEN = (
    Layer("Qwen3-0.6B", "qkv", 4096, 1024),
    Layer("Qwen3-0.6B", "out", 1024, 2048),
    Layer("Qwen3-0.6B", "gate_up", 6144, 1024),
    Layer("Qwen3-0.6B", "down", 1024, 3072),
)
GPT_OSS = (  # the products of one expert
    Layer("gpt-oss", "qkv", 5120, 2880),
    Layer("gpt-oss", "out", 2880, 4096),
    Layer("gpt-oss", "gate_up", 5760, 2880),
    Layer("gpt-oss", "down", 2880, 2880),
)
RESNET = (  # convolutions of one image as products: M pixels, K = height * width * channels
    Layer("ResNet-50", "3x3 64", 64, 576, (3136,)),
    Layer("ResNet-50", "3x3 128", 128, 1152, (784,)),
    Layer("ResNet-50", "3x3 256", 256, 2304, (196,)),
    Layer("ResNet-50", "3x3 512", 512, 4608, (49,)),
    Layer("ResNet-50", "1x1 1024-256", 256, 1024, (196,)),
    Layer("ResNet-50", "1x1 512-2048", 2048, 512, (49,)),
)
LAYERS = (HEADLINE, *LLAMA, *QWEN, *GPT_OSS, *RESNET)
