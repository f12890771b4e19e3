"""What an `env_fn` is told that asks for it: which environment is being built, or how many at once."""

import functools
import inspect
from dataclasses import dataclass
from typing import Any

#: The name of the parameter by which an `env_fn` asks for one.
CONTEXT = "context"
#: The name of the parameter by which it says that it makes vector environments, of the size that it is told.
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
        index: Of the environment among those of its kind; of a vector environment, that of its first one.
        n: How many there are of its kind: `batch_B`, or `eval_n_envs`.
        evaluation: Whether it is for evaluation.
        restarts: How many times its worker was replaced, or itself, if its methods are coroutines; with
            ``eval_keep_envs=False``, plus how many evaluations there were before.
        seed: What its first ``reset(seed=...)`` gets; of a vector environment, the first of its.
        seeds: The same of each of the environments of a vector environment; of a single one, its own.
        worker: Number of the process that has it among those that step environments; None in the serial sampler.
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
    """Whether a function, class, partial or other callable has a parameter of a name that is not settled yet.

    One that is taken up by ``**kwargs`` does not count, and one that a partial binds has its value.
    """
    if not callable(env_fn):
        return False  # what is registered in Gymnasium
    try:
        parameter = inspect.signature(env_fn).parameters.get(name)
    except (ValueError, TypeError):
        return False  # not written in Python
    if parameter is None or (isinstance(env_fn, functools.partial) and name in env_fn.keywords):
        return False
    return parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
