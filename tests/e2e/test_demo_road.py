"""The main road on a tiny random pair: checkpoints, recipe, build, load, generate."""

import pytest

import forerun
from tiny_pairs import CAPACITY, PROMPTS, BuiltPair

DECODINGS = ("speculative", "padded", "plain")


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_are_those_of_transformers(
    pair: BuiltPair, engine: forerun.Engine, prompt: str, decoding: str
) -> None:
    """Token for token: the random target's best logits lie apart by far more than float32 rounding."""
    generation = engine.generate(prompt, max_new_tokens=100, decoding=decoding)
    assert generation.tokens == pair.continuation(engine.encode(prompt), 100)
    assert generation.statistics.new_tokens == len(generation.tokens)


def test_drafts_are_accepted_and_rejected(engine: forerun.Engine) -> None:
    """Else the comparison above would prove little."""
    accepted = [
        one.n_accepted
        for prompt in PROMPTS
        for one in engine.rounds(prompt, max_new_tokens=100)
        if one.phase == "decode"
    ]
    assert min(accepted) == 0
    assert max(accepted) >= 3
    assert 20 < sum(accepted) < 250


def test_the_context_fills_to_its_capacity(pair: BuiltPair, engine: forerun.Engine) -> None:
    prompt = PROMPTS[2]
    for decoding in DECODINGS:
        generation = engine.generate(prompt, max_new_tokens=1000, decoding=decoding)
        assert generation.finish_reason == "capacity"
        room = CAPACITY - len(engine.encode(prompt))
        assert generation.tokens == pair.continuation(engine.encode(prompt), room)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_sampling_is_reproduced_by_its_seed(engine: forerun.Engine, decoding: str) -> None:
    first, again, other = (
        engine.generate(PROMPTS[0], max_new_tokens=60, temperature=2.0, seed=seed, decoding=decoding).tokens
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_sampling_accepts_drafts(engine: forerun.Engine) -> None:
    accepted = sum(
        engine.generate(PROMPTS[0], max_new_tokens=100, temperature=1.0, seed=seed).statistics.accepted
        for seed in range(5)
    )
    assert accepted > 0


def test_streamed_text_is_the_whole_text(engine: forerun.Engine) -> None:
    stream = engine.generate(PROMPTS[1], max_new_tokens=100, stream=True)
    text = "".join(stream)
    assert text == engine.generate(PROMPTS[1], max_new_tokens=100).text == engine.decode(stream.generation.tokens)


def test_facts_are_those_of_recipe_and_checkpoints(engine: forerun.Engine) -> None:
    facts = engine.facts
    assert (facts.name, facts.target_architecture, facts.drafter_family) == ("tiny", "Qwen3ForCausalLM", "dspark")
    assert (facts.draft_len, facts.block_size, facts.capacity, facts.prefill_chunk) == (7, 7, CAPACITY, 16)


def test_text_and_ids_are_those_of_transformers(pair: BuiltPair, engine: forerun.Engine) -> None:
    text = "naïve = '漢字🙂'\n\tprint(naïve)"
    ids = engine.encode(text)
    assert ids == pair.tokenizer(text).input_ids
    assert engine.decode(ids) == pair.tokenizer.decode(ids) == text
