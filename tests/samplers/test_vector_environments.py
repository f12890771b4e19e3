"""Vector environments give what single ones give, whatever resets their environments."""

import functools
import itertools

import gymnasium as gym
import gymnasium.wrappers.vector
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from aiosampler import ConfigError, EnvironmentFailed, RandomAgent, WorkerError, environment_seed
from tests.support.agents import AgeAgent, LookingAgent
from tests.support.samplers import EVERYWHERE, KINDS, PARALLEL, assert_same, small
from tests.support.vectors import MODES, OfThoseAlone, WithoutMasks, vector_of
from tests.support.worlds import ChaoticEnv, CountingEnv, DetailedTrajInfo, NestedEnv

pytestmark = [pytest.mark.usefixtures("same_generators"), pytest.mark.same_code]


class TellingEnv(CountingEnv):
    """Tells something in the infos of resets, too, and heeds their options; with a seed its life begins anew."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._episode = -1
        observation, info = super().reset(seed=seed)
        self.level = (options or {}).get("level", 0)
        return observation, {**info, "begun": self._episode, "level": self.level}

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "level": self.level}


#: All that is recorded of environments, and done with them.
EVERYTHING = {
    "agent": AgeAgent(),
    "batch_B": 6,
    "env_info_keys": {"doubled": float, "lengths.steps": int, "begun": int, "level": int},
    "traj_info_cls": DetailedTrajInfo,
    "bootstrap_value": True,
    "max_decorrelation_steps": 6,
    "eval_n_envs": 4,
    "eval_max_steps": 60,
    "eval_max_trajectories": 5,
}


async def everything(kind, env_fn, **arguments):
    """Some batches, and an evaluation between them."""
    async with small(kind, env_fn, **{**EVERYTHING, **arguments}) as sampler:
        batches = [await sampler.obtain_samples(copy=True) for _ in range(2)]
        evaluated = [vars(info) for info in await sampler.evaluate_agent()]
        return [*batches, *[await sampler.obtain_samples(copy=True) for _ in range(2)]], evaluated


def assert_all_same(got, expected):
    for batch, other in zip(got[0], expected[0], strict=True):
        assert_same(batch, other)
    assert got[1] == expected[1]
    assert len(got[1]) >= 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [gym.vector.SyncVectorEnv, OfThoseAlone])
async def test_all_modes_give_what_single_environments_give(mode, kind):
    assert_all_same(
        await everything("in-process", vector_of(TellingEnv, mode, kind)), await everything("in-process", TellingEnv)
    )


@pytest.mark.each_value
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait"])
async def test_a_single_one_is_as_one_without_a_vector_environment(mode, mid_batch_reset):
    async def both(env_fn):
        arguments = {**EVERYTHING, "batch_B": 1, "eval_n_envs": 1, "mid_batch_reset": mid_batch_reset}
        async with small("in-process", env_fn, **arguments) as sampler:
            evaluated = [vars(info) for _ in range(2) for info in await sampler.evaluate_agent()]
            return [await sampler.obtain_samples(copy=True) for _ in range(4)], evaluated

    assert_all_same(await both(vector_of(TellingEnv, mode, WithoutMasks)), await both(TellingEnv))


class ListedInfos(gym.vector.SyncVectorEnv):
    """Has a list of infos, as old ones do: at an end it is that of the last step, with the last observation."""

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, [{} for _ in range(self.num_envs)]

    def step(self, actions):
        *result, infos = super().step(actions)
        ended = infos.get("_final_obs", [False] * self.num_envs)
        told = [
            {"doubled": (infos["final_info"] if ended[i] else infos)["doubled"][i]}
            | ({"terminal_observation": infos["final_obs"][i]} if ended[i] else {})
            for i in range(self.num_envs)
        ]
        return (*result, told)


async def test_an_info_of_an_end_is_not_that_of_the_reset_where_there_is_one_of_both():
    arguments = {"agent": AgeAgent(), "env_info_keys": {"doubled": float}, "batch_T": 12}
    async with (
        small("in-process", vector_of(CountingEnv, "SameStep", ListedInfos), **arguments) as got,
        small("in-process", CountingEnv, **arguments) as expected,
    ):
        for _ in range(3):
            assert_same(await got.obtain_samples(), await expected.obtain_samples())


async def test_statistics_of_an_episode_beside_the_info_of_the_reset_belong_to_its_end():
    def recorded(*, num_envs):
        return gym.wrappers.vector.RecordEpisodeStatistics(vector_of(TellingEnv, "SameStep")(num_envs=num_envs))

    async with small("in-process", recorded, env_info_keys={"episode.r": float, "begun": int}, batch_T=30) as sampler:
        samples = await sampler.obtain_samples()
    env, finished = samples.env, [info.Return for info in samples.traj_infos]
    assert torch.equal(env.env_info_present["episode.r"], env.done)
    assert env.env_info["episode.r"][env.done].tolist() == pytest.approx(finished)
    assert env.prev_env_info_present["begun"][1:].sum() == env.first[1:].sum() > 3
    assert not env.prev_env_info_present["episode.r"][1:][env.first[1:]].any()


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
async def test_statistics_of_the_others_go_on_where_some_are_reset(mode):
    def recorded(*, num_envs):
        return gym.wrappers.vector.RecordEpisodeStatistics(vector_of(TellingEnv, mode)(num_envs=num_envs))

    async with small("in-process", recorded, env_info_keys={"episode.r": float}, batch_T=30) as sampler:
        samples = await sampler.obtain_samples()
    env, finished = samples.env, [info.Return for info in samples.traj_infos]
    assert len(finished) > 10
    assert env.env_info["episode.r"][env.done].tolist() == pytest.approx(finished)


async def test_a_list_of_infos_beside_final_ones_has_those_of_resets():
    def listed(*, num_envs):
        return gym.wrappers.vector.DictInfoToList(vector_of(TellingEnv, "SameStep")(num_envs=num_envs))

    arguments = {"env_info_keys": {"doubled": float, "begun": int}, "batch_T": 12}
    async with (
        small("in-process", listed, **arguments) as got,
        small("in-process", TellingEnv, **arguments) as expected,
    ):
        for _ in range(2):
            assert_same(await got.obtain_samples(), await expected.obtain_samples())


class Echo(CountingEnv):
    """Rewards an action that tells of the step at which it was chosen."""

    def step(self, action):
        said = action == min(self._step, 4)
        observation, _, *ends = super().step(action)
        return observation, float(said), *ends


class Echoing(LookingAgent):
    def step(self, inputs, state):
        return super().step(inputs, state)._replace(action=inputs.observation[:, 2].clamp(max=4))


async def test_episodes_that_begin_while_others_wait_show_their_first_observation():
    env_fn = vector_of(Echo, "NextStep", WithoutMasks)
    arguments = {"eval_n_envs": 4, "eval_max_trajectories": 9, "eval_max_steps": 60}
    async with small("in-process", env_fn, agent=Echoing(), **arguments) as sampler:
        infos = await sampler.evaluate_agent()
    assert len(infos) == 9
    assert [info.Return for info in infos] == [info.Length for info in infos]


class WithoutLastObservations(ListedInfos):
    def step(self, actions):
        *result, told = super().step(actions)
        return (*result, [{"doubled": info["doubled"]} for info in told])


class ResetsNone(WithoutMasks):
    """Goes on where an episode has ended, as one does that resets none by itself."""

    def step(self, actions):
        self._autoreset_envs[:] = False
        return super().step(actions)


@pytest.mark.parametrize(
    ("kind", "mode", "words"),
    [
        (WithoutLastObservations, "SameStep", r"the infos have none of final_obs, .* all must end at once"),
        (ResetsNone, "NextStep", r"ended in the step that had to reset .* AutoresetMode\.DISABLED"),
    ],
)
async def test_one_that_does_not_what_its_mode_says_is_refused(kind, mode, words):
    with pytest.raises(WorkerError, match=words):
        async with small("in-process", vector_of(CountingEnv, mode, kind), batch_T=12) as sampler:
            await sampler.obtain_samples()


@pytest.mark.parametrize("kind", [WithoutMasks, OfThoseAlone])
async def test_one_that_resets_within_the_step_and_does_not_say_so_is_refused(kind):
    class Silent(kind):
        """Says nothing of its mode, which counts as that of Gymnasium."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.metadata = {key: value for key, value in self.metadata.items() if key != "autoreset_mode"}

    with pytest.raises(WorkerError, match=r'final_obs.*must say so, by metadata\["autoreset_mode"\]'):
        async with small("in-process", vector_of(CountingEnv, "SameStep", Silent), batch_T=12) as sampler:
            for _ in range(3):
                await sampler.obtain_samples()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["in-process", "gpu"])
