"""The shipped text is there, varied, and enough."""

from __future__ import annotations

import itertools

from forerun_compiler.calibration_text import TEXTS
from forerun_compiler.teacher_forcing import CalibrationSettings


def test_it_suffices_for_the_default_settings() -> None:
    # English text has about four characters a token in large vocabularies.
    assert sum(len(text) for text in TEXTS) / 4.0 >= CalibrationSettings().tokens


def test_texts_are_no_copies_of_one_another() -> None:
    for one, other in itertools.combinations(TEXTS, 2):
        assert one[:40] != other[:40]


def test_it_is_not_of_one_script() -> None:
    letters = "".join(TEXTS)
    for block in ("az", "а я", "一 龥", "ぁ ゖ", "가 힣", "ء ي"):
        assert any(block[0] <= letter <= block[-1] for letter in letters), block
