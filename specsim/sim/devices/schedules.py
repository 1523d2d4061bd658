"""One text on two or more devices: who drafts when, who verifies what, and what a wrong token undoes.

Every schedule is a SimPy process over the same ``Text``; a run gives the time at which each token was out. The last
tokens need not be whole rounds: a run ends with the text.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from specsim.errors import InputError
from specsim.sim.devices.link import Link
from specsim.sim.devices.text import Text

Floats = NDArray[np.float64]
ONE_HOST = Link()


@dataclass(frozen=True)
class Devices:
    """What the schedules run on.

    Args:
        draft_token_s: Seconds per token drafted, one after another.
        verify_s: Seconds of a target pass over n tokens, ``verify_s[n - 1]``; beyond its end it goes on in a line
            through its last two entries.
        up, down: From drafter to target, and back.
        bytes_per_draft_token: What goes up per token; a verdict going down is one message of 8 bytes.

    Raises:
        InputError: for times that are not positive.
    """

    draft_token_s: float
    verify_s: tuple[float, ...]
    up: Link = ONE_HOST
    down: Link = ONE_HOST
    bytes_per_draft_token: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.draft_token_s < np.inf:
            raise InputError("draft_token_s", "must be >= 0 and finite", self.draft_token_s)
        if not self.verify_s or not all(0 < time < np.inf for time in self.verify_s):
            raise InputError("verify_s", "must be times > 0, one at least", self.verify_s)

    def verification_s(self, num_tokens: int) -> float:
        """A target pass over ``num_tokens``.

        >>> Devices(0.1, (1.0, 1.5)).verification_s(4)
        2.5
        """
        known = self.verify_s
        if num_tokens <= len(known):
            return known[num_tokens - 1]
        slope = known[-1] - known[-2] if len(known) > 1 else 0.0
        return known[-1] + slope * (num_tokens - len(known))

    def up_s(self, num_tokens: int, rng: np.random.Generator | None) -> float:
        """A draft on its way to the target."""
        return self.up.seconds(num_tokens * self.bytes_per_draft_token, rng)

    def down_s(self, rng: np.random.Generator | None) -> float:
        """A verdict on its way back."""
        return self.down.seconds(8.0, rng)


@dataclass
class Run:
    """What a schedule did.

    Args:
        out_s: When each token was out.
        num_verifications: Target passes begun, those cancelled included.
        num_drafted: Draft tokens made, those thrown away included.
        num_cancelled: Target passes whose answer nobody needed any more.
        target_s: Target time spent on all of them.
    """

    out_s: list[float] = field(default_factory=list)
    num_verifications: int = 0
    num_drafted: int = 0
    num_cancelled: int = 0
    target_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Of the whole text."""
        return len(self.out_s) / self.out_s[-1]

    def emit(self, num: int, now_s: float, most: int) -> None:
        """``num`` tokens more, as far as the text goes."""
        self.out_s += [now_s] * min(num, most - len(self.out_s))

    def verified(self, seconds: float) -> float:
        """One more target pass."""
        self.num_verifications += 1
        self.target_s += seconds
        return seconds


Process = Generator[Any, Any, None]


def played(
    process: Callable[[simpy.Environment, Run], Process],
) -> Run:
    """The run of a process, from time 0 until it ends."""
    env, run = simpy.Environment(), Run()
    env.process(process(env, run))
    env.run()
    return run


def plain(text: Text, devices: Devices) -> Run:
    """The target alone, token by token."""

    def process(env: simpy.Environment, run: Run) -> Process:
        for _ in range(len(text)):
            yield env.timeout(run.verified(devices.verification_s(1)))
            run.emit(1, env.now, len(text))

    return played(process)


def serial(text: Text, devices: Devices, draft_len: int, rng: np.random.Generator | None = None) -> Run:
    """Draft, send, verify, send back: nobody works while the other does."""
    _check("draft_len", draft_len, 0)

    def process(env: simpy.Environment, run: Run) -> Process:
        while (done := len(run.out_s)) < len(text):
            run.num_drafted += draft_len
            yield env.timeout(draft_len * devices.draft_token_s + (devices.up_s(draft_len, rng) if draft_len else 0.0))
            yield env.timeout(run.verified(devices.verification_s(draft_len + 1)))
            run.emit(text.num_right(done, draft_len) + 1, env.now, len(text))
            yield env.timeout(devices.down_s(rng) if draft_len else 0.0)

    return played(process)


def pearl(text: Text, devices: Devices, draft_len: int, rng: np.random.Generator | None = None) -> Run:
    """Draft while verifying: the first token is checked while the rest is drafted, then the next draft is made.

    Before anything is pending the target checks the first token of the draft that is being made (pre-verify). If it
    holds, the rest is verified while the drafter goes on as if all were right (post-verify). A wrong token throws away
    what was drafted beyond it, and the next round is a pre-verify again. Beyond a link, a round lasts from the draft's
    departure to the verdict's return, or as long as the drafter works.

    Source: PEARL (Liu et al. 2024, arXiv:2408.11850).
    """
    _check("draft_len", draft_len, 1)

    def process(env: simpy.Environment, run: Run) -> Process:
        pending = 0  # drafted, all after the last token out, not yet verified
        while (done := len(run.out_s)) < len(text):
            tokens = max(pending, 1)
            run.num_drafted += draft_len
            trip = devices.up_s(tokens, rng) + run.verified(devices.verification_s(tokens)) + devices.down_s(rng)
            yield env.timeout(max(draft_len * devices.draft_token_s, trip))
            right = text.num_right(done, tokens)
            if pending == 0:
                # The verdict is on the first token alone: it, or the right one in its place, comes out.
                run.emit(1, env.now, len(text))
                pending = draft_len - 1 if right else 0
            elif right == pending:
                run.emit(pending, env.now, len(text))
                pending = draft_len
            else:
                run.emit(right + 1, env.now, len(text))
                pending = 0

    return played(process)


