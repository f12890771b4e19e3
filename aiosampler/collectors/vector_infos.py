"""Splitting the infos of vector environments into one for each environment.

Gymnasium has one dict for all: ``infos[key][i]`` is valid where the mask ``infos["_" + key][i]`` is true, and likewise
in nested dicts. Other libraries have a list of dicts, or arrays without masks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

#: Keys under which an environment that is reset within a step has the final observation and info.
FINAL_OBSERVATIONS = ("final_obs", "final_observation", "terminal_observation")
FINAL_INFO = "final_info"
#: The key of Gymnasium's `RecordEpisodeStatistics`; around a vector environment it puts it beside what the reset told.
EPISODE = "episode"
ABSENT = object()


def info_of(infos: Any, i: int, *, without_final: bool = True) -> dict[str, Any]:
    """The info of environment i; its values are not copied.

    Args:
        infos: The infos of a vector environment.
        i: Index of the environment.
        without_final: Leave out the keys about the episode that ended within the step.
    """
    if not isinstance(infos, Mapping):
        info = dict(infos[i])
    else:
        info = {}
        for key in infos:
            if not (isinstance(key, str) and key.startswith("_") and key[1:] in infos):
                value = value_of(infos, key, i)
                if value is not ABSENT:
                    info[key] = value
    if without_final:
        for key in (*FINAL_OBSERVATIONS, FINAL_INFO):
            info.pop(key, None)
    return info


def value_of(infos: Mapping[Any, Any], key: Any, i: int) -> Any:
    """The value of a key for environment i; `ABSENT` if it has none."""
    mask = infos.get(f"_{key}")
    if mask is not None and not mask[i]:
        return ABSENT
    value: Any = infos[key]
    if isinstance(value, Mapping):
        return info_of(value, i, without_final=False)
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0:  # also tensors, and arrays of other libraries
        return value[i]
    return value  # one value for all environments


def final_of(infos: Any, i: int) -> tuple[Any, Any]:
    """Final observation and info of an episode that ended within the step; each `ABSENT` if it is not there."""
    if not isinstance(infos, Mapping):
        infos, i = {key: [value] for key, value in infos[i].items()}, 0
    observation: Any = ABSENT
    for key in FINAL_OBSERVATIONS:
        if key in infos:
            observation = value_of(infos, key, i)
            break
    info = value_of(infos, FINAL_INFO, i) if FINAL_INFO in infos else ABSENT
    return observation, info


def overwritten(vector: Any, i: int, last: Any) -> bool:
    """Whether a final observation is the memory that environment i has written its next first observation to.

    Gymnasium's `SyncVectorEnv` keeps what a step returned without copying it, and resets the environment then.
    """
    kept = getattr(getattr(vector, "unwrapped", None), "_env_obs", None)
    return kept is not None and isinstance(last, np.ndarray) and last is kept[i]


def array_of(infos: Any, name: str, path: tuple[str, ...]) -> tuple[Any, Any]:
    """The values of all environments under a name, or at a path of names, with their mask.

    Returns:
        An array ``[n, ...]``, and the mask ``[n]`` of environments that have a value, None if all have. The array is
        None if no environment has one, and `ABSENT` if there is no such array, and each info must be searched.
    """
    if not isinstance(infos, Mapping):
        return ABSENT, None
    found, masks = infos, []
    for part in (name,) if name in infos else path:
        if not isinstance(found, Mapping):
            return ABSENT, None
        if part not in found:
            return None, None
        mask = found.get(f"_{part}")
        if mask is not None:
            masks.append(mask)
        found = found[part]
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf" or not found.ndim:
        return ABSENT, None
    return found, None if not masks else masks[0] if len(masks) == 1 else np.logical_and.reduce(masks)
