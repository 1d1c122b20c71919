"""How hard tests of random input look, in one place: each profile at its share of all examples.

KVATLAS_HYPOTHESIS_PROFILE names the profile. Seeds are new in every run, so that runs add up.
"""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, Phase, settings

PROFILE = os.environ.get("KVATLAS_HYPOTHESIS_PROFILE", "default")
SHARES = {"thorough": 1.0, "default": 0.25, "fast": 0.1, "sanitize": 0.2}
"""Of `make test-thorough`, `make test`, `make test-fast` and `make sanitize`."""
_FEW = 5
_EXAMPLES = 100
"""Of a property that says no number, in the thorough profile."""
_STEPS = {"fast": 20, "sanitize": 30}


def examples(thorough: int) -> int:
    """This profile's share of so many examples, stories, kills or rounds; a few at least."""
    return min(thorough, max(_FEW, round(thorough * SHARES[PROFILE])))


def fresh_seeds(count: int) -> range:
    """So many seeds that no run has had."""
    begin = random.SystemRandom().randrange(1 << 40)
    return range(begin, begin + count)


def load() -> None:
    """Has hypothesis look as hard as the profile says, where a test says nothing else."""
    if PROFILE not in SHARES:
        raise ValueError(f"KVATLAS_HYPOTHESIS_PROFILE is one of {', '.join(SHARES)}, not {PROFILE!r}")
    shrinks = PROFILE != "sanitize"  # each example is slow there
    settings.register_profile(
        PROFILE,
        max_examples=examples(_EXAMPLES),
        stateful_step_count=_STEPS.get(PROFILE, 50),
        deadline=None,  # two busy cores make any single example slow now and then
        derandomize=False,  # as hypothesis would by itself where CI is set
        print_blob=True,
        phases=[phase for phase in Phase if shrinks or phase not in (Phase.shrink, Phase.explain)],
        suppress_health_check=[HealthCheck.too_slow],  # it would say how busy the machine is
    )
    settings.load_profile(PROFILE)
