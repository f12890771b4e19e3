"""The user's objects (`env_fn`, agent and so on), pickled for the processes of a sampler."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from aiosampler.errors import ConfigError, text_of
from aiosampler.pickling import dumps_with_modules

if TYPE_CHECKING:
    from collections.abc import Mapping


class Payload:
    """Named objects, each pickled on its own with cloudpickle. Other processes get the pickles and load what they need.

    A process that passes a payload on, or needs only some of its objects, imports nothing that the others need.

    Args:
        objects: By name. They are pickled at once, so later changes to them do not reach other processes.

    Raises:
        ConfigError: One of them cannot be pickled; the message names it.
    """

    def __init__(self, objects: Mapping[str, Any]) -> None:
        self._live = dict(objects)
        self._packed: dict[str, bytes] = {}
        self._modules: set[str] = set()
        for name, value in objects.items():
            self._packed[name], modules = _pickle(name, value)
            self._modules |= modules

    @property
    def live(self) -> Mapping[str, Any]:
        """The original objects in the process that made the payload; empty in other processes."""
        return self._live

    @property
    def modules(self) -> set[str]:
        """Names of the modules that loading the objects imports; known only in the process that made the payload."""
        return self._modules

    def load(self, name: str) -> Any:
        """A new copy of one object, as it was when it was pickled.

        Raises:
            Exception: What unpickling raises, with a note that names the object.
        """
        try:
            return pickle.loads(self._packed[name])
        except BaseException as exc:  # importing its module may even call `exit()`
            exc.add_note(f"while unpickling {name} in a process of the sampler")
            raise

    def packed(self, name: str) -> bytes:
        """The pickle of one object, for a process that needs no other."""
        return self._packed[name]

    def including(self, **objects: Any) -> Payload:
        """A copy of the payload with further objects.

        Raises:
            ConfigError: One of them cannot be pickled.
        """
        more = Payload(objects)
        more._live, more._packed = {**self._live, **more._live}, {**self._packed, **more._packed}
        more._modules |= self._modules
        return more

    def without(self, *names: str) -> Payload:
        """A copy of the payload without some of the objects, for a process that does not need them."""
        rest = object.__new__(Payload)
        rest._live = {name: value for name, value in self._live.items() if name not in names}
        rest._packed = {name: value for name, value in self._packed.items() if name not in names}
        rest._modules = self._modules
        return rest

    def __getstate__(self) -> dict[str, bytes]:
        return self._packed

    def __setstate__(self, state: dict[str, bytes]) -> None:
        self._live, self._packed, self._modules = {}, state, set()


def _pickle(name: str, value: Any) -> tuple[bytes, set[str]]:
    try:
        return dumps_with_modules(value)
    except Exception as exc:
        raise ConfigError(f"{name}={value!r} cannot be pickled for the sampler's processes: {text_of(exc)}") from exc
