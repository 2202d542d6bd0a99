"""Reads .npy files of two dimensions (f4, f8, f2) and compares rows. Standard library only."""
import array
import ast
import math
import struct


def read_npy(path):
    """A list of rows, each an array of floats."""
    with open(path, "rb") as file:
        magic = file.read(8)
        if magic[:6] != b"\x93NUMPY":
            raise ValueError(f"{path}: not an npy file")
        size = struct.unpack("<H", file.read(2))[0] if magic[6] == 1 else struct.unpack("<I", file.read(4))[0]
        header = ast.literal_eval(file.read(size).decode("latin-1"))
        body = file.read()
    rows, columns = header["shape"]
    if header["fortran_order"]:
        raise ValueError(f"{path}: column-major order")
    kind = header["descr"]
    if kind == "<f2":
        flat = array.array("f", struct.unpack(f"<{rows * columns}e", body))
    else:
        flat = array.array({"<f4": "f", "<f8": "d"}[kind])
        flat.frombytes(body)
    return [flat[i * columns:(i + 1) * columns] for i in range(rows)]


def cosine(a, b):
    lengths = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b)) / lengths if lengths else 0.0


def cosines(a, b):
    if len(a) != len(b):
        raise ValueError(f"{len(a)} rows against {len(b)}")
    return [cosine(x, y) for x, y in zip(a, b)]
