"""The order in which the project's own kernels read a weight, so that a bundle holds it ready for use.

Blocks of 16 outputs by 64 inputs, 1 KB each: uint8 [ceil(N/16), ceil(K/64), 16 * 16 * 4], in a block 16 groups of four
inputs, in a group 16 outputs, the four inputs innermost. A byte is the code plus 128; what is beyond N or K is 128,
the code 0. Sixteen outputs by four inputs are one 512-bit vector, a block is one tile of a matrix unit.
"""

from __future__ import annotations

import numpy as np

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats.checks import Array

OUTPUTS, INPUTS, FOUR = 16, 64, 4
"""Of a block: outputs and inputs; and the inputs that lie side by side."""
MOST_INPUTS = 131072
"""128 * 127 * K must fit an int32."""
_ZERO = 128


def pack_blocks(codes: Array, where: str = "weight") -> Array:
    """Return int8 codes [N,K] as blocks, uint8 [ceil(N/16), ceil(K/64), 1024].

    Raises:
        PassError: K is too large for an exact sum; `where` names the weight.
    """
    rows, columns = codes.shape
    if columns > MOST_INPUTS:
        raise PassError(
            f"{where}: expected at most {MOST_INPUTS} inputs, whose products an int32 can sum; found {columns}. "
            "Give this layer another scheme in precision.overrides"
        )
    padded = np.full((-(-rows // OUTPUTS) * OUTPUTS, -(-columns // INPUTS) * INPUTS), _ZERO, np.uint8)
    padded[:rows, :columns] = codes.view(np.uint8) ^ np.uint8(_ZERO)  # adds 128
    split = padded.reshape(-1, OUTPUTS, padded.shape[1] // INPUTS, INPUTS // FOUR, FOUR)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 1, 4)).reshape(len(split), -1, OUTPUTS * INPUTS)


def unpack_blocks(packed: Array, rows: int, columns: int) -> Array:
    """Return the int8 codes [rows,columns] of `pack_blocks`."""
    split = packed.reshape(*packed.shape[:2], INPUTS // FOUR, OUTPUTS, FOUR).transpose(0, 3, 1, 2, 4)
    codes: Array = (split.reshape(packed.shape[0] * OUTPUTS, -1)[:rows, :columns] ^ np.uint8(_ZERO)).view(np.int8)
    return codes
