"""The loop on known tokens: speculation on and off commit the same, by the rounds that the tables dictate."""

import itertools

import pytest

import forerun
from table_bundle import EOS, VOCAB_SIZE, TableBundle

DECODINGS = ("speculative", "padded", "plain")


def tokens_of(rounds: forerun.Rounds) -> list[int]:
    return [token for one in rounds for token in one.committed]


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize(
    "prompt", [b"a", b"xyza", b"xyzabc\xc3", b"a prompt of more than one chunk, longer than 8 tokens"]
)
def test_greedy_tokens_are_the_tables_own(
    engine: forerun.Engine, bundle: TableBundle, decoding: str, prompt: bytes
) -> None:
    expected = bundle.greedy_tokens(list(prompt), 70)
    assert tokens_of(engine.rounds(list(prompt), max_new_tokens=70, decoding=decoding)) == expected


def test_the_rounds_are_those_of_the_drafter(engine: forerun.Engine, bundle: TableBundle) -> None:
    rounds = [r for r in engine.rounds("xyza", max_new_tokens=60) if r.phase == "decode"]
    expected = bundle.greedy_tokens(list(b"xyza"), 64)
    done = 1  # committed by the prefill
    for one, following in itertools.pairwise(rounds):
        assert one.committed == tuple(expected[done : done + one.n_accepted + 1])
        assert one.n_drafted == 4
        done += len(one.committed)
        agreed = [draft == true for draft, true in zip(one.draft_tokens, expected[done:], strict=False)]
        assert following.n_accepted == (agreed.index(False) if False in agreed else 4) or following is rounds[-1]
    assert {0, 1, 2, 4} <= {one.n_accepted for one in rounds}


def test_fewer_drafts_a_round_commit_the_same_tokens(engine: forerun.Engine, bundle: TableBundle) -> None:
    expected = bundle.greedy_tokens(list(b"xyza"), 50)
    for draft_len in (1, 2, 3):
        rounds = list(engine.rounds("xyza", max_new_tokens=50, draft_len=draft_len))
        assert [token for one in rounds for token in one.committed] == expected
        assert max(one.n_drafted for one in rounds) == draft_len


@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_seed_reproduces_and_another_seed_differs(engine: forerun.Engine, decoding: str) -> None:
    def sample(seed: int) -> list[int]:
        return tokens_of(engine.rounds("xyza", max_new_tokens=60, temperature=1.5, seed=seed, decoding=decoding))

    assert sample(5) == sample(5)
    assert sample(5) != sample(6)


def test_sampling_follows_the_target_whatever_the_decoding(engine: forerun.Engine, bundle: TableBundle) -> None:
    """Share of the script's own successors: 2,000 draws of a probability near 0.5, five standard deviations apart."""
    import numpy as np

    temperature, count = 1.6, 25
    for decoding in DECODINGS:
        hits = expected = variance = 0.0
        for seed in range(80):
            tokens = list(b"xyza")
            for token in tokens_of(
                engine.rounds("xyza", max_new_tokens=count, temperature=temperature, seed=seed, decoding=decoding)
            ):
                logits = bundle.logits(tokens).astype(np.float64) / temperature
                probabilities = np.exp(logits - logits.max())
                best = int(logits.argmax())
                p_best = probabilities[best] / probabilities.sum()
                hits += token == best
                expected += p_best
                variance += p_best * (1 - p_best)
                tokens.append(token)
        assert variance > 100
        assert abs(hits - expected) < 5 * variance**0.5, decoding


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 17])
def test_max_new_tokens_is_exact(engine: forerun.Engine, decoding: str, max_new_tokens: int) -> None:
    rounds = engine.rounds("xyza", max_new_tokens=max_new_tokens, decoding=decoding)
    assert len(tokens_of(rounds)) == max_new_tokens
    assert rounds.finish_reason == "length"


@pytest.mark.parametrize("decoding", DECODINGS)
def test_an_end_token_is_the_last_one(ending_engine: forerun.Engine, decoding: str) -> None:
    rounds = ending_engine.rounds("xyza", max_new_tokens=90, decoding=decoding)
    assert bytes(tokens_of(rounds)[:-1]).decode() == "bcé-d漢(e)🙂fgh!"
    assert rounds.finish_reason == "stop"
    assert tokens_of(ending_engine.rounds("xyza", max_new_tokens=90, decoding=decoding))[-1] == EOS


@pytest.mark.parametrize("decoding", DECODINGS)
def test_the_context_ends_at_its_capacity(engine: forerun.Engine, bundle: TableBundle, decoding: str) -> None:
    prompt = list(b"abc" * 60)
    rounds = engine.rounds(prompt, max_new_tokens=1000, decoding=decoding)
    tokens = tokens_of(rounds)
    assert rounds.finish_reason == "capacity"
    assert len(prompt) + len(tokens) == bundle.capacity
    assert tokens == bundle.greedy_tokens(prompt, len(tokens))


def test_a_prompt_is_read_in_chunks(engine: forerun.Engine) -> None:
    rounds = list(engine.rounds(list(b"x" * 19), max_new_tokens=3))
    prefill = [one for one in rounds if one.phase == "prefill"]
    assert [one.position for one in prefill] == [8, 16, 19]
    assert [len(one.committed) for one in prefill] == [0, 0, 1]


def test_a_round_says_what_was_drafted_next(engine: forerun.Engine) -> None:
    one = list(engine.rounds("xyza", max_new_tokens=40))[-3]
    assert len(one.draft_tokens) == len(one.draft_confidence) == 4
    assert all(0 <= token < VOCAB_SIZE for token in one.draft_tokens)
    assert all(0 < confidence <= 1 for confidence in one.draft_confidence)
    assert one.session_us > 0
    plain = list(engine.rounds("xyza", max_new_tokens=4, decoding="plain"))[-1]
    assert plain.draft_tokens == plain.draft_confidence == ()


def test_closing_or_dropping_an_iterator_frees_the_engine(engine: forerun.Engine) -> None:
    with engine.rounds("abc") as rounds:
        next(rounds)
    assert rounds.finish_reason == "cancelled"
    with pytest.raises(StopIteration):
        next(rounds)
    next(engine.rounds("abc"))  # dropped at once
    assert len(tokens_of(engine.rounds("abc", max_new_tokens=3))) == 3
