"""Each program of the README runs, with what its section supposes, and each file that it names is there."""

import ast
import asyncio
import functools
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces

import aiosampler
from aiosampler import AsyncSerialSampler, CategoricalPgAgent, EnvContext
from tests.support.models import LinearActorCritic

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
INTEROP = re.search(r"## With other libraries\n(.*?)\n## ", README, re.DOTALL)[1]
#: Those that are run as programs by tests/test_examples.py, and those of tests/interop/test_readme.py, are not here.
PROGRAMS = [
    program
    for program in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if "asyncio.run(" not in program and program not in INTEROP
]
SMALL = {"batch_T": 8, "batch_B": 8, "in_process": True}


class Game(gym.Wrapper):
    """Has what the section on talking to environments calls."""

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))
        self.level, self.difficulty, self.options = 0, 0.0, None

    def set_level(self, level):
        self.level = level

    def render(self):
        return "a frame"

    def reset(self, *, seed=None, options=None):
        self.options = options
        return super().reset(seed=seed)


class Model(torch.nn.Linear):
    def __init__(self, observation_space, action_space):
        super().__init__(observation_space.shape[0], 1)

    def forward(self, observation):
        value = super().forward(observation).squeeze(-1)
        return (value > 0).long(), value


def policy():
    return CategoricalPgAgent(LinearActorCritic)


async def run(program, **names):
    """Execute a program, which may await at its top; return its names."""
    names = {**{name: getattr(aiosampler, name) for name in aiosampler.__all__}, **names}
    code = compile(program, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        await result
    return names


async def atari(program):
    pytest.importorskip("ale_py", reason="ale_py is not installed")
    pytest.importorskip("cv2", reason="opencv is not installed")
    names = await run(program, gym=gym, AtariPreprocessing=gym.wrappers.AtariPreprocessing)
    environment = names["env_fn"]()
    assert environment.observation_space.shape == (84, 84)
    environment.close()


async def context(program):
    make = (await run(program, Emulator=SimpleNamespace))["make"]
    assert make(context=None).port == 5000
    assert make(context=EnvContext(index=2, n=4, evaluation=True, restarts=0, seed=1, worker=0)).port == 6003


async def vector(program):  # the worlds of others in it are sampled by tests/system/test_worlds.py
    names = await run(program.split("\n\n\n")[0], functools=functools, gym=gym)
    environments = names["env_fn"](num_envs=2)
    assert environments.num_envs == 2
    environments.close()
    await run(program, functools=functools, gym=gym)


async def coroutines(program):
    world = (await run(program, spaces=spaces))["World"]
    assert await world().reset() is None


async def agent(program):
    mine = (await run(program, MyModel=Model))["MyAgent"]
    async with AsyncSerialSampler("CartPole-v1", agent=mine(), **SMALL) as sampler:
        assert (await sampler.obtain_samples()).agent.agent_info["value"].shape == (8, 8)


async def talking(program):
    more = {"eval_n_envs": 1, "eval_max_steps": 8}
    async with AsyncSerialSampler(Game, agent=policy(), **SMALL, **more) as sampler:
        names = await run(program, sampler=sampler)
        assert names["frames"] == ["a frame"]
        assert await sampler.get_attr("level") == [3] * 8
        assert await sampler.get_attr("difficulty") == [0.1, *[0.0] * 6, 0.5]


async def batch(program):
    async with AsyncSerialSampler("CartPole-v1", agent=policy(), **SMALL) as sampler:
        names = await run(program.replace('"cuda"', '"cpu"'), sampler=sampler, torch=torch)
        assert torch.equal(names["kept"].env.reward, names["samples"].env.reward)
        assert names["half"].env.observation.dtype == torch.float16


async def episodes(program):
    async with AsyncSerialSampler("CartPole-v1", agent=policy(), **{**SMALL, "batch_T": 64}) as sampler:
        replay = (await run(program, samples=await sampler.obtain_samples(), replay=[]))["replay"]
        assert replay[0].mask.shape == (60,)


async def resuming(program):
    make = functools.partial(AsyncSerialSampler, in_process=True)
    async with AsyncSerialSampler("CartPole-v1", agent=policy(), seed=3, **SMALL) as sampler:
        await sampler.obtain_samples()
        names = await run(program, sampler=sampler, agent=sampler.agent, torch=torch, AsyncCpuSampler=make)
        assert (names["sampler"].seed, names["saved"]["sampler"]["itr"]) == (3, 1)


async def budget(program):
    names = await run(program, asyncio=asyncio)
    assert names["steps"] == [32 * 16] * 4


WAYS = {
    "import ale_py": atari,
    "def make(*, context)": context,
    "gym.make_vec": vector,
    "class World": coroutines,
    "class MyAgent": agent,
    "set_level": talking,
    "copy=True": batch,
    "EpisodeAssembler()": episodes,
    "state_dict()": resuming,
    '"cpus": 1': budget,
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.splitlines()[0])
def test_a_program_of_the_readme_runs(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (way,) = [way for words, way in WAYS.items() if words in program]  # a new one says here what it supposes
    asyncio.run(way(program))


def test_all_that_the_readme_names_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    paths = re.findall(r"\b(?:examples|tests|aiosampler)/[\w/]+\.\w+", README)
    assert len(links) > 5 < len(paths)
    assert [path for path in {*links, *paths} if not (ROOT / path).exists()] == []


def test_links_within_the_readme_lead_to_its_sections():
    titles = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", README, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= titles