async def test_environments_that_wait_while_others_step_begin_anew_with_the_batch(kind, mode):
    longest = 9
    async with small(
        kind, vector_of(TellingEnv, mode), env_kwargs={"longest": longest}, mid_batch_reset=False
    ) as sampler:
        ends = 0
        open_steps = [0] * 4
        for _ in range(6):
            samples = await sampler.obtain_samples()
            for b in range(4):
                valid = int(samples.valid[:, b].sum())
                assert samples.valid[:valid, b].all()
                seeds, episodes, steps = samples.env.observation[:valid, b].T.tolist()
                assert steps == list(range(open_steps[b], open_steps[b] + valid))
                assert set(seeds) == {environment_seed(5, b)}
                assert len(set(episodes)) == 1
                length = 1 + (seeds[0] + 3 * episodes[0]) % longest
                done = bool(samples.env.done[valid - 1, b])
                assert done == (open_steps[b] + valid == length)
                if done:
                    assert samples.env.final_observation[valid - 1, b].tolist() == [seeds[0], episodes[0], length]
                open_steps[b] = 0 if done else open_steps[b] + valid
                ends += done
                assert not samples.env.observation[valid:, b].any()
        assert ends > 6


@pytest.mark.parametrize("kind", KINDS)
async def test_all_samplers_give_what_single_environments_give(kind):
    mode = MODES[list(KINDS).index(kind) % 3]
    assert_all_same(await everything(kind, vector_of(TellingEnv, mode)), await everything("in-process", TellingEnv))


