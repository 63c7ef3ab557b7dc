"""Token-level routing: what is read, and the steps that are made of it."""

import re

import numpy as np
import pytest

from eplb_opt.io import FormatError
from eplb_opt.io.routing import Routing, batches, counts, read_routing

EXPERTS = np.array([[[0, 1]], [[1, 2]], [[2, 0]], [[3, 1]], [[0, 3]]], dtype=np.int8)
GOOD = {"experts": EXPERTS, "lengths": np.array([2, 3], np.int32), "topics": np.array(["b", "a"])}


def test_what_is_saved_is_read(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD)
    found = read_routing(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.experts, EXPERTS)
    assert found.lengths.dtype == np.int64
    assert found.topics is not None
    assert (found.lengths.tolist(), found.topics.tolist()) == ([2, 3], ["b", "a"])
    np.savez(tmp_path / "b.npz", experts=EXPERTS, lengths=[5])
    assert read_routing(tmp_path / "b.npz").topics is None


def changed(place, value):
    experts = EXPERTS.copy()
    experts[place] = value
    return {"experts": experts}


BAD = {
    "none": ({"experts": None}, "holds the arrays ['lengths', 'topics'], not 'experts': save it"),
    "floats": ({"experts": EXPERTS / 2}, "experts is float64 of shape (5, 1, 2): give integers"),
    "flat": ({"experts": EXPERTS[:, 0]}, "experts is int8 of shape (5, 2): give integers [tokens"),
    "no token": ({"experts": EXPERTS[:0]}, "experts is int8 of shape (0, 1, 2)"),
    "padding": (changed((3, 0, 1), -1), "token 3, layer 0 names expert -1: leave out tokens"),
    "twice": (changed((2, 0, 1), 2), "token 2, layer 0 names expert 2 twice: give the different"),
    "no lengths": ({"lengths": None}, "not 'lengths': save it, too"),
    "text": ({"lengths": np.array(["2"])}, "lengths is <U1 of shape (1,): give integers"),
    "empty": ({"lengths": np.array([5, 0])}, "lengths: request 1 has 0 tokens: leave out empty"),
    "short": ({"lengths": np.array([2, 2])}, "lengths sum to 4, but experts has 5 tokens"),
    "wrap": ({"lengths": np.array([2**63, 2**63 + 5], np.uint64)}, "sum to 18446744073709551621"),
    "topics": ({"topics": np.array(["a"])}, "topics is <U1 of shape (1,): give one text for each"),
    "objects": ({"topics": np.array(["a", None])}, "array 'topics' holds Python objects"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content_is_one_line_with_file_field_value_and_remedy(name, tmp_path):
    change, message = BAD[name]
    arrays = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(FormatError, match=rf"bad\.npz: .*{re.escape(message)}") as error:
        read_routing(tmp_path / "bad.npz")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(FormatError, match=r"not a readable \.npz archive"):
        read_routing(tmp_path / "a.npz")


def step_by_step(lengths, batch):
    """Another way: every request advances by a token, one that ended is replaced."""
    random = np.random.default_rng(0)
    first = np.cumsum(lengths) - lengths
    waiting = list(range(batch, len(lengths)))
    now = [[r, int(random.integers(lengths[r]))] for r in range(batch)]
    while True:
        yield [int(first[r]) + token for r, token in now]
        for place, (r, token) in enumerate(now):
            if token + 1 < lengths[r]:
                now[place] = [r, token + 1]
            elif waiting:
                now[place] = [waiting.pop(0), 0]
            else:
                return


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_a_request_that_ends_is_replaced_by_the_next(batch):
    lengths = np.random.default_rng(1).integers(1, 9, 20)
    routing = Routing(np.zeros((lengths.sum(), 1, 1), np.int8), lengths)
    assert batches(routing, batch).tolist() == list(step_by_step(lengths, batch))


def test_orders():
    lengths = np.ones(4, np.int64)
    routing = Routing(EXPERTS[:4], lengths, np.array(["b", "a", "b", "a"]))
    assert batches(routing, 1).ravel().tolist() == [0, 1, 2, 3]
    assert batches(routing, 1, "topic", seed=9).ravel().tolist() == [1, 3, 0, 2]
    shuffled = np.random.default_rng(9).permutation(4)
    assert batches(routing, 1, "shuffled", seed=9).ravel().tolist() == shuffled.tolist()


def test_what_cannot_be_batched():
    routing = Routing(EXPERTS, np.array([2, 3]))
    with pytest.raises(ValueError, match="batch=3 is not between 1 and the 2 requests"):
        batches(routing, 3)
    with pytest.raises(ValueError, match="order='topic' needs topics"):
        batches(routing, 1, "topic")
    with pytest.raises(ValueError, match="order='random' is unknown; choose one of given, shuf"):
        batches(routing, 1, "random")
    with pytest.raises(
        ValueError, match="num_experts=3, but a token chose expert 3: give 4 or more"
    ):
        counts(routing, batches(routing, 1), 3)


def test_counts_are_tokens_of_each_expert():
    routing = Routing(np.concatenate([EXPERTS, EXPERTS[::-1]], axis=1), np.array([2, 3]))
    trace = counts(routing, np.array([[0, 3], [1, 1]]), 5)
    assert trace.tolist() == [
        [[1, 2, 0, 1, 0], [1, 1, 1, 1, 0]],
        [[0, 2, 2, 0, 0], [0, 2, 0, 2, 0]],
    ]


@pytest.mark.parametrize("row", [-1, 5])
def test_rows_that_are_no_tokens_are_refused(row):
    """-1 was the last token, without a word."""
    routing = Routing(EXPERTS, np.array([2, 3]))
    with pytest.raises(ValueError, match=f"rows {row} to {row} are not all among the 5 tokens"):
        counts(routing, np.array([[row]]), 5)


@pytest.mark.parametrize(("name", "order"), [("steady", "shuffled"), ("topics", "topic")])
def test_the_recorded_steps_are_these_batches(name, order, recorded):
    """The traces beside the recorded routing, which were made from it."""
    routing = read_routing(recorded / "gpt_oss_20b_tokens.npz")
    expected = np.load(recorded / "gpt_oss_20b_decode64.npz")[name]
    trace = counts(routing, batches(routing, 64, order, seed=3), 32)
    np.testing.assert_array_equal(trace, expected)
