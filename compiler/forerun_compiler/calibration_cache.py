"""Calibrations on disk, by the content that they were made of: the graph with its weights, the tokens, the settings.

`KEY.calibration` is an uncompressed npz archive of plain arrays and behind it the SHA-256 of the archive, 32 bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx_ir as ir

from forerun_compiler import __version__
from forerun_compiler.activation_range import BINS, Calibration, LayerStatistics
from forerun_compiler.teacher_forcing import CalibrationSettings

FORMAT = 2
"""Of the file, and of what the statistics mean: another number finds none of the files that are there."""
SUFFIX = ".calibration"
OnMessage = Callable[[str], None]
_DIGEST = 32


def calibration_key(model: ir.Model, sequences: Sequence[Sequence[int]], settings: CalibrationSettings) -> str:
    """The SHA-256, in hex, of all that `calibrate` gets and of forerun's version; weights are read where they lie.

    Checkpoints, `capacity` and `draft_len` are in it by the graph that was made of them.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, __version__, asdict(settings), *map(list, sequences)]).encode())
    skeleton = model.clone()
    for name, value in skeleton.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        array = np.ascontiguousarray(tensor.numpy())
        digest.update(json.dumps([name, str(tensor.dtype), array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
        value.const_value = ir.tensor(np.zeros(0, np.uint8), name=name)
    digest.update(ir.to_proto(skeleton).SerializeToString(deterministic=True))
    return digest.hexdigest()


def load_or_run(key: str, folder: Path, compute: Callable[[], Calibration], on_message: OnMessage) -> Calibration:
    """The calibration of `key` from `folder`, or else what `compute` gives, which is kept there.

    `on_message` is told, in one line, of a file that is damaged (it is computed anew and replaced) and of a folder that
    cannot be written. The file appears whole or not at all.
    """
    file = folder / f"{key}{SUFFIX}"
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        data = None
    except OSError as error:
        on_message(f"{file}: the kept calibration cannot be read ({error.strerror}); calibrating again")
        data = None
    if data is not None:
        archive, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(archive).digest() == digest:
            return _unpack(archive)
        on_message(f"{file}: the kept calibration is damaged; calibrating again")
    calibration = compute()
    try:
        _keep(file, _pack(calibration))
    except OSError as error:
        on_message(f"{file}: the calibration cannot be kept ({error.strerror}); the next build calibrates again")
    return calibration


def _keep(file: Path, archive: bytes) -> None:
    """Write under another name, then rename: who reads meanwhile sees all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        part.write_bytes(archive + hashlib.sha256(archive).digest())
        part.replace(file)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _pack(calibration: Calibration) -> bytes:
    """Equal calibrations give equal bytes; numpy dates the members of an archive 1980."""
    found = list(calibration.layers.values())
    names = json.dumps([list(calibration.layers), list(calibration.missing)])
    buffer = io.BytesIO()
    np.savez(
        buffer,
        names=np.frombuffer(names.encode(), np.uint8),
        tokens=np.array(calibration.tokens, np.int64),
        rows=np.array([each.rows for each in found], np.int64),
        absmax=np.array([each.absmax for each in found], np.float64),
        channels=np.array([each.second_moment.size for each in found], np.int64),
        histograms=np.array([each.histogram for each in found], np.int64).reshape(-1, BINS),
        second_moments=np.concatenate([each.second_moment for each in found] or [np.zeros(0)]),
    )
    return buffer.getvalue()


def _unpack(archive: bytes) -> Calibration:
    with np.load(io.BytesIO(archive), allow_pickle=False) as found:
        layers, missing = json.loads(found["names"].tobytes())
        rows, absmax, histograms = found["rows"], found["absmax"], found["histograms"]
        moments = np.split(found["second_moments"], np.cumsum(found["channels"])[:-1])
        tokens = int(found["tokens"])
    statistics = {
        layer: LayerStatistics(int(rows[i]), float(absmax[i]), histograms[i], moments[i])
        for i, layer in enumerate(layers)
    }
    return Calibration(statistics, tuple(missing), tokens)
