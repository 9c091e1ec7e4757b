"""Where the installed package keeps what embedders use."""

from importlib.metadata import distribution
from pathlib import Path

import forerun


def core_folder() -> Path:
    """The folder with include/forerun.h and lib/libforerun.so: the package's own, or, where the package is installed
    in editable mode, the one beside its metadata."""
    folder = Path(forerun.__file__).parent
    if not (folder / "lib").is_dir():
        folder = Path(str(distribution("forerun").locate_file("forerun")))
    assert (folder / "lib" / "libforerun.so").is_file(), f"forerun is not installed: no lib/libforerun.so in {folder}"
    return folder
