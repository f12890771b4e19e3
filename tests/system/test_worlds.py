"""Worlds of other people, each replayed bit for bit; those that are not installed are left out (the extra `worlds`)."""

import functools

import gymnasium as gym
import numpy as np
import pytest

from aiosampler import ConfigError, RandomAgent, environment_seed
from aiosampler.collectors.actions import action_splitter
from aiosampler.specs.trees import tree_leaves, tree_map
from tests.support.samplers import small

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


def minigrid(wrapped):
    pytest.importorskip("minigrid")
    from minigrid.wrappers import ImgObsWrapper

    env = gym.make("MiniGrid-Empty-5x5-v0")
    return ImgObsWrapper(env) if wrapped else env


def highway():
    pytest.importorskip("highway_env")
    return gym.make("highway-fast-v0", config={"vehicles_count": 5})


def fetch():
    gym.register_envs(pytest.importorskip("gymnasium_robotics"))
    return gym.make("FetchReach-v4", max_episode_steps=15)


def pong():
    gym.register_envs(pytest.importorskip("ale_py"))
    return gym.make("ALE/Pong-v5", frameskip=8)


def needs(package, env_id):
    pytest.importorskip(package)
    return gym.make(env_id)


WORLDS = {
    "Taxi": "Taxi-v4",
    "Blackjack": "Blackjack-v1",
    "FrozenLake": "FrozenLake-v1",
    "CliffWalking": "CliffWalking-v1",
    "Pendulum": "Pendulum-v1",
    "LunarLander": functools.partial(needs, "Box2D", "LunarLander-v3"),
    "CarRacing": functools.partial(needs, "Box2D", "CarRacing-v3"),
    "HalfCheetah": functools.partial(needs, "mujoco", "HalfCheetah-v5"),
    "minigrid": functools.partial(minigrid, wrapped=True),
    "highway": highway,
    "FetchReach": fetch,
    "Pong": pong,
}


@pytest.mark.parametrize("world", WORLDS)
async def test_a_world_is_replayed_bit_for_bit(world):
    env_fn = WORLDS[world]
    make = env_fn if callable(env_fn) else functools.partial(gym.make, env_fn)
    env = make()  # skips before a sampler is started
    T = 6 if world in ("CarRacing", "highway") else 25
    async with small("in-process", env_fn, agent=RandomAgent(), batch_T=T, batch_B=2) as sampler:
        batches = [await sampler.obtain_samples(copy=True) for _ in range(3)]
    for b in range(2):
        env = make()
        split = action_splitter(env.action_space)
        expected, _ = env.reset(seed=environment_seed(5, b))
        for batch in batches:
            for t in range(T):
                recorded = tree_map(lambda leaf, t=t, b=b: leaf[t, b].numpy(), batch.env.observation)
                assert_same_tree(recorded, expected)
                (action,) = split(
                    tree_map(lambda leaf, t=t, b=b: leaf[t, b : b + 1].numpy().copy(), batch.agent.action)
                )
                expected, reward, terminated, truncated, _ = env.step(action)
                assert np.float32(reward) == batch.env.reward[t, b].numpy()
                assert [terminated, truncated] == [batch.env.terminated[t, b], batch.env.truncated[t, b]]
                if terminated or truncated:
                    final = tree_map(lambda leaf: leaf.numpy(), batch.env.final_observation[t, b])
                    assert_same_tree(final, expected)
                    expected, _ = env.reset()
        env.close()


def assert_same_tree(recorded, expected):
    if isinstance(recorded, dict):
        expected = {key: expected[key] for key in recorded}
    for leaf, other in zip(tree_leaves(recorded), tree_leaves(expected), strict=True):
        assert leaf.tobytes() == np.asarray(other).astype(leaf.dtype).tobytes()


async def test_a_mission_in_words_is_named_with_what_to_do():
    minigrid(wrapped=False).close()
    with pytest.raises(
        ConfigError, match=r"observation\['mission'\], of the space MissionSpace.* \(wrap the environment"
    ):
        async with small("in-process", functools.partial(minigrid, wrapped=False), agent=RandomAgent()):
            pass


# Vector environments


def envpool_cartpole(*, num_envs, context):
    seeds = [0] * num_envs if context is None else list(context.seeds)
    return pytest.importorskip("envpool").make_gymnasium("CartPole-v1", num_envs=num_envs, num_threads=1, seed=seeds)


def envpool_pong(*, num_envs, context):
    seeds = [0] * num_envs if context is None else list(context.seeds)
    return pytest.importorskip("envpool").make_gymnasium("Pong-v5", num_envs=num_envs, num_threads=1, seed=seeds)


def ale_pong(*, num_envs, mode):
    vector_env = pytest.importorskip("ale_py.vector_env")
    return vector_env.AtariVectorEnv(
        "pong", num_envs, num_threads=1, autoreset_mode=mode, max_num_frames_per_episode=7 * 4, img_height=20,
        img_width=20,
    )  # fmt: skip


