"""Policies: what a worker costs, or by which rule one is taken.

A policy is one small class with a name. Those that can be said in numbers give `terms`, and the native
core computes the costs of all candidates and reserves in one step. One's own may compute them in numpy.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Loads, Terms
from kvatlas.index.choosing.filters import Candidate
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import ConfigError
from kvatlas.index.scores import TIERS


class PolicyView(NamedTuple):
    """What a policy of one's own goes by. Rows are candidates."""

    candidates: Sequence[Candidate]
    """[n]"""
    prompt_tokens: int
    output_tokens: int
    """Expected of the answer."""
    block_size_tokens: int
    """0: not known; nothing has matched then."""
    tier_blocks: npt.NDArray[np.uint32]
    """[n, 5] blocks that can be reused: gpu, cpu, disk, storage, unknown."""
    cached_tokens: npt.NDArray[np.float64]
    """[n] what is predicted to be reused, from events or from what was sent there before."""
    loads: Loads
    """[n] each: what the workers have to do."""
    session_row: int
    """Of the worker that has served the session; -1: none."""


@runtime_checkable
class NativePolicy(Protocol):
    """A policy that numbers can say."""

    name: str

    def terms(self, config: ChoosingConfig) -> Terms:
        """Asked once."""
        ...


@runtime_checkable
class CostPolicy(Protocol):
    """A policy of one's own: `package.module:Class`, made with `policy_options`.

    Called for every request, from any thread, with nothing held; it decides how long choices take.
    """

    name: str

    def costs(self, view: PolicyView) -> npt.NDArray[np.float64]:
        """[n] the least is chosen, ties by lot; infinity: not this one."""
        ...


Policy = NativePolicy | CostPolicy


class Weighted:
    """The default: tokens to prefill here, and what the worker has to prefill and decode already, each
    with its weight (docs/routing.md)."""

    name = "weighted"

    def terms(self, config: ChoosingConfig) -> Terms:
        weights = config.weights
        return _terms(config, overlap=weights.overlap, prefill=weights.prefill, decode=weights.decode)


class LongestPrefix:
    """Whoever can reuse most of the prompt, whatever it has to do; of equals the least loaded."""

    name = "longest_prefix"

    def terms(self, config: ChoosingConfig) -> Terms:
        return _terms(config, kind=self.name)


class LeastLoaded:
    """Whoever has least to do, whatever it holds."""

    name = "least_loaded"

    def terms(self, config: ChoosingConfig) -> Terms:
        weights = config.weights
        return _terms(config, kind=self.name, overlap=0.0, prefill=weights.prefill, decode=weights.decode)


class RoundRobin:
    """One after the other."""

    name = "round_robin"

    def terms(self, config: ChoosingConfig) -> Terms:
        return _terms(config, kind=self.name)


class Random:
    """Any, by lot."""

    name = "random"

    def terms(self, config: ChoosingConfig) -> Terms:
        return _terms(config, kind=self.name)


class DecodeSide:
    """The worker that decodes where another prefills: what must be moved to it, and what it has to do."""

    name = "decode"

    def terms(self, config: ChoosingConfig) -> Terms:
        weights = config.weights
        return _terms(
            config,
            overlap=config.transfer_cost,
            prefill=weights.prefill,
            decode=weights.decode,
            reserves_prefill=False,
        )


class PrefillSide(Weighted):
    """The worker that prefills where another decodes."""

    name = "prefill"

    def terms(self, config: ChoosingConfig) -> Terms:
        weights = config.weights
        return _terms(
            config,
            overlap=weights.overlap,
            prefill=weights.prefill,
            decode=weights.decode,
            reserves_decode=False,
        )


_BUILT_IN: Mapping[str, type[NativePolicy]] = {
    policy.name: policy for policy in (Weighted, LongestPrefix, LeastLoaded, RoundRobin, Random)
}


def load_policy(name: str, options: Mapping[str, float | int | str | bool], path: str) -> Policy:
    """The policy of this name, or of one's own by its import path. `path`: of the setting.

    Raises ConfigError where there is none, or it cannot be made.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(f"{path}: expected {', '.join(_BUILT_IN)} or package.module:Class, got {name!r}")
    try:
        policy = getattr(importlib.import_module(module), attribute)(**options)
    except Exception as error:
        raise ConfigError(f"{path}: {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(policy, (NativePolicy, CostPolicy)):
        raise ConfigError(f"{path}: expected {name!r} to have a name, and terms or costs")
    return policy


def _terms(
    config: ChoosingConfig,
    *,
    kind: str = "weighted",
    overlap: float = 1.0,
    prefill: float = 1.0,
    decode: float = 1.0,
    reserves_prefill: bool = True,
    reserves_decode: bool = True,
) -> Terms:
    tier_costs = [config.tier_costs.get(tier, 0.0 if tier == "gpu" else 1.0) for tier in TIERS]
    return Terms(
        kind=kind,
        overlap=overlap,
        prefill=prefill,
        decode=decode,
        temperature=config.temperature,
        tier_costs=np.array(tier_costs, np.float64),
        hot_requests=config.hot_requests,
        session_bonus_tokens=config.session_bonus_tokens,
        reserves_prefill=reserves_prefill,
        reserves_decode=reserves_decode,
    )


def checked_costs(policy: CostPolicy, view: PolicyView) -> npt.NDArray[np.float64]:
    """Its costs, if they are any. Raises ValueError where they are not, and whatever the policy raises."""
    costs = np.ascontiguousarray(cast(object, policy.costs(view)), dtype=np.float64)
    if costs.shape != (len(view.candidates),):
        raise ValueError(f"costs: expected shape ({len(view.candidates)},), got {costs.shape}")
    if np.isnan(costs).any() or np.isneginf(costs).any():
        raise ValueError("costs: expected numbers, got NaN or minus infinity")
    return costs
