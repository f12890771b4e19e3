"""Resuming a run in another process, after a crash or the end of a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiosampler.errors import ConfigError, SamplerError
from aiosampler.samplers.state import State
from aiosampler.specs.arguments import as_integer
from aiosampler.specs.seeding import resumed_seed

if TYPE_CHECKING:
    from aiosampler.options import Options
    from aiosampler.samplers.session import Session
    from aiosampler.samplers.shared_buffers import SharedBuffers

_KEYS = ("seed", "resumes", "itr", "policy_version")


class Resuming:
    """The part of a sampler that saves how far a run has come, and resumes it from there."""

    seed: int
    options: Options
    _session: Session
    _shared: SharedBuffers | None
    _given_seed: int | None
    _resumes = 0
    _next_itr = 0
    _first_version = 0

    def state_dict(self) -> dict[str, int]:
        """How far the sampler has come, to be saved with model and optimiser, for `load_state_dict`.

        Callable at any time. It has only integers, so JSON and ``torch.load(weights_only=True)`` can load it.

        Returns:
            A dict with ``seed``; ``itr``, the number of the batch after the last that was obtained;
            ``policy_version``, the one that was published last; ``resumes``, how many times the run was resumed.
        """
        version = self._first_version if self._shared is None else self._shared.policy_version
        return {"seed": self.seed, "resumes": self._resumes, "itr": self._next_itr, "policy_version": version}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another sampler has ended; call it before the start.

        ::

            sampler = AsyncCpuSampler(...)
            sampler.load_state_dict(checkpoint["sampler"])
            async with sampler:
                sampler.agent.model.load_state_dict(checkpoint["model"])
                sampler.publish()

        Batches are numbered from ``itr`` on, so schedules of the agent by the number of a batch go on, and policy
        versions from ``policy_version`` on, which is that of the parameters that the sampler starts with.

        Nothing of an environment is saved: all are built anew and begin new episodes; those that were in progress are
        dropped. No episode is seen twice, since environments are seeded by ``environment_seed(seed, b, resumes=...)``,
        and everything else that is random likewise. What `call`, `set_attr` and `set_reset_options` have set, the state
        of wrappers, such as running means, and curricula in environments are yours to save and to set again.
        `statistics` begin anew.

        Args:
            state: From `state_dict` of a sampler of any kind; T, B and environments may differ.

        Raises:
            ConfigError: It is not such a state, or another `seed` was given here.
            SamplerError: The sampler was started already.
        """
        if self._session.state is not State.NEW:
            raise SamplerError("load_state_dict() comes before the start of a sampler")
        if not isinstance(state, Mapping) or not set(_KEYS) <= set(state):
            raise ConfigError(f"load_state_dict() takes what state_dict() gave, with {', '.join(_KEYS)}; got {state!r}")
        seed, resumes, itr, version = (as_integer(f"state[{key!r}]", state[key], 0) for key in _KEYS)
        if self._given_seed is not None and self._given_seed != seed:
            raise ConfigError(f"seed={self._given_seed} is not that of the state, {seed}; leave it out")
        self.seed, self._resumes = seed, resumes + 1
        self.options = dataclasses.replace(self.options, seed=resumed_seed(seed, self._resumes))
        self._begin_at(itr, version)

    def _begin_at(self, itr: int, version: int) -> None:
        """Number the batches, and the policy versions, from these on."""
        self._next_itr = self._session.first_itr = itr
        self._first_version = version