def rows_of(batches, b):
    """The valid rows of a column: observation, action, reward, done, and what the agent had counted."""
    for batch in batches:
        for t in batch.valid[:, b].nonzero().flatten().tolist():
            yield (
                batch.env.observation[t, b].tolist(),
                int(batch.agent.action[t, b]),
                float(batch.env.reward[t, b]),
                bool(batch.env.terminated[t, b]),
                bool(batch.env.truncated[t, b]),
                bool(batch.env.first[t, b]),
                float(batch.agent.agent_info["age"][t, b]),
                int(batch.env.prev_env_info["begun"][t, b]),
            )


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_steps_that_only_reset_are_blank_where_nothing_else_is_possible(kind):
    arguments = {**EVERYTHING, "max_decorrelation_steps": 0, "batch_T": 7}
    async with small(kind, vector_of(TellingEnv, "NextStep", WithoutMasks), **arguments) as sampler:
        batches = [await sampler.obtain_samples(copy=True) for _ in range(6)]
        evaluated = await sampler.evaluate_agent()
    lengths = [[] for _ in range(6)]
    for b in range(6):
        env = TellingEnv()
        expected, info = env.reset(seed=environment_seed(5, b))
        valid = torch.cat([batch.valid[:, b] for batch in batches]).tolist()
        done = torch.cat([batch.env.done[:, b] for batch in batches]).tolist()
        assert valid == [t == 0 or not done[t - 1] for t in range(len(done))]
        age = 0
        for observation, action, reward, terminated, truncated, first, seen, begun in rows_of(batches, b):
            assert (observation, first, seen) == (expected.tolist(), age == 0, age)
            assert begun == info.get("begun", 0)
            expected, *returned, info = env.step(action)
            assert [reward, terminated, truncated] == [np.float32(returned[0]), *returned[1:]]
            age += 1
            if terminated or truncated:
                lengths[b].append(age)
                (expected, info), age = env.reset(), 0
    told = [info.Length for batch in batches for info in batch.traj_infos]
    assert sorted(told) == sorted(itertools.chain(*lengths))
    final = batches[0].env.final_observation
    assert len(final) == int(batches[0].env.done.sum()) > 2
    assert len(evaluated) == 5
    alone = []
    for b in range(3):
        env = TellingEnv()
        env.reset(seed=environment_seed(5, b, evaluation=True))
        env.reset()  # for the first evaluation
        alone.append(env._length)
    assert {info.Length for info in evaluated} >= set(alone[:1])


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize(
    ("name", "value"), [("mid_batch_reset", False), ("max_decorrelation_steps", 3)], ids=["wait", "decorrelation"]
)
async def test_what_needs_resets_of_some_alone_is_refused_without_them(mode, name, value):
    env_fn = vector_of(TellingEnv, mode, WithoutMasks)
    with pytest.raises(ConfigError, match=rf"{name}={value} needs environments that can be reset one by one.*{mode}"):
        async with small("serial", env_fn, **{name: value}):
            pass


