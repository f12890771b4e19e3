"""The interface between samplers and policies.

Annotations are evaluated here, so that what makes documentation finds the types of the fields of named tuples.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from aiosampler.errors import SamplerError
from aiosampler.specs.trees import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

    from aiosampler.agents.adopted import AdoptedParameters
    from aiosampler.agents.parameters import Publisher
    from aiosampler.specs.arrays import Spaces


class AgentInputs(NamedTuple):
    """What an agent sees of B environments at one time step: trees of tensors ``[B, ...]``.

    They are views of the batch that is being recorded: do not write to them, and copy what you keep.
    """

    observation: Tree
    prev_action: Tree  # zeros where an episode starts
    prev_reward: "torch.Tensor"  # [B] float32, zero where an episode starts
    env_info: Tree = None  # dict of the `env_info_keys` that came with the observation, zero where absent
    #: [B] int64, only with ``lockstep=False``: positions of these environments in the `env_ranks` of
    #: `collector_initialize`. None if they are all of them, in order.
    environments: "torch.Tensor | None" = None


class AgentStep(NamedTuple):
    """What an agent answers: trees of new tensors ``[B, ...]``."""

    action: Tree
    agent_info: Tree = None
    state: Tree = None


class Agent:
    """Chooses actions; subclass it, or take one of the ready agents.

    The loop that a sampler runs, under `torch.inference_mode`::

        agent.initialize(spaces)
        agent.collector_initialize(global_B, env_ranks)
        state = agent.initial_state(B)
        for itr in ...:
            agent.recv_shared_memory()                                    # the model has the newest parameters
            agent.sample_mode(itr)
            for t in range(T):
                action, agent_info, state = agent.step(inputs[t], state)   # state is reset where an episode ends
            bootstrap_value = agent.value(inputs[T], state)                # if asked for, and so for what episodes
                                                                           # ended with, in the state before its reset

    An agent travels to the sampler's processes by cloudpickle. It keeps no recurrent state of its own: the sampler
    hands it in and takes it back.

    Attributes:
        recurrent: Whether `step` takes and gives a state.
        cuda_graph: Whether `step` may be captured as a CUDA graph: it queues the same kernels at each call, waits for
            none of them, and changes no attribute.
        model: The module that `publish` copies; `initialize` builds it, with tensors of the same names, shapes and
            dtypes in every process. None for an agent without parameters. While it acts it must not change its
            parameters and buffers, but for buffers with ``persistent=False``, of which each process has its own:
            statistics belong in buffers that the trainer updates and publishes. Tensors anywhere else in an agent are
            not published: each process has those that it has built.
        mode: ``"train"``, ``"sample"`` or ``"eval"``.
    """

    recurrent: bool = False
    cuda_graph: bool = False
    model: "nn.Module | None" = None
    mode: str = "train"
    _parameters: "Publisher | AdoptedParameters | None" = None

    def initialize(self, spaces: "Spaces") -> None:
        """Build `self.model` from the spaces of a single environment; called once in each process that has the agent.

        `torch`'s random generator is seeded for the call, so every process builds the same. In your own process that is
        in a thread, so that your event loop goes on; but in that loop's own, where random numbers are drawn otherwise
        than by functions of torch that take a generator, as by NumPy or by dropout.
        """

    def step(self, inputs: AgentInputs, state: Tree) -> AgentStep:
        """Choose actions for B environments.

        Args:
            inputs: Observations, previous actions and rewards, ``[B, ...]``.
            state: Recurrent state ``[B, ...]`` as the last step gave it, None if the agent is not recurrent.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step(inputs, state)")

    def value(self, inputs: AgentInputs, state: Tree) -> "torch.Tensor":
        """Estimate the values ``[B]`` of the states that `inputs` show; needed for ``bootstrap_value=True``.

        It is also called for final observations of episodes: then rows of environments without one are zeros.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no value(inputs, state), which bootstrap_value=True needs"
        )

    def check_outputs(self, inputs: AgentInputs, state: Tree) -> None:
        """Refuse outputs of the model whose shapes `step` cannot use; called when the agent is tried out.

        Args:
            inputs: Inputs of n environments, as for `step`; n is not always B.
            state: Recurrent state of n environments.

        Raises:
            AgentError: It says which output, what it got and what to do.
        """

    def initial_state(self, batch_size: int) -> Tree:
        """The recurrent state ``[batch_size, ...]`` at the start of an episode, None if the agent is not recurrent."""
        return None

    def collector_initialize(self, global_B: int, env_ranks: "Sequence[int]") -> None:
        """Learn which of the B environments this copy of the agent acts for, for example to set their epsilons."""

    def sample_mode(self, itr: int) -> None:
        """Prepare to collect batch `itr`."""
        self._set_mode("sample")

    def eval_mode(self, itr: int) -> None:
        """Prepare to evaluate."""
        self._set_mode("eval")

    def train_mode(self, itr: int) -> None:
        """Prepare to be trained."""
        self._set_mode("train")

    def send_shared_memory(self) -> int:
        """Publish the parameters of `model` to the sampler; return the policy version.

        If several samplers have this agent, that is the one that was started last; `publish` of each is for itself.

        Raises:
            SamplerError: The agent belongs to no running sampler, or is a sampler's own copy.
        """
        store = self._store()
        if not hasattr(store, "publish"):
            raise SamplerError("parameters are published by the user's process, not by the sampler's copy of the agent")
        return store.publish(self.model)

    def recv_shared_memory(self) -> int:
        """Called before each batch, when the model has the parameters for it; return their policy version.

        The sampler calls it in each process that has the agent. Override it to react to new parameters.
        """
        return self._store().version

    def attach(self, parameters: "Publisher | AdoptedParameters") -> None:
        """Connect the agent to the parameters in the arena. The sampler calls it."""
        self._parameters = parameters

    def detach(self, parameters: "Publisher | AdoptedParameters | None") -> None:
        """Remove the connection to `parameters`, if there is one. The sampler calls it."""
        if self._parameters is parameters:
            self._parameters = None

    def _store(self) -> "Publisher | AdoptedParameters":
        if self._parameters is None:
            raise SamplerError("the agent belongs to no running sampler; start the sampler before publishing")
        return self._parameters

    def _set_mode(self, mode: str) -> None:
        changes, self.mode = mode != self.mode, mode
        if self.model is not None and (changes or self.model.training is not (mode == "train")):
            self.model.train(mode == "train")  # takes a while, since it visits every module

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_parameters"}
