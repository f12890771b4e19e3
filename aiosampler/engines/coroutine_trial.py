"""Trying out an environment with coroutine methods through plain methods, which await them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.collectors.coroutine_environment import Care
from aiosampler.collectors.coroutine_environments import CoroutineEnvironments
from aiosampler.collectors.coroutine_lives import Lives
from aiosampler.memory.progress import CELLS
from aiosampler.runtime.loop_thread import LoopThread
from aiosampler.runtime.restarts import RestartBudget
from aiosampler.workers.failures import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium as gym


class AwaitedExample:
    """A plain environment around one with coroutine methods, which run in an event loop in a thread.

    Args:
        made: What `env_fn` returned.
        phase: Called with what is being done.
        process: Name of this process.
    """

    def __init__(self, made: Any, phase: Callable[[str], None], process: str) -> None:
        self._loop = LoopThread()
        none = np.zeros(1, np.int64)
        care = Care(
            process=process,
            rank=None,
            step_timeout=None,
            start_timeout=None,
            budget=RestartBudget(0, none.copy(), 0),
            describe=lambda exc: describe(exc, process, starting=True),
            abort=none,
        )
        lives = Lives(
            self._loop,
            lambda *_: (made, 0),
            lambda *_: None,
            None,
            np.zeros(CELLS, np.int64),
            evaluation=False,
            care=care,
        )
        self._unit = CoroutineEnvironments(lives, None)
        try:
            self._unit.add(1, phase)
        except BaseException:
            self.close()
            raise

    @property
    def observation_space(self) -> gym.Space[Any]:
        """Of the environment."""
        return self._unit.environment(0).observation_space  # type: ignore[no-any-return]

    @property
    def action_space(self) -> gym.Space[Any]:
        """Of the environment."""
        return self._unit.action_space(0)

    def reset(self, *, seed: int | None = None) -> tuple[Any, Any]:
        """Reset it."""
        answers: list[tuple[Any, Any]] = []
        seeds = None if seed is None else [seed]
        self._unit.reset([0], seeds, [None], lambda _, *answer: answers.append(answer))
        return answers[0]

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Step it."""
        answers: list[tuple[Any, Any, Any, Any, Any]] = []
        self._unit.step_apart({0: action}, lambda _, *answer: answers.append(answer))
        return answers[0]

    def close(self) -> None:
        """Close the environment and the loop."""
        try:
            self._unit.close()
        finally:
            self._loop.close()