@pytest.mark.parametrize("wait", [False, True])
async def test_a_single_one_is_evaluated_with_several_that_reset_themselves(wait):
    env_fn = vector_of(Echo, "NextStep", WithoutMasks)
    arguments = {"batch_B": 1, "eval_n_envs": 4, "eval_max_steps": 80, "mid_batch_reset": not wait}
    async with small("in-process", env_fn, agent=Echoing(), **arguments) as sampler:
        infos = await sampler.evaluate_agent()
    lengths = [info.Length for info in infos]
    assert len(lengths) > 8
    assert max(lengths) <= 7
    assert [info.Return for info in infos] == lengths


class SameArrayEnv(CountingEnv):
    """Returns the same array each time."""

    _seen = None

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return self.shown(observation), info

    def step(self, action):
        observation, *rest = super().step(action)
        return self.shown(observation), *rest

    def shown(self, observation):
        self._seen = observation if self._seen is None else self._seen
        self._seen[...] = observation
        return self._seen


@pytest.mark.parametrize("mode", MODES)
async def test_environments_that_return_the_same_array_are_refused_where_its_contents_are_lost(mode):
    async with small("in-process", vector_of(SameArrayEnv, mode), batch_T=30) as sampler:
        if mode == "SameStep":
            with pytest.raises(WorkerError, match="was overwritten by the reset within the step"):
                await sampler.obtain_samples()
            return
        async with small("in-process", CountingEnv, batch_T=30) as same:
            assert_same(await sampler.obtain_samples(), await same.obtain_samples())


