"""Writes small llama models with random weights, so that tests can run a real llama-server.

Nothing is downloaded and nothing is committed: the same seed gives the same file. The text such a
model writes means nothing, but all of it is printable ASCII and it never ends by itself, so a test
decides by `max_tokens` how long an answer is.

How that is done without a bias in the output layer: dimension 0 of the residual stream holds one
constant for every token (the embedding sets it, no layer writes to it), hence column 0 of the output
matrix acts as a bias per token.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
BYTE_TOKENS = 256
PRINTABLE = range(0x20, 0x7F)


@dataclass(frozen=True)
class Shape:
    """Size of a model. `context` is what the model claims to have been trained on, in tokens."""

    name: str
    width: int
    layers: int
    heads: int
    feed_forward: int
    context: int = 32_768
    seed: int = 7


# About 0.5 MB and thousands of tokens per second: for everything that is about the wire.
TINY = Shape("tiny", width=64, layers=2, heads=4, feed_forward=160)
# About 45 MB and some hundred tokens per second on one core: for streams that must last a while.
WIDE = Shape("wide", width=512, layers=8, heads=8, feed_forward=1_280)
SHAPES = {shape.name: shape for shape in (TINY, WIDE)}


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """A byte vocabulary: three special tokens and one token per byte."""
    tokens = [word.encode() for word in SPECIAL_TOKENS]
    tokens += [f"<0x{byte:02X}>".encode() for byte in range(BYTE_TOKENS)]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * BYTE_TOKENS
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def _output_bias() -> np.ndarray:
    """Column 0 of the output matrix: only printable bytes are ever likely."""
    bias = np.full(len(SPECIAL_TOKENS) + BYTE_TOKENS, -8.0, dtype=np.float32)
    for byte in PRINTABLE:
        bias[len(SPECIAL_TOKENS) + byte] = 8.0
    return bias


def write(shape: Shape, path: Path) -> Path:
    """Writes the model to `path`, whole or not at all, and returns the path."""
    random = np.random.default_rng(shape.seed)
    vocabulary = len(SPECIAL_TOKENS) + BYTE_TOKENS

    def matrix(rows: int, columns: int) -> np.ndarray:
        scale = np.float32(columns**-0.5)
        return (random.standard_normal((rows, columns), dtype=np.float32) * scale).astype(np.float16)

    def writes_to_residual(rows: int, columns: int) -> np.ndarray:
        values = matrix(rows, columns)
        values[0, :] = 0
        return values

    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_name(f"{shape.name}-random")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer)

    embedding = matrix(vocabulary, shape.width)
    embedding[:, 0] = 1.0
    output = (matrix(vocabulary, shape.width) * np.float16(2.0)).astype(np.float16)
    output[:, 0] = _output_bias().astype(np.float16)
    norm = np.ones(shape.width, dtype=np.float32)

    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", norm)
    writer.add_tensor("output.weight", output)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", norm)
        for part in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"{block}.{part}.weight", matrix(shape.width, shape.width))
        writer.add_tensor(f"{block}.attn_output.weight", writes_to_residual(shape.width, shape.width))
        writer.add_tensor(f"{block}.ffn_norm.weight", norm)
        writer.add_tensor(f"{block}.ffn_gate.weight", matrix(shape.feed_forward, shape.width))
        writer.add_tensor(f"{block}.ffn_up.weight", matrix(shape.feed_forward, shape.width))
        writer.add_tensor(f"{block}.ffn_down.weight", writes_to_residual(shape.width, shape.feed_forward))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)
    return path


def main() -> None:
    """`tiny_gguf.py tiny|wide FILE`, for use by hand."""
    parser = argparse.ArgumentParser(description="write a small llama model with random weights")
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    path = write(SHAPES[arguments.shape], arguments.file)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