def asynchronous(
    text: Text,
    devices: Devices,
    num_targets: int = 1,
    lookahead: int | None = None,
    rng: np.random.Generator | None = None,
) -> Run:
    """The drafter never waits; whatever was drafted goes to the next free target; a wrong token cancels all after it.

    A target pass over m tokens drafted since what is known gives the truth of these and of one more. It begins as soon
    as a target is free and ``lookahead`` new tokens are there, or at once after a correction, over what is known alone.
    With one target that takes all there is this is AMUSD; with several and a fixed lookahead it is distributed
    speculative inference, which with enough of them is never slower than either plain or serial decoding. All targets
    are taken to hold the text so far in their caches.

    Args:
        text, devices: What is decoded, on what.
        num_targets: Servers of the target.
        lookahead: New tokens per target pass; None: whatever is there, one at least.
        rng: For the jitter of the links.

    Source: DSI (Timor et al. 2024, arXiv:2405.14105); AMUSD (McDanel 2024, arXiv:2410.17375).
    """
    _check("num_targets", num_targets, 1)
    _check("lookahead", 1 if lookahead is None else lookahead, 1)
    each_s = devices.draft_token_s

    def process(env: simpy.Environment, run: Run) -> Process:
        while len(run.out_s) < len(text):
            yield from until_corrected(env, run, env.now, len(text) - len(run.out_s))

    def until_corrected(env: simpy.Environment, run: Run, start: float, left: int) -> Process:
        """From one correction (or the start) to the next, or to the end of the text."""
        last = min(text.num_right(len(run.out_s), left), left - 1)  # the token whose truth ends this stretch
        free, sent, known, heard, corrected = [start] * num_targets, -1, 0, start, None
        while sent < left - 1:
            server = int(np.argmin(free))
            options = {min(_wanted(free[server] - start, sent), left - 1), min(known, left - 1)}
            # A token that is known need not be drafted: where drafts are slow the target goes on by itself.
            ready = {
                end: max(free[server], min(start + end * each_s, heard if end <= known else np.inf))
                for end in options
                if end > sent
            }
            wanted = min(ready, key=lambda end: (ready[end], -end))
            fresh = wanted - max(sent, 0)
            arrive = ready[wanted] + (devices.up_s(fresh, rng) if fresh else 0.0)
            if corrected is not None and arrive >= corrected:
                break
            spent = devices.verification_s(max(fresh, 1))
            free[server], sent = arrive + spent, wanted
            run.num_verifications += 1
            if corrected is not None:
                run.num_cancelled += 1
                run.target_s += min(spent, corrected - arrive)
                continue
            run.target_s += spent
            heard = max(heard, arrive + spent + devices.down_s(rng))
            yield env.timeout(heard - env.now)
            run.emit(min(wanted, last) + 1 - known, heard, len(text))
            known = min(wanted, last) + 1
            corrected = heard if wanted >= last else None
        made = (heard - start) / each_s if each_s else float(left)
        run.num_drafted += int(min(made, left))

    def _wanted(since_s: float, sent: int) -> int:
        """Tokens drafted that the next pass covers, counted from the last correction."""
        if sent < 0:
            return 0
        if lookahead is not None:
            return sent + lookahead
        return max(int(since_s / each_s + 1e-9), sent + 1) if each_s else len(text)

    return played(process)


def prefetched(
    text: Text,
    devices: Devices,
    draft_len: int,
    fan_out: int,
    prepare_s: float | None = None,
    rng: np.random.Generator | None = None,
) -> Run:
    """While a draft is verified, prepare the next one for its likely outcomes.

    Where the outcome is among them, the next verification begins at once.

    An outcome is how many tokens are kept, and the token that comes after them. Prepared are, for each number kept,
    the ``fan_out`` likeliest next tokens in the drafter's eyes: after a wrong token its second to (fan_out + 1)-th
    choice, since the first was just refused; after all were kept its first to ``fan_out``-th.

    Args:
        text: With ``rank``, which says how deep the true token lies among the drafter's choices.
        devices: What it runs on.
        draft_len: Tokens drafted per round.
        fan_out: Next tokens prepared for each number kept; 0 prepares nothing, which is serial decoding.
        prepare_s: Time to prepare them all, batched; that of drafting ``draft_len`` tokens where left out.
        rng: For the jitter of the links.

    Source: speculative speculative decoding (Saguaro).
    """
    _check("draft_len", draft_len, 1)
    _check("fan_out", fan_out, 0)
    rank = np.where(text.agrees, 0, np.iinfo(np.int64).max) if text.rank is None else text.rank
    prepare = draft_len * devices.draft_token_s if prepare_s is None else prepare_s

    def process(env: simpy.Environment, run: Run) -> Process:
        hit = False
        while (done := len(run.out_s)) < len(text):
            run.num_drafted += draft_len
            if not hit:
                yield env.timeout(draft_len * devices.draft_token_s)
            trip = devices.up_s(draft_len, rng) + run.verified(devices.verification_s(draft_len + 1))
            trip += devices.down_s(rng)
            right = text.num_right(done, draft_len)
            after = done + right
            first = 1 if right < draft_len else 0  # what was refused can not be the next token
            hit = fan_out > 0 and after < len(text) and first <= rank[after] < first + fan_out
            yield env.timeout(max(trip, prepare) if hit else trip)
            run.emit(right + 1, env.now, len(text))

    return played(process)


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(name, f"must be >= {least}", value)
