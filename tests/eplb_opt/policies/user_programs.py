"""Programs as users write them: good ones and bad ones. Each function is a policy."""

import numpy as np
import torch


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):  # noqa: ARG001
    """Round robin: expert p mod E in slot p."""
    layers, experts = weight.shape
    phy2log = torch.arange(num_replicas).remainder(experts).repeat(layers, 1)
    return phy2log, *maps_of(phy2log, experts)


def maps_of(phy2log, experts):
    layers, slots = phy2log.shape
    logcnt = torch.zeros(layers, experts, dtype=torch.int64)
    log2phy = torch.full((layers, experts, slots), -1)
    for i in range(layers):
        for p, e in enumerate(phy2log[i].tolist()):
            log2phy[i, e, logcnt[i, e]] = p
            logcnt[i, e] += 1
    return log2phy, logcnt


def new_vllm(weight, num_replicas, num_groups, num_nodes, num_ranks, old_indices):
    """Only phy2log, and an argument for the old placement without a default."""
    assert old_indices is None
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_ranks)[0].numpy()


class Engine:
    @staticmethod
    def place(weight, num_replicas, *sizes):
        return rebalance_experts(weight, num_replicas, *sizes)[0].tolist()


def from_heaviest_step(weight, num_replicas, *_):
    """Round robin, from the step that is heaviest in expert 0: it needs the steps."""
    _, layers, experts = weight.shape
    assert str(weight.dtype) == "torch.float32"
    first = int(weight[:, 0, 0].argmax())
    slots = torch.arange(first, first + num_replicas).remainder(experts)
    return slots.repeat(layers, 1)


from_heaviest_step.takes_steps = True


def for_the_worst_step(*arguments):
    return from_heaviest_step(*arguments)


for_the_worst_step.takes_steps = True
for_the_worst_step.objective, for_the_worst_step.dispatch = "worst", "optimal"


def raises(*_):
    raise RuntimeError("shape mismatch:\n  second line")


def exits(*_):
    raise SystemExit(3)


def returns_none(*_):
    return None


def returns_nothing(*_):
    return ()


def returns_floats(weight, num_replicas, *_):
    return np.zeros((weight.shape[0], num_replicas))


def one_slot_short(*arguments):
    return rebalance_experts(*arguments)[0][:, :-1]


def misses_an_expert(*arguments):
    return rebalance_experts(*arguments)[0].clamp(min=1)


def wrong_counts(*arguments):
    phy2log, log2phy, logcnt = rebalance_experts(*arguments)
    return phy2log, log2phy, logcnt + 1


def wrong_slots(*arguments):
    phy2log, log2phy, logcnt = rebalance_experts(*arguments)
    return phy2log, log2phy.roll(1, dims=1), logcnt


def flat_slots(*arguments):
    phy2log, log2phy, logcnt = rebalance_experts(*arguments)
    return phy2log, log2phy[0], logcnt


def noisy(*arguments):
    print("progress: 100 %")
    return rebalance_experts(*arguments)


def writes_into_its_input(weight, *sizes):
    answer = rebalance_experts(weight, *sizes)
    weight.zero_()
    return answer


NOT_A_FUNCTION = 3
