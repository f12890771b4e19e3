"""The optional parameters of an `env_fn`: which environment it builds (`context`), or how many (`num_envs`)."""

import functools
import inspect
from dataclasses import dataclass
from typing import Any

#: The parameter of an `env_fn` that gets an `EnvContext`.
CONTEXT = "context"
#: The parameter of an `env_fn` that makes vector environments: their size.
NUM_ENVS = "num_envs"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvContext:
    """Which environment is being built; for ports, shards of data, levels, folders of videos.

    An `env_fn` that has a parameter of the name ``context`` gets one, or None for the example environment that is tried
    out at the start::

        def make(*, context):
            folder = "example" if context is None else f"videos/{context.index}"
            return RecordVideo(gym.make("CartPole-v1", render_mode="rgb_array"), folder)

    All but `worker` is the same whatever the kind of sampler and the number of workers.

    Attributes:
        index: Index of the environment, 0 to `n` - 1; of a vector environment, that of its first one.
        n: How many environments there are: `batch_B`, or `eval_n_envs` for evaluation.
        evaluation: Whether it is for evaluation.
        restarts: How many times its worker was replaced, or the environment itself, if its methods are coroutines;
            after both, others of the worker count, too. With ``eval_keep_envs=False`` the evaluations before are added.
        seed: What its first ``reset(seed=...)`` gets; of a vector environment, the first of its.
        seeds: The same for each environment of a vector environment; for a single one, its own.
        worker: Rank of the worker that has it; None in the serial sampler.
    """

    index: int
    n: int
    evaluation: bool
    restarts: int
    seed: int
    worker: int | None
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds:
            object.__setattr__(self, "seeds", (self.seed,))


def takes(env_fn: Any, name: str) -> bool:
    """Whether a callable has a parameter of this name that is not bound yet.

    ``**kwargs`` does not count, nor does a parameter to which a `functools.partial` gives a value.
    """
    if not callable(env_fn):
        return False  # an id or spec of Gymnasium
    try:
        parameter = inspect.signature(env_fn).parameters.get(name)
    except (ValueError, TypeError):
        return False  # not written in Python
    if parameter is None or (isinstance(env_fn, functools.partial) and name in env_fn.keywords):
        return False
    return parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
