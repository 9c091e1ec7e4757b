"""What a generation cost and what its drafts were worth, counted round by round."""

from __future__ import annotations

from dataclasses import dataclass

from forerun._core import Round


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of one generation. A round here is a decode round; reading the prompt is counted apart.

    Times are spent in the C core (library run and loop), in microseconds; the caller's own time between streamed
    chunks is not in them.
    """

    prompt_tokens: int
    new_tokens: int  # the length of Generation.tokens
    rounds: int
    drafted: int  # draft tokens verified
    accepted: int  # those of them that were committed
    acceptance_length: float  # committed tokens per round, the target's own included; 0.0 without a round
    verified_width: float  # mean rows of the rounds that verified drafts, padding among them; 0.0 without one
    looked_up_share: float  # share of rounds that verified what prompt lookup found; 0.0 without a round
    looked_up_accepted: float  # mean accepted draft tokens of these rounds; 0.0 without one
    plain_share: float  # share of rounds that the target ran alone, without a draft; 0.0 without a round
    acceptance_per_position: tuple[float, ...]  # share of rounds whose draft i was accepted; empty if none drafted
    prefill_us: float  # all of reading the prompt; gives the first new token
    decode_us: float  # all decode rounds
    session_us: float  # mean of a decode round: inside the execution library
    loop_us: float  # mean of a decode round: everything else
    tokens_per_s: float  # tokens committed by decode rounds per second of decode_us; 0.0 without a round


class StatisticsCounter:
    """Adds up rounds; `draft_len` is the most draft tokens that one of them verifies, the drafter's or looked up."""

    def __init__(self, prompt_tokens: int, draft_len: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._reached = [0] * draft_len
        self._looked_up = self._looked_up_accepted = 0
        self._rounds = self._drafted = self._committed = self._plain = self._verifying = self._rows = 0
        self._prefill_us = self._session_us = self._loop_us = 0.0

    def add(self, finished: Round) -> None:
        """Counts one round, prefill or decode."""
        if finished.phase == "prefill":
            self._prefill_us += finished.session_us + finished.loop_us
            return
        self._rounds += 1
        self._drafted += finished.n_drafted
        self._plain += finished.graph == "plain"
        if finished.looked_up:
            self._looked_up += 1
            self._looked_up_accepted += finished.n_accepted
        if finished.n_drafted:
            self._verifying += 1
            self._rows += finished.width
        self._committed += len(finished.committed)
        self._session_us += finished.session_us
        self._loop_us += finished.loop_us
        for slot in range(finished.n_accepted):
            self._reached[slot] += 1

    def total(self, new_tokens: int) -> Statistics:
        """The figures so far. `new_tokens` may be less than was committed: a stop string cuts the last round."""
        rounds = max(self._rounds, 1)
        decode_us = self._session_us + self._loop_us
        return Statistics(
            prompt_tokens=self._prompt_tokens,
            new_tokens=new_tokens,
            rounds=self._rounds,
            drafted=self._drafted,
            accepted=sum(self._reached),
            acceptance_length=self._committed / rounds,
            verified_width=self._rows / max(self._verifying, 1),
            looked_up_share=self._looked_up / rounds,
            looked_up_accepted=self._looked_up_accepted / max(self._looked_up, 1),
            plain_share=self._plain / rounds,
            acceptance_per_position=tuple(count / rounds for count in self._reached) if self._drafted else (),
            prefill_us=self._prefill_us,
            decode_us=decode_us,
            session_us=self._session_us / rounds,
            loop_us=self._loop_us / rounds,
            tokens_per_s=self._committed / decode_us * 1e6 if decode_us else 0.0,
        )
