"""Tensors as they go over the wire: dense, or sparse as compressed rows (CSR)."""

from __future__ import annotations

import numpy as np
from tinker.proto import tinker_public_pb2 as pb

PROTOBUF = "application/x-protobuf"
_DTYPES = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_INT64: np.int64, pb.DTYPE_INT32: np.int32}
_LARGEST = 1 << 28  # values of a sparse tensor when it is laid out


class BadRequest(Exception):
    """A request that cannot be served as it is; the message says what was expected."""


def array_of(tensor: pb.Tensor, what: str) -> np.ndarray:
    """Of one or two dimensions. Raises `BadRequest`, which begins with `what`."""
    dtype = np.dtype(_DTYPES.get(tensor.dtype, np.void))
    if dtype.kind == "V":
        raise BadRequest(f"{what} is not a tensor of float32 or int64 values")
    shape = list(tensor.shape)
    if len(shape) > 2 or min(shape, default=0) < 0:
        raise BadRequest(f"{what} has the shape {shape}: expected one or two dimensions")
    if tensor.HasField("sparse_csr"):
        return _dense(tensor.sparse_csr, dtype, shape, what)
    values = _values(tensor.dense, dtype, what)
    if shape and np.prod(shape, dtype=np.int64) != len(values):
        raise BadRequest(f"{what} has the shape {shape} and holds {len(values)} values")
    return values.reshape(shape or [-1])


def _dense(csr: pb.SparseCsr, dtype: np.dtype, shape: list[int], what: str) -> np.ndarray:
    """Laid out, with zeros where nothing is listed."""
    values = _values(csr.values, dtype, what)
    ends = _values(csr.crow_indices, np.dtype(np.int64), what)
    columns = _values(csr.col_indices, np.dtype(np.int64), what)
    fits = (
        len(shape) == 2
        and shape[0] * shape[1] <= _LARGEST
        and len(ends) == shape[0] + 1
        and ends[0] == 0
        and ends[-1] == len(columns) == len(values)
        and (np.diff(ends) >= 0).all()
        and ((columns >= 0) & (columns < shape[1])).all()
    )
    if not fits:
        raise BadRequest(f"{what} is not a sparse tensor of the shape {shape}")
    dense = np.zeros(shape, dtype)
    dense[np.repeat(np.arange(shape[0]), np.diff(ends)), columns] = values
    return dense


def _values(content: bytes, dtype: np.dtype, what: str) -> np.ndarray:
    if len(content) % dtype.itemsize:
        raise BadRequest(f"{what} is not a whole number of {dtype} values")
    return np.frombuffer(content, dtype)
