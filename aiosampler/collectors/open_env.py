"""An adapter that makes an environment of an OpenEnv client."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import gymnasium as gym


class OpenEnvAdapter:
    """An environment with Gymnasium's spaces and signatures, around an asynchronous OpenEnv client.

    OpenEnv is not imported: a client is whatever has coroutines ``reset(**kwargs)`` and ``step(action)`` that return a
    ``StepResult`` with the attributes `observation`, `reward` and `done`, and may be entered by ``async with``. A
    client knows neither spaces nor arrays, so you say what they are::

        def make(*, context):
            return OpenEnvAdapter(
                EchoEnv(base_url="http://127.0.0.1:8000"),
                observation_space=gym.spaces.Box(0, 100, (1,), np.float32),
                action_space=gym.spaces.Discrete(4),
                to_action=lambda action: EchoAction(message=str(action)),
                to_observation=lambda seen: np.array([seen.message_length], np.float32),
            )

    A reward of None is 0. `done` means that the episode terminated, unless result or observation have an attribute
    `truncated` that is true. The `metadata` of an observation is the info.

    Args:
        client: The client.
        observation_space: The space of the observations that `to_observation` returns.
        action_space: The space of the actions that `to_action` gets.
        to_action: Converts an action of the space to one of the client; by default it is passed on unchanged.
        to_observation: Converts an observation of the client to one of the space; by default it is passed on unchanged.
    """

    def __init__(
        self,
        client: Any,
        *,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        to_action: Callable[[Any], Any] = lambda action: action,
        to_observation: Callable[[Any], Any] = lambda observation: observation,
    ) -> None:
        self.client, self.observation_space, self.action_space = client, observation_space, action_space
        self._to_action, self._to_observation = to_action, to_observation

    async def __aenter__(self) -> Self:
        """Enter the client, if it can be."""
        if hasattr(type(self.client), "__aenter__"):
            await self.client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Leave the client, or close it."""
        if hasattr(type(self.client), "__aexit__"):
            await self.client.__aexit__(*exc_info)
        else:
            await self.close()

    async def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset it, with the seed if the client takes one, and with the options as named arguments."""
        named = dict(options or {})
        if seed is not None and _takes_seed(self.client.reset):
            named["seed"] = seed
        result = await self.client.reset(**named)
        return self._to_observation(result.observation), _info(result)

    async def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step it."""
        result = await self.client.step(self._to_action(action))
        cut = bool(getattr(result, "truncated", False) or getattr(result.observation, "truncated", False))
        reward, done = result.reward, bool(result.done)
        return (
            self._to_observation(result.observation),
            0.0 if reward is None else float(reward),
            done and not cut,
            cut,
            _info(result),
        )

    async def close(self) -> None:
        """Close the client, if it can be."""
        closing = self.client.close() if hasattr(self.client, "close") else None
        if inspect.isawaitable(closing):
            await closing


def _info(result: Any) -> dict[str, Any]:
    metadata = getattr(result.observation, "metadata", None)
    return dict(metadata) if isinstance(metadata, Mapping) else {}


def _takes_seed(reset: Any) -> bool:
    try:
        inspect.signature(reset).bind(seed=0)
    except (TypeError, ValueError):
        return False
    return True
