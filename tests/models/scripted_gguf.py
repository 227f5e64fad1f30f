"""Writes a small llama model that always says the same text, whatever it is asked.

Random weights never write a tool call, and a model that does is too large to fetch for a test. Here every
piece of the text is a token of its own, no layer writes to the residual stream, and the output matrix maps
each piece to the next one, any other token to the first, and the last to the end of the answer.
"""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
from tiny_gguf import BYTE_TOKENS, SPECIAL_TOKENS

WIDTH = 64
HEADS = 4
FEED_FORWARD = 64
CONTEXT = 8_192
END_OF_TEXT = 2

# In the manner of the models whose calls llama-server knows how to read.
TEMPLATE = """
{%- if tools %}<|im_start|>system
You may call functions. Their signatures:
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
Answer a call with a JSON object within <tool_call></tool_call>:
<tool_call>
{"name": <name>, "arguments": <object>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- if message.tool_calls %}{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def _pieces(text: str) -> list[str]:
    """The text in pieces of at least three characters, each of them different."""
    pieces: list[str] = []
    while text:
        length = next(n for n in range(4, len(text) + 5) if text[:n] not in pieces)
        rest = text[length:]
        # No rest too short to be a piece: the tokenizer would merge it from bytes.
        piece = text if len(rest) < 3 else text[:length]
        pieces.append(piece)
        text = text[len(piece) :]
    return pieces


def write(text: str, path: Path) -> Path:
    """Writes a model that says `text` to `path`, whole or not at all, and returns the path."""
    pieces = _pieces(text)
    first = len(SPECIAL_TOKENS) + BYTE_TOKENS
    vocabulary = first + len(pieces)
    assert len(pieces) + 2 <= WIDTH, "one dimension per piece"

    tokens = [word.encode() for word in SPECIAL_TOKENS]
    tokens += [f"<0x{byte:02X}>".encode() for byte in range(BYTE_TOKENS)]
    tokens += [piece.encode() for piece in pieces]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * BYTE_TOKENS + [gguf.TokenType.NORMAL] * len(pieces)

    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_name("scripted")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END_OF_TEXT)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)

    # Dimension 0 is "no piece of the text", dimension n + 1 is "piece n".
    embedding = np.zeros((vocabulary, WIDTH), dtype=np.float32)
    embedding[:first, 0] = 1
    output = np.full((vocabulary, WIDTH), -1, dtype=np.float32)
    for n in range(len(pieces)):
        embedding[first + n, n + 1] = 1
        output[first + n, n] = 8
    output[END_OF_TEXT, len(pieces)] = 8

    norm = np.ones(WIDTH, dtype=np.float32)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", norm)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("blk.0.attn_norm.weight", norm)
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{part}.weight", np.zeros((WIDTH, WIDTH), dtype=np.float32))
    writer.add_tensor("blk.0.ffn_norm.weight", norm)
    for part, shape in (
        ("ffn_gate", (FEED_FORWARD, WIDTH)),
        ("ffn_up", (FEED_FORWARD, WIDTH)),
        ("ffn_down", (WIDTH, FEED_FORWARD)),
    ):
        writer.add_tensor(f"blk.0.{part}.weight", np.zeros(shape, dtype=np.float32))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)
    return path