async def test_environments_of_envpool_step_and_reset_as_single_ones():
    envpool_cartpole(num_envs=1, context=None).close()
    arguments = {"agent": RandomAgent(), "batch_T": 40, "env_info_keys": ["elapsed_step"], "start_method": "spawn"}
    async with small("cpu", envpool_cartpole, eval_n_envs=2, eval_max_steps=400, **arguments) as sampler:
        batches = [await sampler.obtain_samples(copy=True) for _ in range(3)]
        assert all(info.Length > 5 for info in await sampler.evaluate_agent() if not info.cut)
    for b in range(4):
        alone = envpool_cartpole(num_envs=1, context=Seeds((environment_seed(5, b),)))
        expected, _ = alone.reset()
        age, ends = 0, 0
        for batch in batches:
            assert batch.valid.all()
            for t in range(40):
                done = bool(batch.env.done[t, b])
                age += 1
                assert batch.env.env_info["elapsed_step"][t, b] == age
                assert batch.env.reward[t, b] == 1
                if done:
                    final = batch.env.final_observation[t, b]
                    assert abs(float(final[2])) > 0.2 or abs(float(final[0])) > 2.4
                    age, ends = 0, ends + 1
        assert ends
        assert batches[0].env.observation[0, b].numpy().tobytes() == expected[0].tobytes()


class Seeds:
    def __init__(self, seeds):
        self.seeds = seeds


async def test_atari_of_envpool_is_recorded():
    envpool_pong(num_envs=1, context=None).close()
    async with small("in-process", envpool_pong, agent=RandomAgent(), env_info_keys=["lives"]) as sampler:
        samples = await sampler.obtain_samples()
        assert samples.env.observation.shape == (5, 4, 4, 84, 84)
        assert samples.env.observation.float().std() > 1
        assert samples.valid.all()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("wait", [False, True], ids=["reset", "wait"])
async def test_atari_of_ale_is_reset_as_single_environments_are(mode, wait):
    env_fn = functools.partial(ale_pong, mode=mode)
    env_fn(num_envs=1).close()
    arguments = {"batch_T": 9, "batch_B": 3, "mid_batch_reset": not wait, "max_decorrelation_steps": 5}
    async with small("in-process", env_fn, agent=RandomAgent(), env_info_keys=["lives"], **arguments) as sampler:
        lengths = []
        for _ in range(6):
            samples = await sampler.obtain_samples()
            lengths += [info.Length for info in samples.traj_infos]
            assert wait or samples.valid.all()
            final = samples.env.final_observation
            assert len(final) == len(samples.traj_infos)
            for t, b in zip(final.t.tolist(), final.b.tolist(), strict=True):
                if t < 8 and not wait:  # what begins is another picture than what ended
                    assert not (final[t, b] == samples.env.observation[t + 1, b]).all()
        assert len(lengths) > 6
        assert set(lengths) == {7}


class CountingAgents:
    """What PettingZoo's parallel environments are to those who use them: two agents, who end together."""

    metadata = {"name": "counting"}  # noqa: RUF012
    possible_agents = ["first", "second"]  # noqa: RUF012
    render_mode = None

    def __init__(self):
        self.unwrapped, self.t, self.episode = self, 0, -1
        self._observed, self._acted = gym.spaces.Box(0, 1000, (3,), np.float32), gym.spaces.Discrete(5)

    def observation_space(self, agent):
        return self._observed

    def action_space(self, agent):
        return self._acted

    def reset(self, seed=None, options=None):
        self.agents, self.t, self.episode = list(self.possible_agents), 0, self.episode + 1
        return self._observe(), {agent: {} for agent in self.agents}

    def _observe(self):
        return {name: np.array([i, self.episode, self.t], np.float32) for i, name in enumerate(self.possible_agents)}

    def step(self, actions):
        self.t += 1
        ended = self.t == 3 + self.episode % 3
        each = dict.fromkeys(self.agents)
        result = (
            self._observe(),
            {name: self.t + actions[name] / 8 for name in each},
            dict.fromkeys(each, ended),
            dict.fromkeys(each, False),
            {name: {} for name in each},
        )
        self.agents = [] if ended else self.agents
        return result

    def close(self):
        pass


def agents_of_supersuit(*, num_envs):
    supersuit = pytest.importorskip("supersuit")
    agents = supersuit.vector.MarkovVectorEnv(CountingAgents())
    return supersuit.concat_vec_envs_v1(agents, num_envs // agents.num_envs, base_class="gymnasium")


@pytest.mark.parametrize("kind", ["in-process", "gpu"])
async def test_agents_of_pettingzoo_are_environments_by_supersuit(kind):
    agents_of_supersuit(num_envs=2).close()
    async with small(kind, agents_of_supersuit) as sampler:
        for _ in range(4):
            samples = await sampler.obtain_samples()
            assert samples.valid.all()
            observation, following = samples.env.observation, samples.env.next_observation()
            assert observation[..., 0].tolist() == [[0, 1, 0, 1]] * 5
            assert (following[..., 2] == observation[..., 2] + 1).all()
            assert (following[..., 1] == observation[..., 1]).all()
            ended = following[..., 2] == 3 + observation[..., 1] % 3
            assert (samples.env.terminated == ended).all()
            assert (samples.env.reward == following[..., 2] + samples.agent.action / 8).all()
