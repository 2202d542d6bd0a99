#!/usr/bin/env python3
"""A tiny chat model for tests of the server: random weights, a byte-level tokenizer, ChatML with tools. It answers with
noise, and counts, streams and stops like any other.

usage: make_chat.py FOLDER     writes FOLDER/config.json, model.safetensors, tokenizer.json, tokenizer_config.json
"""
import pathlib
import sys

sys.dont_write_bytecode = True
import make_decoders  # noqa: E402
import make_models  # noqa: E402

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}\n"
    "Call one as <tool_call>{\"name\": ..., \"arguments\": ...}</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def byte_letters():
    """GPT-2's letters for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, others = [], 0
    for byte in range(256):
        if byte in kept:
            letters.append(chr(byte))
        else:
            letters.append(chr(256 + others))
            others += 1
    return letters


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    vocabulary = {name: i for i, name in enumerate(SPECIAL)}
    for letter in byte_letters():
        vocabulary[letter] = len(vocabulary)
    added = [{"id": i, "content": name, "special": True, "normalized": False, "single_word": False, "lstrip": False,
              "rstrip": False} for i, name in enumerate(SPECIAL)]
    make_decoders.VOCABULARY = len(vocabulary)
    decoder = make_decoders.Decoder(21, "qwen2", n_kv_heads=2, tied=True, biases=True)
    shape, values = decoder.tensors["model.embed_tokens.weight"]  # also the head: milder, so that draws differ
    decoder.tensors["model.embed_tokens.weight"] = (shape, [value / 4 for value in values])
    config = {**decoder.config(), "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 2048}
    make_models.write_json(out / "config.json", config)
    make_models.write_safetensors(out / "model.safetensors", decoder.tensors,
                                  make_models.same(decoder.tensors, "F32"))
    make_models.write_json(out / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {letter: i for letter, i in vocabulary.items() if i >= len(SPECIAL)},
                  "merges": []}})
    make_models.write_json(out / "tokenizer_config.json", {
        "eos_token": "<|im_end|>", "bos_token": None, "chat_template": TEMPLATE})


if __name__ == "__main__":
    main()
