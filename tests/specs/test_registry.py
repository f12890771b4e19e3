"""Ids are found as `gymnasium.make` finds them, and what is registered here is known where it is unpacked."""

import pickle
import subprocess
import sys
import threading

import cloudpickle
import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from aiosampler import ConfigError
from aiosampler.specs.registry import by_value, find_spec, pack_registry
from tests.support.worlds import CountingEnv


@pytest.fixture
def registry():
    """What a test registers is forgotten."""
    before = dict(gym.registry)
    yield gym.registry
    gym.registry.clear()
    gym.registry.update(before)


def elsewhere(packed, code):
    """What a process that unpacks a registry prints; it knows nothing of ours."""
    code = (
        "import sys, pickle, warnings, gymnasium as gym\n"
        "from aiosampler.specs.registry import unpack_registry\n"
        f"unpack_registry(sys.stdin.buffer.read())\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", code], input=packed, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split()


def by_value_class():
    class Here(CountingEnv):
        pass

    Here.__module__ = "__main__"
    return Here


@pytest.mark.parametrize(
    ("env_id", "found"),
    [
        ("CartPole-v0", "CartPole-v0"),
        ("CartPole", "CartPole-v1"),
        ("gymnasium:CartPole-v1", "CartPole-v1"),
        ("gymnasium.envs:CartPole", "CartPole-v1"),
        ("Ours/Counting", "Ours/Counting-v3"),
        ("Plain", "Plain"),
    ],
)
def test_ids_as_make_takes_them(registry, env_id, found):
    for name in ("Ours/Counting-v2", "Ours/Counting-v3", "Counting-v7", "Plain"):
        gym.register(name, entry_point=CountingEnv)
    assert find_spec(env_id).id == found


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("NoSuch-v0", "env_fn='NoSuch-v0' is no registered environment: .*NoSuch.*Import the package"),
        ("NoSuch", "is no registered environment"),
        ("CartPole-v99", "is no registered environment: .*v99"),
        ("no_such_package:CartPole-v1", "No module named 'no_such_package'"),
        ("", "is no registered environment"),
        ("a b c", "is no registered environment"),
    ],
)
def test_ids_that_are_not_there(env_id, words):
    with pytest.raises(ConfigError, match=words):
        find_spec(env_id)


def test_what_is_registered_here_is_known_there(registry):
    gym.register("Strings-v0", entry_point="tests.support.worlds:CountingEnv", kwargs={"longest": 3})
    wrapper = WrapperSpec("ClipReward", "gymnasium.wrappers:ClipReward", {"min_reward": 0})
    gym.register("Wrapped-v0", entry_point="tests.support.worlds:CountingEnv", additional_wrappers=(wrapper,))
    gym.register("Class-v0", entry_point=by_value_class(), max_episode_steps=9)
    gym.register("Lambda-v0", entry_point=lambda longest: CountingEnv(longest), kwargs={"longest": 4})
    gym.register("Objects-v0", entry_point="tests.support.worlds:CountingEnv", kwargs={"longest": EnvSpec("x-v0")})
    names = "['Strings-v0', 'Class-v0', 'Lambda-v0', 'Wrapped-v0']"
    code = f"for name in {names}: env = gym.make(name); print(env.reset(seed=1)[0].size, env.unwrapped._longest)"
    assert elsewhere(pack_registry(), code) == ["3", "3", "3", "7", "3", "4", "3", "7"]
    assert elsewhere(pack_registry(), "print(gym.spec('Objects-v0').kwargs['longest'].id)") == ["x-v0"]


def test_what_cannot_travel_says_so_when_it_is_made(registry):
    lock = threading.Lock()
    gym.register("Locked-v0", entry_point=lambda: lock)
    gym.register("Good-v0", entry_point=by_value_class())
    code = """
try:
    gym.make("Locked-v0")
except Exception as exc:
    print(type(exc).__name__, "'Locked-v0' was registered in the user's process, but cannot be pickled" in str(exc))
gym.make("Good-v0")
"""
    assert elsewhere(pack_registry(), code) == ["ConfigError", "True"]


def test_what_cannot_be_imported_there_says_so_when_it_is_made(registry):
    gone = pickle.dumps(({}, {"Gone-v0": b"cno_such_module\nWorld\n."}))
    code = "try: gym.make('Gone-v0')\nexcept Exception as exc: print(\"'no_such_module'. Register it\" in str(exc))"
    assert elsewhere(gone, code) == ["True"]


def test_registering_it_once_more_there_is_no_warning(registry):
    gym.register("Class-v0", entry_point=by_value_class())
    code = "warnings.simplefilter('error', append=True); gym.register('Class-v0', entry_point=dict); print('fine')"
    assert elsewhere(pack_registry(), code) == ["fine"]


def test_what_is_of_gymnasium_alone_imports_nothing_there():
    code = "print('torch' in sys.modules, 'gymnasium.envs.classic_control' in sys.modules)"
    assert elsewhere(pack_registry(), code) == ["False", "False"]


def test_an_entry_point_that_names_the_script_travels_by_value(registry, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "World", by_value_class(), raising=False)
    gym.register("Script-v0", entry_point="__main__:World")
    packed = pack_registry()
    assert elsewhere(packed, "print(gym.make('Script-v0').unwrapped._longest)") == ["7"]
    sent = pickle.loads(cloudpickle.dumps(by_value(gym.spec("Script-v0"))))
    assert sent.make().unwrapped._longest == 7
    with pytest.raises(ConfigError, match="registered as '__main__:Nowhere', which is not there"):
        by_value(EnvSpec("Other-v0", entry_point="__main__:Nowhere"))
    assert by_value(gym.spec("CartPole-v1")) is gym.spec("CartPole-v1")


def test_what_is_registered_there_alone_stays():
    code = "gym.register('Only-v0', entry_point=dict); unpack_registry(pickle.dumps(({}, {}))); "
    code += "print(gym.spec('Only-v0').id)"
    assert elsewhere(pack_registry(), code) == ["Only-v0"]