async def test_resets_within_the_step_need_no_masks():
    arguments = {"max_decorrelation_steps": 0}
    assert_all_same(
        await everything("in-process", vector_of(TellingEnv, "SameStep", WithoutMasks), **arguments),
        await everything("in-process", TellingEnv, **arguments),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_fn", [NestedEnv, ChaoticEnv, "CartPole-v1"], ids=["nested", "chaotic", "cartpole"])
async def test_spaces_of_all_kinds_are_recorded_as_of_single_environments(env_fn, mode):
    async def batches(env_fn):
        agent = RandomAgent() if "CartPole" in str(env_fn) else LookingAgent()
        async with small("in-process", env_fn, agent=agent, batch_T=30) as sampler:
            return [await sampler.obtain_samples(copy=True) for _ in range(3)]

    for got, expected in zip(await batches(vector_of(env_fn, mode)), await batches(env_fn), strict=True):
        assert_same(got, expected)


@pytest.mark.parametrize("kind", ["in-process", "cpu"])
async def test_environments_of_a_vector_environment_are_called_each_by_itself(kind):
    async with small(kind, vector_of(TellingEnv, "Disabled"), overlap=False, env_info_keys={"level": int}) as sampler:
        await sampler.set_attr("_longest", [3, 4, 5, 6])
        assert await sampler.get_attr("_longest", env_indices=[3, 0]) == [6, 3]
        await sampler.set_reset_options([{"level": b} for b in range(4)])
        for _ in range(4):
            samples = await sampler.obtain_samples()
        assert (samples.env.prev_env_info["level"] == torch.arange(4)).all()
        await sampler.set_reset_options({"level": 9}, env_indices=1)
        for _ in range(4):
            samples = await sampler.obtain_samples()
        assert samples.env.prev_env_info["level"][-1].tolist() == [0, 9, 2, 3]


async def test_options_that_a_vector_environment_would_not_pass_on_are_refused():
    async with small("in-process", vector_of(TellingEnv, "SameStep", WithoutMasks)) as sampler:
        with pytest.raises(ConfigError, match=r"set_reset_options\(\) would be ignored: .* WithoutMasks"):
            await sampler.set_reset_options({"level": 1})
        await sampler.set_reset_options(None)
        await sampler.obtain_samples()


@pytest.mark.parametrize("kind", ["in-process", "cpu"])
async def test_what_a_vector_environment_has_as_a_whole(kind):
    env_fn = functools.partial(gym.make_vec, "CartPole-v1")
    async with small(kind, env_fn, agent=RandomAgent(), overlap=False) as sampler:
        assert await sampler.get_attr("gravity") == [9.8] * 4
        await sampler.set_attr("gravity", 5.0)
        assert await sampler.get_attr("gravity", env_indices=2) == [5.0]
        with pytest.raises(
            ConfigError, match=r"reaches environments \d to \d together, which are one CartPoleVectorEnv"
        ):
            await sampler.set_attr("gravity", 1.0, env_indices=0)


async def test_what_a_wrapper_of_a_vector_environment_has():
    def normalized(*, num_envs):
        return gym.wrappers.vector.NormalizeObservation(gym.make_vec("CartPole-v1", num_envs, "sync"))

    async with small("in-process", normalized, agent=RandomAgent(), overlap=False) as sampler:
        await sampler.set_attr("update_running_mean", False)
        assert await sampler.get_attr("update_running_mean") == [False] * 4
        assert await sampler.get_attr("length") == [0.5] * 4  # of the single ones within
        (before, *_), _, (after, *_) = [
            await sampler.get_attr("obs_rms"), await sampler.obtain_samples(), await sampler.get_attr("obs_rms")
        ]  # fmt: skip
        assert before.count == after.count


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_gymnasiums_own_vector_environments_work(kind):
    env_fn = functools.partial(gym.make_vec, "CartPole-v1", max_episode_steps=11)
    async with small(kind, env_fn, agent=RandomAgent(), batch_T=12, eval_n_envs=2, eval_max_steps=60) as sampler:
        for _ in range(3):
            samples = await sampler.obtain_samples()
            assert samples.env.observation.shape == (12, 4, 4)
            assert (samples.env.reward[samples.valid] == 1).all()
            assert not samples.env.observation[~samples.valid].any()
            assert all(info.Length <= 11 for info in samples.traj_infos)
        assert samples.traj_infos
        assert await sampler.evaluate_agent()


async def test_processes_of_gymnasiums_own_work():
    env_fn = functools.partial(gym.make_vec, "CartPole-v1", vectorization_mode="async")
    async with small("serial", env_fn, agent=RandomAgent(), batch_B=2) as sampler:
        assert (await sampler.obtain_samples()).valid.all()
        assert await sampler.get_attr("spec") != [None, None]


class Breaking(CountingEnv):
    def step(self, action):
        result = super().step(action)
        if self._episode == 0 and self._seed in self.seeds and self._step == 2:
            raise ValueError("the sky fell")
        return result


@pytest.mark.parametrize("kind", ["serial", "cpu", "gpu"])
async def test_a_fault_names_all_environments_of_the_call(kind):
    Breaking.seeds = [environment_seed(5, b) for b in range(4)]
    with pytest.raises(
        WorkerError, match=r"^environments \d to \d failed in .* step 1 of the batch: ValueError: the sky"
    ):
        async with small(kind, vector_of(Breaking)) as sampler:
            await sampler.obtain_samples()


async def test_a_step_that_sticks_names_all_environments_of_the_call():
    from tests.support.worlds import FaultyEnv

    env_fn = vector_of(functools.partial(FaultyEnv, "hang", at_step=4))
    with pytest.raises(Exception, match=r"environments \d to \d") as caught:
        async with small("cpu", env_fn, step_timeout=0.5, batch_T=30) as sampler:
            for _ in range(3):
                await sampler.obtain_samples()
    assert caught.value.env_index is None


@pytest.mark.parametrize("kind", PARALLEL)
async def test_a_worker_that_is_replaced_builds_another(kind):
    Breaking.seeds = [environment_seed(5, 3)]
    async with small(kind, vector_of(Breaking, "Disabled"), max_worker_restarts=3) as sampler:
        batches = [await sampler.obtain_samples(copy=True) for _ in range(4)]
    assert sum(batch.stats.restarts for batch in batches) == 1
    assert batches[-1].valid.all()
    lost = ~batches[0].valid
    assert lost.any()
    assert not lost[:, :2].any()


class Dying(CartPoleVectorEnv):
    """Raises at its 20th step, if it is the first of its worker."""

    def __init__(self, num_envs, context):
        super().__init__(num_envs)
        self._left = 20 if context is not None and context.restarts == 0 and context.index == 0 else None

    def step(self, actions):
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                raise ValueError("the sky fell")
        return super().step(actions)


async def test_what_a_vector_environment_was_told_as_a_whole_its_successor_is_told():
    async with small("cpu", Dying, agent=RandomAgent(), max_worker_restarts=1) as sampler:
        await sampler.set_attr("gravity", 5.0)
        await sampler.set_attr("length", 2.0)
        restarts = sum([(await sampler.obtain_samples()).stats.restarts for _ in range(8)])
        assert restarts == 1
        assert await sampler.get_attr("gravity") == [5.0] * 4
        assert await sampler.get_attr("length") == [2.0] * 4


def make(*, num_envs, size=None, single=False, context=None):
    CONTEXTS.append(context)
    return CountingEnv() if single else gym.vector.SyncVectorEnv([CountingEnv] * (size or num_envs))


CONTEXTS = []


async def test_the_factory_is_told_which_environments_it_makes():
    CONTEXTS.clear()
    async with small("in-process", make, eval_n_envs=2, eval_max_steps=20):
        pass
    example, training, evaluation = CONTEXTS
    assert example is None
    assert (training.index, training.n, training.evaluation) == (0, 4, False)
    assert training.seeds == tuple(environment_seed(5, b) for b in range(4))
    assert evaluation.seeds == tuple(environment_seed(5, b, evaluation=True) for b in range(2))


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"size": 3}, ConfigError, "asked for a vector environment of num_envs=4, and returned one of 3"),
        ({"single": True}, EnvironmentFailed, "must return a vector environment, got .*CountingEnv"),
    ],
    ids=["size", "single"],
)
async def test_what_is_no_vector_environment_of_that_size_is_refused(kwargs, error, words):
    with pytest.raises(error, match=words):
        async with small("serial", make, env_kwargs=kwargs):
            pass


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [([{}] * 4, "a dict for each environment, and env_fn makes many"), ({"num_envs": 4}, "must not have num_envs")],
    ids=["each", "num_envs"],
)
def test_arguments_that_a_vector_environment_cannot_have_are_refused(kwargs, words):
    with pytest.raises(ConfigError, match=words):
        small("serial", make, env_kwargs=kwargs)
