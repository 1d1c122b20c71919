"""Random sequences of what may happen, told to a world, and cut down when one goes wrong.

A world has methods of a number or none, each fit to be called at any time. Faster than hypothesis by
far, which matters where the rare coincidence is what is looked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

Step = tuple[str, int]
"""Name of a method, and its number."""
Story = list[Step]


def random_story(rng: random.Random, weights: Mapping[str, float], steps_max: int) -> Story:
    """Up to so many steps, drawn by weight; each story leaves some kinds out, which tells them apart."""
    names = [name for name in weights if rng.random() < 0.8] or list(weights)
    drawn = rng.choices(names, [weights[name] for name in names], k=rng.randint(1, steps_max))
    return [(name, rng.randrange(1 << 16)) for name in drawn]


def shortest(story: Story, fails: Callable[[Story], bool]) -> Story:
    """The story without the steps that the failure does not need."""
    size = len(story) // 2
    while size:
        at = 0
        while at < len(story):
            shorter = story[:at] + story[at + size :]
            if fails(shorter):
                story = shorter
            else:
                at += size
        size //= 2
    return story


def tell_many(
    tell: Callable[[int, Story], None],
    seeds: Sequence[int],
    weights: Mapping[str, float],
    steps_max: int,
) -> int:
    """Tell a story for each seed; returns how many. A failure is cut down and raised with its story."""
    for count, seed in enumerate(seeds, 1):
        story = random_story(random.Random(seed), weights, steps_max)
        try:
            tell(seed, story)
        except Exception as error:
            raise AssertionError(explained(tell, seed, story, count)) from error
    return len(seeds)


def explained(tell: Callable[[int, Story], None], seed: int, story: Story, count: int) -> str:
    """What went wrong with a story, and the least of it that does."""

    def failure(steps: Story) -> str:
        try:
            tell(seed, steps)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    least = shortest(story, lambda steps: bool(failure(steps)))
    return f"story {count}, seed {seed}: {failure(least)}\n{least}"
