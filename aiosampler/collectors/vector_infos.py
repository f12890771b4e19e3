"""The infos of vector environments, taken apart into one for each of their environments.

Gymnasium has one dict for all: ``infos[key][i]`` is there where ``infos["_" + key][i]`` says so, nested dicts likewise.
Others have a list of dicts, or arrays without masks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

#: Where an environment that is reset within the step puts the last observation, and what came with it.
FINAL_OBSERVATIONS = ("final_obs", "final_observation", "terminal_observation")
FINAL_INFO = "final_info"
ABSENT = object()


def info_of(infos: Any, i: int, *, without_final: bool = True) -> dict[str, Any]:
    """The info of environment i; what is in it is not copied.

    Args:
        infos: Of a vector environment.
        i: Its row.
        without_final: Leave out what an environment that is reset within the step tells of the episode that ended.
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
    """What the info of environment i has under a key; `ABSENT` if nothing."""
    mask = infos.get(f"_{key}")
    if mask is not None and not mask[i]:
        return ABSENT
    value = infos[key]
    if isinstance(value, Mapping):
        return info_of(value, i, without_final=False)
    if (isinstance(value, np.ndarray) and value.ndim) or isinstance(value, list | tuple):
        return value[i]
    return value  # the same of all


def final_of(infos: Any, i: int) -> tuple[Any, Any]:
    """The last observation of an episode that ended, and the info that came with it; each `ABSENT` if not there."""
    if not isinstance(infos, Mapping):
        infos, i = {key: [value] for key, value in infos[i].items()}, 0
    observation: Any = ABSENT
    for key in FINAL_OBSERVATIONS:
        if key in infos:
            observation = value_of(infos, key, i)
            break
    info = value_of(infos, FINAL_INFO, i) if FINAL_INFO in infos else ABSENT
    return observation, info


def array_of(infos: Any, name: str, path: tuple[str, ...]) -> tuple[Any, Any]:
    """What all infos have under a name, or at a path of names, with its mask.

    Returns:
        The array, whose first axis counts the environments, and the mask of those that have it, None for all; the first
        is None if nobody has it, and `ABSENT` where it is no such array, and each info is to be looked at by itself.
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
