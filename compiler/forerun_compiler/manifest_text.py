"""The sealed JSON text of a manifest, written and read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from forerun_compiler.errors import BundleError
from forerun_compiler.manifest import FORMAT, Manifest

SEAL_PREFIX = '  "seal": "'


def render(manifest: Manifest) -> bytes:
    """The sealed UTF-8 text of manifest.json: the last line but one holds the SHA-256 of all bytes before that line."""
    text = json.dumps(asdict(manifest) | {"seal": ""}, indent=2, ensure_ascii=False, allow_nan=False)
    body = text[: text.rindex(SEAL_PREFIX)].encode()
    return body + f'{SEAL_PREFIX}{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def parse(data: bytes, where: str) -> Manifest:
    """Read manifest.json; `where` names the file in messages.

    Raises:
        BundleError: another format version, a broken seal, or a field that is missing, unknown or of a wrong type.
    """
    version = _format_of(data)
    if version is not None and version != FORMAT:
        raise BundleError(
            f"{where}: the bundle has format {version}, this forerun reads format {FORMAT}; "
            "build it again with this version, or install the version that built it"
        )
    _check_seal(data, where)
    return _validate(data, where)


def _format_of(data: bytes) -> object:
    """The format number if the text is JSON at all: a future format may be sealed in another way."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found.get("format") if isinstance(found, dict) else None


def _check_seal(data: bytes, where: str) -> None:
    start = data.rfind(SEAL_PREFIX.encode())
    if start < 0:
        raise BundleError(
            f"{where}: expected a seal in the last lines, found none: the file is cut short or was not written by "
            "forerun; build the bundle again"
        )
    expected = hashlib.sha256(data[:start]).hexdigest()
    tail = f'{SEAL_PREFIX}{expected}"\n}}\n'.encode()
    if data[start:] != tail:
        found = data[start + len(SEAL_PREFIX) :][:64].decode(errors="replace")
        raise BundleError(
            f"{where}: damaged or edited by hand: its bytes have SHA-256 {expected}, its seal says {found}; "
            "build the bundle again"
        )


def _validate(data: bytes, where: str) -> Manifest:
    from pydantic import TypeAdapter, ValidationError

    fields: dict[str, Any] = json.loads(data)
    fields.pop("seal", None)
    try:
        # validate_json, not validate_python: in strict mode only JSON may give lists for tuples.
        return TypeAdapter(Manifest).validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{where}: {place}: {first['msg']}, found {first['input']!r}; "
            "the manifest is sealed, so this forerun does not know how it was written: build the bundle again"
        ) from None
