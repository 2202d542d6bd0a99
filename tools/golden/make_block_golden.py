#!/usr/bin/env python3
"""Writes tests/golden/blocks.json: quantised blocks of each type and what the reference makes of them.

usage: make_block_golden.py > tests/golden/blocks.json          needs numpy 2.4.6 and gguf 0.19.0

Blocks are random bytes with scales that are finite: usual ones, subnormal ones, negative ones, zeros. Values are the
bits of f32, eight hexadecimal digits each.
"""
import json

import gguf
import numpy

# type: blocks, where its f16 scales lie in a block
TYPES = {"Q8_0": (6, [0]), "Q4_0": (6, [0]), "Q4_1": (6, [0, 2]), "Q4_K": (3, [0, 2]), "Q6_K": (3, [208])}
SCALES = [0.0123, -0.5, 2.0 ** -20, 0.0, 57.25, -0.00071]


def main():
    random = numpy.random.default_rng(20)
    out = {}
    for name, (n, places) in TYPES.items():
        kind = getattr(gguf.GGMLQuantizationType, name)
        _, n_bytes = gguf.GGML_QUANT_SIZES[kind]
        data = random.integers(0, 256, (n, n_bytes), dtype=numpy.uint8)
        for i in range(n):
            for j, place in enumerate(places):
                scale = numpy.float16(SCALES[(i + 2 * j) % len(SCALES)])
                data[i, place:place + 2] = numpy.frombuffer(scale.tobytes(), numpy.uint8)
        values = gguf.quants.dequantize(data, kind).astype(numpy.float32)
        out[name.lower()] = {"blocks": data.tobytes().hex(),
                             "values": values.reshape(-1).view(numpy.uint32).astype(">u4").tobytes().hex()}
    print(json.dumps(out, indent=0))


if __name__ == "__main__":
    main()
