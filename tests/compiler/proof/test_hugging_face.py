"""The reference model: its greedy tokens are the argmax of its logits, whatever the checkpoint's own defaults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny_models
from forerun_compiler.errors import CheckpointError
from forerun_compiler.proof.hugging_face import HuggingFaceReference
from forerun_compiler.recipe import ModelReference

PROMPT = tuple(range(60, 76))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_models.save_target(
        tmp_path_factory.mktemp("models") / "target", num_hidden_layers=2, tie_word_embeddings=False
    )
    defaults = {"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.5, "max_length": 3, "eos_token_id": 5}
    (made / "generation_config.json").write_text(json.dumps(defaults))
    return made


def load(folder: Path, end_tokens: tuple[int, ...] = ()) -> HuggingFaceReference:
    torch.set_num_threads(1)
    return HuggingFaceReference(ModelReference(str(folder), is_folder=True), end_tokens)


def test_greedy_is_the_argmax_of_its_own_logits(folder: Path) -> None:
    reference = load(folder)
    found = reference.greedy(PROMPT, 12)
    assert len(found) == 12
    for place, token in enumerate(found):
        logits = reference.logits(PROMPT + found[:place])
        assert logits.shape == (tiny_models.VOCAB,)
        assert token == int(logits.argmax())


def test_it_stops_at_the_end_tokens_of_the_bundle(folder: Path) -> None:
    free = load(folder).greedy(PROMPT, 12)
    place = next(index for index in range(12) if free[index] not in free[:index] and index > 0)
    assert load(folder, (free[place],)).greedy(PROMPT, 12) == free[: place + 1]


def test_a_folder_that_transformers_cannot_load(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(CheckpointError, match="transformers cannot load the source checkpoint"):
        load(tmp_path)
