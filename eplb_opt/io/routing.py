"""Token-level routing: which experts every token of every request chose, and steps made of it."""

from __future__ import annotations

import heapq
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io import npz_file
from eplb_opt.io.errors import FormatError, decoding

ORDERS = ("given", "shuffled", "topic")
_FIRST_TOKENS_SEED = 0


@dataclass(frozen=True, eq=False)
class Routing:
    """The experts of every token, request after request.

    Attributes:
        experts: [N, L, k], the k logical experts of each token in each layer, all different.
        lengths: [R] int64, tokens of each request, at least 1; they sum to N.
        topics: [R], what each request is about; None where nobody said.
    """

    experts: NDArray[np.integer[Any]]
    lengths: NDArray[np.int64]
    topics: NDArray[np.str_] | None = None


def read_routing(path: str | Path) -> Routing:
    """Read a ``.npz`` with the arrays ``experts``, ``lengths`` and, if it has them, ``topics``.

    Raises:
        FormatError: the content is not what :class:`Routing` says.
        OSError: the file is missing or cannot be read.
    """
    path = Path(path)
    with decoding(path, ".npz archive"), zipfile.ZipFile(path) as archive:
        names = npz_file.array_names(archive)
        for name in ("experts", "lengths"):
            if name not in names:
                raise FormatError(path, f"holds the arrays {names}, not {name!r}: save it, too")
        experts, lengths = (npz_file.read_member(path, archive, n) for n in ("experts", "lengths"))
        topics = npz_file.read_member(path, archive, "topics") if "topics" in names else None
    _check_experts(path, experts)
    _check_lengths(path, lengths, len(experts))
    if topics is not None and (topics.dtype.kind != "U" or topics.shape != lengths.shape):
        raise FormatError(
            path,
            f"topics is {topics.dtype} of shape {topics.shape}: give one text for each of the "
            f"{len(lengths)} requests, or leave it out",
        )
    return Routing(experts, lengths.astype(np.int64), topics)


def batches(
    routing: Routing, batch: int = 64, order: str = "given", seed: int = 0
) -> NDArray[np.int64]:
    """Which tokens are decoded together: rows of ``routing.experts``, [T, batch].

    Requests are batched continuously: ``batch`` of them decode one token a step, and one that has
    ended makes room for the next in line, which takes its column. The first ``batch`` requests
    stand anywhere in their text, as in a server that has run for long: at
    ``default_rng(0).integers(length)``, whatever ``seed`` is, so that two orders differ by order
    alone. The trace ends with the first step that no request is left to fill.

    Args:
        routing: the tokens of all requests.
        batch: requests, so tokens, a step.
        order: of the requests: ``given``; ``shuffled``, ``default_rng(seed).permutation(R)``;
            ``topic``, sorted by topic, equal ones as given.
        seed: of ``shuffled``.

    Raises:
        ValueError: an unknown order, ``topic`` without topics, or fewer requests than ``batch``.

    Example:
        >>> routing = Routing(np.zeros((9, 1, 1), np.int8), np.array([2, 1, 4, 2]))
        >>> batches(routing, 2).tolist()
        [[1, 2], [3, 7], [4, 8]]
    """
    waiting = _in_order(routing, order, seed)
    if not 1 <= batch <= len(waiting):
        raise ValueError(f"{batch=} is not between 1 and the {len(waiting)} requests")
    lengths = routing.lengths
    ends = np.cumsum(lengths)  # of the rows of each request
    random = np.random.default_rng(_FIRST_TOKENS_SEED)
    left = [int(lengths[r] - random.integers(lengths[r])) for r in waiting[:batch]]
    columns = [[np.arange(ends[r] - n, ends[r])] for r, n in zip(waiting, left, strict=False)]
    # The column that is free first (of several the leftmost) takes the next request.
    free = [(step, column) for column, step in enumerate(left)]
    heapq.heapify(free)
    for r in waiting[batch:]:
        step, column = free[0]
        columns[column].append(np.arange(ends[r] - lengths[r], ends[r]))
        heapq.heapreplace(free, (step + int(lengths[r]), column))
    steps = free[0][0]
    return np.stack([np.concatenate(column)[:steps] for column in columns], axis=1)


def counts(routing: Routing, rows: NDArray[np.int64], num_experts: int) -> NDArray[np.int64]:
    """The trace of the steps whose tokens are ``rows`` [T, B]: tokens of each expert, [T, L, E].

    Raises:
        ValueError: an expert is not below ``num_experts``, or a row is not of ``routing``.
    """
    if rows.size and not 0 <= rows.min() <= rows.max() < len(routing.experts):
        raise ValueError(
            f"rows {rows.min()} to {rows.max()} are not all among the {len(routing.experts)} tokens"
        )
    most = int(routing.experts.max())
    if most >= num_experts:
        raise ValueError(
            f"{num_experts=}, but a token chose expert {most}: give {most + 1} or more"
        )
    layers = routing.experts.shape[1]
    offsets = np.arange(layers)[:, None] * num_experts
    return np.stack(
        [
            np.bincount((routing.experts[row] + offsets).ravel(), minlength=layers * num_experts)
            for row in rows
        ]
    ).reshape(-1, layers, num_experts)


def _in_order(routing: Routing, order: str, seed: int) -> list[int]:
    """The requests, first come first served."""
    if order == "given":
        found = np.arange(len(routing.lengths))
    elif order == "shuffled":
        found = np.random.default_rng(seed).permutation(len(routing.lengths))
    elif order == "topic":
        if routing.topics is None:
            raise ValueError("order='topic' needs topics, and this routing has none")
        found = np.argsort(routing.topics, kind="stable")
    else:
        raise ValueError(f"{order=} is unknown; choose one of {', '.join(ORDERS)}")
    return [int(r) for r in found]


def _check_experts(path: Path, experts: NDArray[Any]) -> None:
    if experts.dtype.kind not in "iu" or experts.ndim != 3 or 0 in experts.shape:
        raise FormatError(
            path,
            f"experts is {experts.dtype} of shape {experts.shape}: give integers [tokens, layers, "
            "experts of a token]",
        )
    if (experts < 0).any():
        token, layer, _ = np.argwhere(experts < 0)[0]
        raise FormatError(
            path,
            f"experts: token {token}, layer {layer} names expert {experts[token, layer].min()}: "
            "leave out tokens that were not routed",
        )
    ranked = np.sort(experts, axis=2)
    same = ranked[..., 1:] == ranked[..., :-1]
    if same.any():
        token, layer, place = np.argwhere(same)[0]
        raise FormatError(
            path,
            f"experts: token {token}, layer {layer} names expert {ranked[token, layer, place]} "
            "twice: give the different experts of each token",
        )


def _check_lengths(path: Path, lengths: NDArray[Any], num_tokens: int) -> None:
    if lengths.dtype.kind not in "iu" or lengths.ndim != 1:
        raise FormatError(
            path,
            f"lengths is {lengths.dtype} of shape {lengths.shape}: give integers [requests]",
        )
    if (lengths < 1).any():
        request = int(np.argmax(lengths < 1))
        raise FormatError(
            path,
            f"lengths: request {request} has {lengths[request]} tokens: leave out empty requests",
        )
    total = sum(lengths.tolist())
    if total != num_tokens:
        raise FormatError(
            path, f"lengths sum to {total}, but experts has {num_tokens} tokens: give all of both"
        )
