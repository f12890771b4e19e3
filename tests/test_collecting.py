"""What a batch holds, checked against environments that are stepped by hand."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

from aiosampler import RandomAgent, TrajInfo, environment_seed
from aiosampler.collectors.environments import AgentFault
from aiosampler.collectors.local_agent import AgentStepper, Recorder
from aiosampler.specs.seeding import Stream, seed_sequence
from tests.in_process import InProcess, join
from tests.worlds import AgeAgent, ChaoticEnv, CountingEnv, DetailedTrajInfo, LookingAgent, NestedEnv

pytestmark = pytest.mark.usefixtures("same_generators")


def gather(sampler, n):
    batches = [sampler.collect().clone() for _ in range(n)]
    sampler.close()
    return batches


@pytest.mark.parametrize("T", range(1, 10))
def test_rows_follow_one_another_wherever_the_batch_is_cut(T):
    batches = gather(InProcess(CountingEnv, agent=LookingAgent(), batch_T=T, batch_B=3, seed=5), 40 // T)
    observation, action = join(batches, lambda s: s.env.observation), join(batches, lambda s: s.agent.action)
    for b in range(3):
        env = CountingEnv()
        expected, _ = env.reset(seed=environment_seed(5, b))
        prev_action, prev_reward = 0, 0.0
        for t in range(len(observation)):
            batch, row = batches[t // T], t % T
            assert observation[t, b].tolist() == expected.tolist()
            assert batch.agent.prev_action[row, b] == prev_action
            assert batch.env.prev_reward[row, b] == prev_reward
            expected, reward, terminated, truncated, _ = env.step(action[t, b])
            prev_action, prev_reward = action[t, b], np.float32(reward)
            assert batch.env.reward[row, b] == prev_reward
            assert batch.env.terminated[row, b] == terminated
            assert batch.env.truncated[row, b] == truncated
            assert batch.env.done[row, b] == (terminated or truncated)
            if terminated or truncated:
                assert batch.env.final_observation[row, b].tolist() == expected.tolist()
                assert batch.env.next_observation()[row, b].tolist() == expected.tolist()
                expected, _ = env.reset()
                prev_action, prev_reward = 0, 0.0
            else:
                assert batch.env.next_observation()[row, b].tolist() == expected.tolist()
                with pytest.raises(IndexError, match="no episode ended"):
                    batch.env.final_observation[row, b]
            if row == T - 1:
                assert batch.env.last_observation[b].tolist() == expected.tolist()
    assert all(batch.valid.all() for batch in batches)


def test_the_agent_is_recorded_with_what_it_saw():
    for batch in gather(InProcess(CountingEnv, agent=LookingAgent(), batch_T=6, batch_B=3, seed=5), 5):
        look = batch.env.observation.double().sum(-1) + batch.agent.prev_action + batch.env.prev_reward
        assert torch.equal(look, batch.agent.agent_info["look"])
        assert torch.equal(batch.env.prev_reward, batch.agent.agent_info["prev"][0])


@pytest.mark.parametrize("env_fn", ["CartPole-v1", ChaoticEnv], ids=["cartpole", "chaotic"])
@pytest.mark.parametrize("T", [1, 2, 3, 7, 16])
def test_the_recorded_actions_replay_the_trajectory_bit_for_bit(env_fn, T):
    batches = gather(InProcess(env_fn, agent=RandomAgent(), batch_T=T, batch_B=2, seed=11), 120 // T)
    observation, action = join(batches, lambda s: s.env.observation), join(batches, lambda s: s.agent.action)
    reward, done = join(batches, lambda s: s.env.reward), join(batches, lambda s: s.env.done)
    for b in range(2):
        env = gym.make(env_fn) if isinstance(env_fn, str) else env_fn()
        expected, _ = env.reset(seed=environment_seed(11, b))
        for t in range(len(observation)):
            assert observation[t, b].tobytes() == expected.tobytes()
            expected, r, terminated, truncated, _ = env.step(action[t, b])
            assert reward[t, b] == np.float32(r)
            assert done[t, b] == (terminated or truncated)
            if done[t, b]:
                expected, _ = env.reset()
        env.close()
    assert done.any()


@pytest.mark.parametrize("T", [4, 9])
def test_waiting_environments_leave_blanks(T):
    batches = gather(
        InProcess(
            CountingEnv,
            agent=AgeAgent(),
            batch_T=T,
            batch_B=3,
            seed=5,
            mid_batch_reset=False,
            bootstrap_value=True,
        ),
        6,
    )
    blanks = 0
    for batch in batches:
        for b in range(3):
            ends = batch.env.done[:, b].nonzero()
            first_blank = int(ends[0]) + 1 if len(ends) else T
            assert len(ends) <= 1
            assert batch.valid[:first_blank, b].all()
            assert not batch.valid[first_blank:, b].any()
            steps = batch.env.observation[:first_blank, b, 2].tolist()
            assert steps == list(range(steps[0], steps[0] + first_blank))
            blanks += T - first_blank
            for leaf in (
                batch.env.observation, batch.env.reward, batch.env.prev_reward, batch.env.done, batch.agent.action,
                batch.agent.prev_action, batch.agent.agent_info["look"], batch.agent.agent_info["age"],
            ):  # fmt: skip
                assert not leaf[first_blank:, b].any()
            if first_blank < T:
                assert not batch.env.last_observation[b].any()
            if len(ends):
                assert batch.agent.bootstrap_value[b] == 0
                final = batch.env.final_observation[int(ends[0]), b]
                assert final[2] == steps[-1] + 1
        assert batch.stats.env_steps == int(batch.valid.sum())
    assert blanks
    for before, after in itertools.pairwise(batches):
        for b in range(3):
            if before.env.done[:, b].any():
                assert after.env.observation[0, b, 2] == 0
                assert after.agent.initial_state["age"][b] == 0
            else:
                assert after.env.observation[0, b].tolist() == before.env.last_observation[b].tolist()


class WitnessAgent(LookingAgent):
    seen = {}  # noqa: RUF012 - of the class, since the sampler steps a copy

    def sample_mode(self, itr):
        super().sample_mode(itr)
        self.rows = self.seen[itr] = []

    def step(self, inputs, state):
        if self.mode == "sample":
            self.rows.append(torch.stack((inputs.observation[:, 2].float(), inputs.prev_reward)))
        return super().step(inputs, state)


def test_the_agent_sees_nothing_of_an_environment_that_waits(monkeypatch):
    monkeypatch.setattr(WitnessAgent, "seen", {})
    wait = InProcess(CountingEnv, agent=WitnessAgent(), batch_T=9, batch_B=3, seed=5, mid_batch_reset=False)
    blanks = 0
    for batch in gather(wait, 6):
        seen = torch.stack(WitnessAgent.seen[batch.itr])  # fewer than T, where all wait
        blank = ~batch.valid[: len(seen)]
        assert not seen.movedim(1, -1)[blank].any()
        blanks += int(blank.sum())
    assert blanks > 20


@pytest.mark.parametrize("T", [1, 3, 8])
def test_recurrent_state_is_the_age_of_the_episode(T):
    batches = gather(
        InProcess(CountingEnv, agent=AgeAgent(), batch_T=T, batch_B=3, seed=5, bootstrap_value=True), 24 // T
    )
    for batch in batches:
        assert torch.equal(batch.agent.agent_info["age"], batch.env.observation[..., 2].float())
        assert torch.equal(batch.agent.initial_state["age"], batch.env.observation[0, :, 2].float())
        assert batch.agent.initial_state["memory"][0].shape == (3, 2)
        look = batch.env.last_observation.double().sum(-1)
        ended = batch.env.done[-1]
        look += torch.where(ended, 0, batch.agent.action[-1]) + torch.where(ended, 0, batch.env.reward[-1])
        fresh = look.float() + 0.0 + 1.0  # age 0, and a memory of two halves
        assert torch.equal(batch.agent.bootstrap_value[ended], fresh[ended])


def test_nested_spaces_keep_their_structure_and_dtypes():
    batches = gather(InProcess(NestedEnv, agent=LookingAgent(), batch_T=5, batch_B=2, seed=5), 6)
    for batch in batches:
        image, (counts, bits) = batch.env.observation["image"], batch.env.observation["pose"]
        assert (image.dtype, image.shape) == (torch.uint8, (5, 2, 2, 2))
        assert (counts.dtype, bits.dtype) == (torch.int64, torch.int8)
        assert torch.equal(image[..., 0, 0].long(), counts[..., 2])
        assert torch.equal(batch.env.observation["room"], counts[..., 2] - 10)
        assert batch.agent.action["arm"].shape == (5, 2, 2)
        final = batch.env.final_observation
        assert len(final) == int(batch.env.done.sum())
        for index, (t, b) in enumerate(zip(final.t.tolist(), final.b.tolist(), strict=True)):
            assert batch.env.done[t, b]
            assert final[t, b]["room"] == final.observation["room"][index]
            assert torch.equal(final[t, b]["pose"][0], final.observation["pose"][0][index])
        order = list(zip(final.t.tolist(), final.b.tolist(), strict=True))
        assert order == sorted(order)


def test_env_info_is_recorded_and_zero_where_it_is_not_reported():
    keys = ("doubled", "parity", "lengths")
    batch = gather(InProcess(CountingEnv, agent=LookingAgent(), batch_T=9, batch_B=2, seed=5, env_info_keys=keys), 2)[1]
    steps = batch.env.next_observation()[..., 2]
    assert torch.equal(batch.env.env_info["doubled"], 2.0 * steps)
    assert batch.env.env_info["parity"].dtype == torch.int8
    assert torch.equal(batch.env.env_info["lengths"]["steps"], torch.where(batch.env.done, steps, 0))


@pytest.mark.parametrize("T", [2, 5, 11])
def test_trajectory_infos_cover_episodes_over_the_borders_of_batches(T):
    sampler = InProcess(
        CountingEnv, agent=LookingAgent(), batch_T=T, batch_B=3, seed=5, traj_info_kwargs={"discount": 0.9}
    )
    batches = gather(sampler, 60 // T)
    reward, done = join(batches, lambda s: s.env.reward), join(batches, lambda s: s.env.done)
    expected, start = [], [0, 0, 0]
    for t, b in np.argwhere(done):
        rewards = reward[start[b] : t + 1, b].astype(float)
        expected.append(
            (
                len(rewards),
                rewards.sum(),
                np.count_nonzero(rewards),
                (rewards * 0.9 ** np.arange(len(rewards))).sum(),
            )
        )
        start[b] = t + 1
    infos = [info for batch in batches for info in batch.traj_infos]
    assert all(type(info) is TrajInfo for info in infos)
    got = [(info.Length, info.Return, info.NonzeroRewards, info.DiscountedReturn) for info in infos]
    assert np.allclose(got, expected, rtol=1e-6)


def test_a_traj_info_that_overrides_step_sees_each_step():
    sampler = InProcess(
        CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=2, seed=5, traj_info_cls=DetailedTrajInfo,
        traj_info_kwargs={"label": "mine", "discount": 0.5},
    )  # fmt: skip
    infos = [info for batch in gather(sampler, 8) for info in batch.traj_infos]
    assert infos
    for info in infos:
        assert info.label == "mine"
        assert [step[2] for step in info.steps] == list(range(info.Length))
        assert info.last == [info.steps[0][0], info.steps[0][1], info.Length]


def test_decorrelation_takes_a_random_number_of_steps_that_depends_on_the_seed_and_the_environment():
    def first(B):
        batch = gather(
            InProcess(
                CountingEnv, env_kwargs={"longest": 300, "shortest": 200}, agent=LookingAgent(), batch_T=2, batch_B=B,
                seed=5, max_decorrelation_steps=100,
            ),
            1,
        )[0]  # fmt: skip
        return batch.env.observation[0], batch.agent.prev_action[0], batch.env.prev_reward[0]

    observation, prev_action, prev_reward = first(6)
    assert len(set(observation[:, 2].tolist())) > 3
    assert (observation[:, 2] < 100).all()
    assert torch.allclose(prev_reward, observation[:, 2] + prev_action / 8)
    assert torch.equal(observation[:2], first(2)[0])
    rng = np.random.default_rng(seed_sequence(5, Stream.DECORRELATION, 3))
    rng.integers(2**31)
    assert observation[3, 2] == rng.integers(100)


def test_evaluation_gives_each_environment_its_quota_whatever_the_lengths():
    sampler = InProcess(
        CountingEnv, env_kwargs={"longest": 50}, agent=LookingAgent(), batch_T=4, batch_B=1, seed=5, eval_n_envs=3,
        eval_max_steps=3000, eval_max_trajectories=7, traj_info_cls=DetailedTrajInfo,
    )  # fmt: skip
    for _ in range(3):
        infos = sampler.evaluate()
        by_env = {}
        for info in infos:
            by_env.setdefault(info.steps[0][0], []).append(info.steps[0][1])
        quota = {environment_seed(5, b, evaluation=True): 3 if b == 0 else 2 for b in range(3)}
        assert {seed: len(episodes) for seed, episodes in by_env.items()} == quota
    sampler.close()


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 17])
def test_evaluation_stops_at_the_step_limit(steps):
    sampler = InProcess(
        CountingEnv, env_kwargs={"longest": 3, "shortest": 3}, agent=LookingAgent(), batch_T=4, batch_B=1, seed=5,
        eval_n_envs=2, eval_max_steps=2 * steps,
    )  # fmt: skip
    assert len(sampler.evaluate()) == 2 * (steps // 3)
    sampler.close()


def test_fewer_episodes_than_evaluation_environments():
    sampler = InProcess(
        CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=1, seed=5, eval_n_envs=4, eval_max_steps=400,
        eval_max_trajectories=2, traj_info_cls=DetailedTrajInfo,
    )  # fmt: skip
    assert {info.steps[0][0] for info in sampler.evaluate()} == {
        environment_seed(5, b, evaluation=True) for b in (0, 1)
    }
    sampler.close()


def test_a_clone_outlives_its_slot():
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=2, seed=5)
    samples = sampler.collect()
    kept = samples.clone()
    frozen = samples.env.observation.clone(), samples.env.final_observation.observation.clone()
    sampler.collect()
    sampler.collect()
    assert not torch.equal(samples.env.observation, frozen[0])
    assert torch.equal(kept.env.observation, frozen[0])
    assert torch.equal(kept.env.final_observation.observation, frozen[1])
    assert kept.agent.bootstrap_value is None
    sampler.close()


def test_a_user_who_writes_to_a_batch_does_not_change_the_next():
    plain = gather(InProcess(CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=2, seed=5), 6)
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=2, seed=5)
    for expected in plain:
        samples = sampler.collect()
        assert torch.equal(samples.env.observation, expected.env.observation)
        for slot in sampler.slots[(sampler.itr - 1) % 2].values():
            for leaf in [slot] if isinstance(slot, np.ndarray) else []:
                leaf.fill(99)
    sampler.close()


def test_a_traj_info_sees_the_random_steps_of_decorrelation_with_their_observations():
    sampler = InProcess(
        CountingEnv, env_kwargs={"longest": 30, "shortest": 30}, agent=LookingAgent(), batch_T=40, batch_B=3, seed=5,
        max_decorrelation_steps=20, traj_info_cls=DetailedTrajInfo,
    )  # fmt: skip
    (samples,) = gather(sampler, 1)
    for info in samples.traj_infos:
        assert [step[2] for step in info.steps] == list(range(30))


class ExpandingAgent(AgeAgent):
    """Gives all environments one and the same state, as long as they have the same age."""

    def step(self, inputs, state):
        step = super().step(inputs, state)
        same = (step.state["age"] == step.state["age"][0]).all()
        age = step.state["age"][:1].expand(len(step.state["age"])) if same else step.state["age"]
        return step._replace(state={**step.state, "age": age})


def test_a_state_that_is_expanded_is_reset_for_one_environment_only():
    for batch in gather(InProcess(CountingEnv, agent=ExpandingAgent(), batch_T=8, batch_B=3, seed=5), 4):
        assert torch.equal(batch.agent.agent_info["age"], batch.env.observation[..., 2].float())


def test_integers_of_numpy_are_integers():
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=np.int64(4), batch_B=np.uint8(2), seed=np.int32(5))
    assert sampler.collect().env.reward.shape == (4, 2)
    sampler.close()


def record_info(arrays, info):
    """Record what an agent gave for three environments in `arrays`, the only row of a slot."""
    slot = {
        "observation": np.zeros((2, 3), np.float32), "reward": np.zeros((1, 3), np.float32),
        "prev_reward": np.zeros((2, 3), np.float32), "action": np.zeros((1, 3), np.int64),
        "prev_action": np.zeros((2, 3), np.int64), "initial_state": None, "bootstrap_value": None,
        "agent_info": {key: array[None] for key, array in arrays.items()},
    }  # fmt: skip
    AgentStepper(LookingAgent(), [slot]).record_info(0, info)


def test_a_flat_dict_is_written_by_key_and_converted_where_it_may_be():
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.int64)}
    given = {"b": torch.tensor([1, 2, 3]), "a": torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64)}
    for info in (given, {"b": given["b"].numpy(), "a": given["a"].float()}):
        record_info(arrays, info)
        assert arrays["a"].tolist() == [4, 5, 6]
        assert arrays["b"].tolist() == [1, 2, 3]
        for array in arrays.values():
            array.fill(0)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (None, "structure None"),
        (torch.zeros(2), "structure"),
        ({"a": torch.zeros(3)}, "structure"),
        ({"a": torch.zeros(3), "c": torch.zeros(3)}, "structure"),
        ({"a": torch.zeros(3), "b": torch.zeros(3), "c": torch.zeros(3)}, "structure"),
        ({"a": torch.zeros(3), "b": torch.zeros(1)}, r"agent_info\['b'\] with the shape \[1\], expected \[3\]"),
        ({"a": torch.zeros(3), "b": torch.zeros(3, dtype=torch.complex64)}, r"agent_info\['b'\] with the dtype"),
    ],
)
def test_a_flat_dict_that_does_not_fit_is_refused(info, message):
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}
    with pytest.raises(AgentFault, match=message):
        record_info(arrays, info)


def test_a_nested_dict_is_written_by_key():
    arrays = {"a": {"x": np.zeros(2), "y": np.zeros(2)}, "b": np.zeros(2)}
    tree = {"b": torch.tensor([1.0, 2.0]), "a": {"y": torch.tensor([3.0, 4.0]), "x": torch.tensor([5.0, 6.0])}}
    Recorder("agent_info", arrays).write((arrays["a"]["x"], arrays["a"]["y"], arrays["b"]), tree)
    assert arrays["a"]["x"].tolist() == [5, 6]
    assert arrays["a"]["y"].tolist() == [3, 4]
    assert arrays["b"].tolist() == [1, 2]
