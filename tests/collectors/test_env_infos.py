"""What environments report beside their observations: recorded where it is, told from zero where it is not."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from aiosampler import Agent, AgentStep, ConfigError, RandomAgent, WorkerError
from tests.support.samplers import EVERYWHERE, small

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.same_code]


class ReportingEnv(gym.Env):
    """Reports its step, zero every third time, nothing or None every fifth; lives at a reset; its return at the end."""

    observation_space = spaces.Box(-9, 99, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, longest=6):
        self.longest, self.episode = longest, 0

    def reset(self, *, seed=None, options=None):
        self.t, self.episode = 0, self.episode + 1
        return np.zeros(1, np.float32), {"step": 100 * self.episode, "lives": 3, "is_success": None}

    def step(self, action):
        self.t += 1
        nothing = {} if self.episode % 2 else {"step": None}
        info = nothing if self.t % 5 == 0 else {"step": 0 if self.t % 3 == 0 else self.t}
        ended = self.t == self.longest
        if ended:
            info["episode"] = {"r": self.t + 0.5, "l": self.t}
            info["is_success"] = True
        return np.full(1, self.t, np.float32), 1.0, ended, False, info


class SeeingAgent(Agent):
    """Tells the info that it acts on."""

    def step(self, inputs, state):
        assert inputs.env_info.keys() == {"step", "episode.r", "is_success"}
        return AgentStep(torch.zeros(len(inputs.prev_reward), dtype=torch.int64), {"saw": inputs.env_info["step"] + 0})


DECLARED = {"step": np.int64, "episode.r": np.float32, "is_success": bool}


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_what_is_absent_is_told_from_zero_and_resets_are_recorded(kind):
    async with small(kind, ReportingEnv, agent=SeeingAgent(), batch_T=4, env_info_keys=DECLARED) as sampler:
        batches = [(await sampler.obtain_samples()).clone() for _ in range(5)]
    env = {
        name: {key: torch.cat([getattr(batch.env, name)[key] for batch in batches]) for key in DECLARED}
        for name in ("env_info", "env_info_present", "prev_env_info", "prev_env_info_present")
    }
    saw = torch.cat([batch.agent.agent_info["saw"] for batch in batches])
    episode, t = 1, 0
    for row in range(20):
        before = 100 * episode if t == 0 else 0 if t % 3 == 0 or t % 5 == 0 else t
        assert (env["prev_env_info"]["step"][row] == before).all()
        assert (env["prev_env_info_present"]["step"][row] == (t == 0 or t % 5 != 0)).all()
        assert (saw[row] == before).all()
        t += 1
        assert (env["env_info_present"]["step"][row] == (t % 5 != 0)).all()
        assert (env["env_info"]["step"][row] == (0 if t % 3 == 0 or t % 5 == 0 else t)).all()
        for key, value in (("episode.r", 6.5), ("is_success", True)):
            assert (env["env_info_present"][key][row] == (t == 6)).all()
            assert (env["env_info"][key][row] == (value if t == 6 else 0)).all()
        if t == 6:
            episode, t = episode + 1, 0


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_environments_that_wait_report_nothing(kind):
    async with small(kind, ReportingEnv, agent=SeeingAgent(), env_info_keys=DECLARED, mid_batch_reset=False) as sampler:
        for _ in range(3):
            samples = await sampler.obtain_samples()
            for name in ("env_info", "env_info_present", "prev_env_info", "prev_env_info_present"):
                assert not any(leaf[~samples.valid].any() for leaf in getattr(samples.env, name).values())


async def test_declared_keys_cost_no_search_and_others_are_found():
    async with small(
        "serial", ReportingEnv, agent=RandomAgent(), env_info_keys=("lives", "episode", "step")
    ) as sampler:
        samples = await sampler.obtain_samples()
        assert samples.env.prev_env_info["lives"][0].tolist() == [3] * 4
        assert samples.env.env_info["episode"].keys() == {"r", "l"}
    arguments = {"agent": RandomAgent(), "env_kwargs": {"longest": 10**6}}
    async with small("serial", ReportingEnv, **arguments, env_info_keys={"episode": {"r": np.float32}}) as sampler:
        samples = await sampler.obtain_samples()
        assert not samples.env.env_info_present["episode"].any()
    with pytest.raises(
        ConfigError, match=r"did not report \['is_success'\].*env_info_keys=\{'is_success': np.float32\}"
    ):
        async with small("serial", ReportingEnv, **arguments, env_info_keys=("is_success",)):
            pass


class OddEnv(ReportingEnv):
    """Reports what it is given from its fourth step on."""

    def __init__(self, info):
        super().__init__()
        self.info, self.lived = info, 0

    def step(self, action):
        self.lived += 1
        result = super().step(action)
        return *result[:4], self.info if self.lived > 3 else {"x": 1}


@pytest.mark.each_value
@pytest.mark.parametrize("kind", ["serial", "gpu"])
@pytest.mark.parametrize(
    ("info", "said"),
    [
        (None, "info must be a dict, got None"),
        ({"x": "much"}, r"info\['x'\] does not fit: expected int64\[\], got 'much'"),
        ({"x": [[1], [2, 3]]}, r"info\['x'\] is no array"),
        ({"x": 0.5}, r"info\['x'\] does not fit: expected int64\[\], got float64\[\]"),
        ({"x": [1, 2]}, r"info\['x'\] does not fit: expected int64\[\], got int64\[2\]"),
    ],
)
async def test_what_does_not_fit_is_refused_by_environment_and_key(kind, info, said):
    with pytest.raises(WorkerError, match=rf"environment \d failed.*{said}"):
        async with small(kind, OddEnv, agent=RandomAgent(), env_kwargs={"info": info}, env_info_keys=["x"]) as sampler:
            await sampler.obtain_samples()


class MaskedEnv(gym.Env):
    """Forbids all actions but two; the mask is in its infos, or in its observations."""

    def __init__(self, where, nested=False):
        self.where = where
        self.action_space = spaces.Discrete(20, start=3)
        box = spaces.Box(-9, 9, (2,), np.float32)
        mask = spaces.MultiBinary(20)
        self.observation_space = spaces.Dict(o=box, action_mask=mask) if where == "observation" else box

    def _give(self):
        self.mask = np.zeros(20, np.int8)
        self.mask[self.np_random.integers(20, size=2)] = 1
        o = np.zeros(2, np.float32)
        if self.where == "observation":
            return {"o": o, "action_mask": self.mask}, {}
        return o, {"action_mask": self.mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._give()

    def step(self, action):
        if not self.mask[action - 3]:
            raise ValueError(f"action {action} is illegal")
        self.t += 1
        observation, info = self._give()
        return observation, 0.0, False, self.t == 3, info


@pytest.mark.each_value
@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize("where", ["observation", "info"])
async def test_no_step_is_illegal_where_a_mask_is_given(kind, where):
    keys = ("action_mask",) if where == "info" else ()
    async with small(
        kind, MaskedEnv, env_kwargs={"where": where}, agent=RandomAgent(), env_info_keys=keys,
        max_decorrelation_steps=5, eval_n_envs=2, eval_max_steps=20, batch_T=9,
    ) as sampler:  # fmt: skip
        actions = torch.cat([(await sampler.obtain_samples()).agent.action.clone() for _ in range(3)])
        assert len(actions.unique()) > 9  # it draws among the legal ones
        assert await sampler.evaluate_agent()
