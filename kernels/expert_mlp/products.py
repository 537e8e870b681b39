"""Products of rows, sorted by expert, with the matrices of their experts: in one call, or one by
one.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..permutation.op import Order

# E experts  I columns of the rows given  O columns of the rows wanted  N rows  n rows of an expert


class Products(Protocol):
    """Without gradients: whoever calls them makes the gradients of them. Rows, matrices and results
    are of one dtype. An expert without rows is fine, and so are no rows at all."""

    def of_rows(self, rows_NI: Tensor, w_EIO: Tensor) -> Tensor:
        """Returns rows[n] @ w[expert of n], (N, O). w may be a transposed view."""

    def of_weights(self, rows_NI: Tensor, rows_NO: Tensor) -> Tensor:
        """Returns the sum of the outer products of each expert's rows, (E, I, O)."""


class Grouped:
    """`torch.nn.functional.grouped_mm`: one kernel on CUDA, a loop inside torch on a processor.

    Strides must be multiples of 16 bytes, and there is no fp64.
    """

    def __init__(self, order: Order) -> None:
        # every row belongs to an expert, so that end_E[-1] == N and no row of a product is left
        # unwritten
        self.end_E = order.end_E

    def of_rows(self, rows_NI: Tensor, w_EIO: Tensor) -> Tensor:
        return F.grouped_mm(rows_NI, w_EIO, offs=self.end_E)

    def of_weights(self, rows_NI: Tensor, rows_NO: Tensor) -> Tensor:
        return F.grouped_mm(rows_NI.t(), rows_NO, offs=self.end_E)


class OneByOne:
    """A loop over experts for what grouped_mm lacks: odd sizes, fp64, and a fast product of half
    precision on processors without instructions for it.

    Half precision is multiplied in fp32 and the product rounded, as hardware for it does. Waits for
    the device once, to learn how many rows each expert has.
    """

    def __init__(self, order: Order) -> None:
        self.sizes = order.end_E.diff(prepend=order.end_E.new_zeros(1)).tolist()

    def of_rows(self, rows_NI: Tensor, w_EIO: Tensor) -> Tensor:
        out_NO = rows_NI.new_empty(len(rows_NI), w_EIO.shape[2])
        parts = (rows_NI.split(self.sizes), w_EIO.unbind(), out_NO.split(self.sizes))
        for rows_nI, w_IO, out_nO in zip(*parts, strict=True):
            _multiply(rows_nI, w_IO, out_nO)
        return out_NO

    def of_weights(self, rows_NI: Tensor, rows_NO: Tensor) -> Tensor:
        out_EIO = rows_NI.new_empty(len(self.sizes), rows_NI.shape[1], rows_NO.shape[1])
        parts = (rows_NI.split(self.sizes), rows_NO.split(self.sizes), out_EIO.unbind())
        for rows_nI, rows_nO, out_IO in zip(*parts, strict=True):
            _multiply(rows_nI.t(), rows_nO, out_IO)  # a sum over no rows is written, as zeros
        return out_EIO


def _multiply(a_XY: Tensor, b_YZ: Tensor, out_XZ: Tensor) -> None:
    if out_XZ.dtype.itemsize >= 4:
        torch.mm(a_XY, b_YZ, out=out_XZ)
    else:
        out_XZ.copy_(a_XY.float() @ b_YZ.float())
