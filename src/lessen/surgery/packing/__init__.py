"""Tensors in as few bytes as give every bit back, and the file that holds them."""

from lessen.surgery.packing.arithmetic import packed_bytes
from lessen.surgery.packing.container import Contents, read_container, write_container
from lessen.surgery.packing.tensors import Behind, Known, Lattice, read_tensor, write_tensor

__all__ = [
    "Behind",
    "Contents",
    "Known",
    "Lattice",
    "packed_bytes",
    "read_container",
    "read_tensor",
    "write_container",
    "write_tensor",
]
