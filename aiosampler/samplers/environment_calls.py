"""Calls of the environments from the user's process: methods, attributes, and options of their resets."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiosampler.errors import ConfigError, text_of
from aiosampler.pickling import dumps
from aiosampler.samplers.interrupted import leaves_nothing
from aiosampler.specs.arguments import as_bool
from aiosampler.workers.messages import Ask, Call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.options import Options
    from aiosampler.samplers.session import Session

#: Methods that only the sampler may call: a call by the user would make its records wrong.
OURS = ("step", "reset", "close")


class EnvironmentCalls:
    """The part of a sampler that calls its environments, with the names of Gymnasium's vector environments.

    Environments are called between two batches: after the batch that is being collected, and before the next one. With
    `overlap`, while you have batch k, batch k + 1 is being collected, so what you set takes effect from batch k + 2 on;
    without, from the next one. This is the same in every kind of sampler. The observation with which a batch begins is
    the one that an environment returned last, so an attribute that is set shows after the next step or reset.

    If a worker is replaced (`max_worker_restarts`), its new environments are reset, get the calls of `call`,
    `set_attr` and `set_reset_options` that the ones before had got (of each name the last), and are reset again.

    Arguments and results are pickled, and each environment gets a copy of its own. Cancelling a call that has begun
    does not take it back.

    `env_indices` names environments by their index, 0 to `batch_B` - 1, or `eval_n_envs` - 1 with `evaluation`; an int
    is one of them, None all. Answers come in that order.
    """

    options: Options
    _session: Session

    @leaves_nothing
    async def call(
        self,
        name: str,
        /,
        *args: Any,
        env_indices: int | Iterable[int] | None = None,
        evaluation: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Call a method of environments, that of the outermost wrapper that has it.

        The environments are called whatever one of them raises; that is raised here, and the sampler goes on.

        Args:
            name: Name of the method; an attribute that is not callable is returned.
            args: Its arguments.
            env_indices: Which environments; all by default.
            evaluation: Whether those of evaluation.
            kwargs: Its named arguments.

        Returns:
            What each returned.

        Raises:
            ConfigError: An argument is wrong or cannot be pickled, or a result cannot.
            UnknownAttribute: An environment has no such method.
            WorkerError: An environment raised; of several, the first.
            SamplerClosed: The sampler does not run.
            SamplerError: A process failed. The sampler is closed, unless its worker is replaced.
        """
        what = f"the arguments of call({name!r})"
        return await self._ask(Ask.CALL, name, [_pack(what, (args, kwargs))], env_indices, evaluation)

    @leaves_nothing
    async def get_attr(
        self, name: str, env_indices: int | Iterable[int] | None = None, evaluation: bool = False
    ) -> list[Any]:
        """Copies of an attribute of environments, that of the outermost wrapper that has it.

        Args:
            name: Name of the attribute.
            env_indices: Which environments; all by default.
            evaluation: Whether those of evaluation.

        Raises:
            SamplerError: As for `call`.
        """
        return await self._ask(Ask.GET, name, [NOTHING], env_indices, evaluation)

    @leaves_nothing
    async def set_attr(
        self, name: str, values: Any, env_indices: int | Iterable[int] | None = None, evaluation: bool = False
    ) -> None:
        """Set an attribute of environments, that of the outermost wrapper that has it; one has to.

        Args:
            name: Name of the attribute.
            values: A list or tuple has one value for each of the environments; anything else is for all of them.
            env_indices: Which environments; all by default.
            evaluation: Whether those of evaluation.

        Raises:
            SamplerError: As for `call`.
        """
        each = isinstance(values, list | tuple)
        packed = [_pack(f"the value of {name}", value) for value in (values if each else [values])]
        await self._ask(Ask.SET, name, packed, env_indices, evaluation, each=each)

    @leaves_nothing
    async def set_reset_options(
        self,
        options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None,
        env_indices: int | Iterable[int] | None = None,
        evaluation: bool = False,
    ) -> None:
        """Pass ``options`` to later resets of environments: a start state, or a level of a curriculum.

        The first reset of each environment, when the sampler starts, gets none: what is to be in force from the first
        step on belongs into `env_kwargs`.

        Args:
            options: For all of the environments, or a list or tuple of one for each; None is none, as in the beginning.
            env_indices: Which environments; all by default.
            evaluation: Whether those of evaluation.

        Raises:
            TypeError: `options` are no mappings.
            SamplerError: As for `call`.
        """
        each, packed = isinstance(options, list | tuple), []
        for one in options if isinstance(options, list | tuple) else [options]:
            if one is not None and not isinstance(one, Mapping):
                raise TypeError(f"options must be a dict, a list of dicts or None, got {one!r}")
            packed.append(_pack("options", None if one is None else dict(one)))
        await self._ask(Ask.RESET_OPTIONS, "options", packed, env_indices, evaluation, each=each)

    async def _ask(
        self, ask: Ask, name: str, packed: list[bytes], env_indices: Any, evaluation: bool, each: bool = False
    ) -> list[Any]:
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        if name in OURS:
            raise ConfigError(
                f"{ask.value}({name!r}) is not possible: the sampler itself steps, resets and closes the environments"
            )
        evaluation = as_bool("evaluation", evaluation)
        n = self.options.eval_n_envs if evaluation else self.options.batch_B
        if n == 0:
            raise ConfigError(f"{ask.value}(evaluation=True) needs eval_n_envs of at least 1")
        if evaluation and not self.options.eval_keep_envs:
            raise ConfigError(
                f"{ask.value}(evaluation=True) finds no environments: with eval_keep_envs=False they are built for "
                "each evaluation; tell them by eval_env_kwargs, or keep them"
            )
        environments = _indices(env_indices, n)
        if each and len(packed) != len(environments):
            raise ConfigError(
                f"{ask.value}() got a list of {len(packed)} values for {len(environments)} environments; give one for "
                "each, or a value that is no list or tuple for all"
            )
        self._session.require_running()
        if not environments:
            return []
        called = await self._session.call(Call(ask, name, tuple(packed), environments, evaluation))
        errors = [called.errors[b] for b in environments if b in called.errors]
        if errors:
            if len(errors) > 1:
                errors[0].add_note(f"{len(errors)} of {len(environments)} environments failed; this is the first")
            raise errors[0]
        if len(called.results) < len(environments):
            raise called.losses[-1].error  # type: ignore[misc] # its worker was lost meanwhile, and is being replaced
        return [pickle.loads(called.results[b]) for b in environments]


NOTHING = pickle.dumps(None)


def _pack(what: str, value: Any) -> bytes:
    try:
        return dumps(value)
    except Exception as exc:
        raise ConfigError(f"{what} cannot be pickled for the sampler's processes: {text_of(exc)}") from exc


def _indices(env_indices: Any, n: int) -> tuple[int, ...]:
    """The indices of the chosen environments, of n."""
    if env_indices is None:
        return tuple(range(n))
    given = tuple(env_indices) if isinstance(env_indices, Iterable) else (env_indices,)
    try:
        indices = tuple(map(operator.index, given))
    except TypeError:
        raise TypeError(f"env_indices must be ints, got {env_indices!r}") from None
    if any(isinstance(index, bool) for index in given):
        raise TypeError(f"env_indices must be ints, not a mask, got {env_indices!r}")
    if any(not 0 <= index < n for index in indices):
        raise ConfigError(f"env_indices={env_indices!r} must be from 0 to {n - 1}")
    if len(set(indices)) < len(indices):
        raise ConfigError(f"env_indices={env_indices!r} must not name an environment twice")
    return indices
