"""The order in which the project's own kernels read a weight, so that a bundle holds it ready for use.

Blocks of 16 outputs by 64 inputs, 1 KB each: uint8 [ceil(N/16), ceil(K/64), 16 * 16 * 4], in a block 16 groups of four
inputs, in a group 16 outputs, the four inputs innermost. A byte is the code plus 128; what is beyond N or K is 128,
the code 0. Sixteen outputs by four inputs are one 512-bit vector, a block is one tile of a matrix unit.

Codes of four bits: the same blocks at 512 bytes. Byte [r][n][j] of [8][16][4] holds of output n the input 4r + j in its
low nibble and 32 + 4r + j in its high one, each as the code plus 8: so a mask gives the first half of a block's groups
in their order, and a shift the second. Their scales lie [ceil(N/16), groups, 16], as the sums of a block come out.
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
_NIBBLE_ZERO = 8


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


def pack_nibbles(codes: Array) -> Array:
    """Return int4 codes [N,K], in any integer type, as blocks of nibbles, uint8 [ceil(N/16), ceil(K/64), 512]."""
    rows, columns = codes.shape
    padded = np.full((-(-rows // OUTPUTS) * OUTPUTS, -(-columns // INPUTS) * INPUTS), _NIBBLE_ZERO, np.uint8)
    padded[:rows, :columns] = codes.astype(np.int8) + np.int8(_NIBBLE_ZERO)
    # [columns of blocks, 16 outputs, blocks, halves, 8 groups, 4 inputs]
    split = padded.reshape(-1, OUTPUTS, padded.shape[1] // INPUTS, 2, INPUTS // 2 // FOUR, FOUR)
    pairs = split[:, :, :, 0] | split[:, :, :, 1] << 4
    return np.ascontiguousarray(pairs.transpose(0, 2, 3, 1, 4)).reshape(len(split), -1, OUTPUTS * INPUTS // 2)


def unpack_nibbles(packed: Array, rows: int, columns: int) -> Array:
    """Return the codes of `pack_nibbles` as int8 [rows,columns]."""
    pairs = packed.reshape(*packed.shape[:2], INPUTS // 2 // FOUR, OUTPUTS, FOUR).transpose(0, 3, 1, 2, 4)
    split = np.stack([pairs & np.uint8(15), pairs >> 4], axis=3).astype(np.int8) - np.int8(_NIBBLE_ZERO)
    codes: Array = split.reshape(packed.shape[0] * OUTPUTS, -1)[:rows, :columns]
    return codes


def pack_scales(scale: Array) -> Array:
    """Return the scales [N,groups] beside blocks of nibbles, of the same type: [ceil(N/16), groups, 16], 0 beyond N."""
    rows, groups = scale.shape
    padded = np.zeros((-(-rows // OUTPUTS) * OUTPUTS, groups), scale.dtype)
    padded[:rows] = scale
    return np.ascontiguousarray(padded.reshape(-1, OUTPUTS, groups).transpose(0, 2, 1))


def unpack_scales(packed: Array, rows: int) -> Array:
    """Return the scales [rows,groups] of `pack_scales`."""
    scale: Array = packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])[:rows]
    return scale
