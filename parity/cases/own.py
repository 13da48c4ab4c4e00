"""Cases of our own, where PyTorch's databases have none or few: one row a call."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch

from parity.case import Case
from parity.cases import functions as databases
from parity.cases.modules import _seeded, is_lazy, varied_state
from parity.convert import Taker, noting_construction

SOURCE = "own"
nn, F = torch.nn, torch.nn.functional


def _x(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


def _indices(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape)


def _unpool(n: int, batch: tuple[int, ...] = (2, 3)) -> tuple[Any, ...]:
    """Pooled values and their indices, over windows that do not overlap."""
    pool = getattr(F, f"max_pool{n}d")
    return tuple(pool(_x(*batch, *(6, 8, 4)[:n]), 2, return_indices=True))


def _modules() -> dict[str, list[tuple[Any, ...]]]:
    """Class -> (made module, arguments of the call)."""
    lengths = torch.tensor([5, 3, 2])
    rows: dict[str, list[tuple[Any, ...]]] = {
        "Identity": [(nn.Identity(54, unused=1), _x(3, 4))],
        "Flatten": [(nn.Flatten(0, 2), _x(2, 3, 4, 5)), (nn.Flatten(), _x(0, 3, 4))],
        "Unflatten": [(nn.Unflatten(1, (2, 3)), _x(4, 6)), (nn.Unflatten(-1, (3, -1)), _x(4, 6))],
        "ChannelShuffle": [(nn.ChannelShuffle(2), _x(2, 4, 3, 3)), (nn.ChannelShuffle(3), _x(1, 6, 5))],
        "PixelShuffle": [(nn.PixelShuffle(2), _x(8, 3, 2)), (nn.PixelShuffle(3), _x(2, 3, 9, 2, 2))],
        "PixelUnshuffle": [(nn.PixelUnshuffle(2), _x(2, 4, 6)), (nn.PixelUnshuffle(3), _x(2, 3, 2, 6, 3))],
        "CosineSimilarity": [
            (nn.CosineSimilarity(), _x(3, 5), _x(3, 5)),
            (nn.CosineSimilarity(dim=-1, eps=0.5), _x(2, 3, 5), _x(3, 5)),
            (nn.CosineSimilarity(dim=0), torch.zeros(3), _x(3)),
        ],
        "PairwiseDistance": [(nn.PairwiseDistance(p=float("inf")), _x(3, 5), _x(3, 5))],
        "TripletMarginWithDistanceLoss": [
            (nn.TripletMarginWithDistanceLoss(), _x(4, 5), _x(4, 5), _x(4, 5)),
            (nn.TripletMarginWithDistanceLoss(swap=True, margin=3.0, reduction="sum"), _x(4, 5), _x(4, 5), _x(4, 5)),
            (
                nn.TripletMarginWithDistanceLoss(distance_function=nn.PairwiseDistance(p=1.5), reduction="none"),
                *(_x(4, 5), _x(4, 5), _x(4, 5)),
            ),
        ],
        "AdaptiveLogSoftmaxWithLoss": [
            (nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 12]), _x(7, 8), _indices(20, 7)),
            (nn.AdaptiveLogSoftmaxWithLoss(8, 20, [2, 5, 11], 2.0, True), _x(9, 8), _indices(20, 9)),
            (nn.AdaptiveLogSoftmaxWithLoss(8, 20, [4], head_bias=True), _x(8), _indices(20)),
        ],
        "LazyLinear": [(nn.LazyLinear(4), _x(3, 5)), (nn.LazyLinear(4, bias=False), _x(2, 3, 5))],
        "Sequential": [(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU()), _x(5, 4))],
        "CrossMapLRN2d": [(nn.CrossMapLRN2d(3, 0.1, 0.5, 2.0), _x(2, 6, 3, 3)), (nn.CrossMapLRN2d(2), _x(1, 4, 2, 2))],
        "SyncBatchNorm": [(nn.SyncBatchNorm(3).eval(), _x(4, 3, 5))],
        "Hardsigmoid": [(nn.Hardsigmoid(), torch.tensor([-4.0, -3.0, -1.0, 0.0, 2.0, 3.0, 4.0]))],
        "RReLU": [(nn.RReLU(0.1, 0.4), _x(40, 50)), (nn.RReLU().eval(), _x(4, 5))],
        "Fold": [(nn.Fold((4, 5), (2, 3), dilation=(1, 1), padding=1, stride=2), _x(2, 18, 9))],
        "Unfold": [(nn.Unfold((2, 3), dilation=2, padding=2, stride=(1, 2)), _x(2, 3, 6, 7))],
        "TransformerDecoder": [
            (nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12, 0.0), 2), _x(4, 3, 8), _x(5, 3, 8)),
            (
                nn.TransformerDecoder(
                    nn.TransformerDecoderLayer(8, 2, 12, 0.0, F.gelu, batch_first=True, norm_first=True),
                    2,
                    nn.LayerNorm(8),
                ),
                *(_x(3, 4, 8), _x(3, 5, 8), nn.Transformer.generate_square_subsequent_mask(4)),
            ),
        ],
        "Upsample": [
            (nn.Upsample(scale_factor=2.0), _x(2, 3, 4)),
            (nn.Upsample((5, 7), mode="bilinear", align_corners=True), _x(2, 3, 4, 4)),
            (nn.Upsample(scale_factor=1.7, mode="bicubic", recompute_scale_factor=True), _x(1, 2, 5, 6)),
        ],
        "UpsamplingBilinear2d": [(nn.UpsamplingBilinear2d(scale_factor=2), _x(2, 3, 4, 5))],
        "UpsamplingNearest2d": [(nn.UpsamplingNearest2d((7, 5)), _x(2, 3, 4, 5))],
        "EmbeddingBag": [
            (nn.EmbeddingBag(10, 4, mode=mode, padding_idx=2), _indices(10, 3, 6)) for mode in ("sum", "mean", "max")
        ]
        + [
            (
                nn.EmbeddingBag(10, 4, max_norm=0.7, include_last_offset=True),
                _indices(10, 7),
                torch.tensor([0, 2, 2, 7]),
            )
        ],
        "Embedding": [
            (nn.Embedding(10, 4, max_norm=0.8, norm_type=1.0), _indices(10, 6)),
            (nn.Embedding(10, 4, padding_idx=-2, scale_grad_by_freq=True), _indices(10, 3, 6)),
        ],
        "NLLLoss2d": [(nn.NLLLoss2d(), F.log_softmax(_x(2, 4, 3, 3), 1), _indices(4, 2, 3, 3))],
    }
    for n in (1, 2, 3):
        space = (6, 8, 4)[:n]
        rows[f"MaxUnpool{n}d"] = [(getattr(nn, f"MaxUnpool{n}d")(2), *_unpool(n))]
        rows[f"MaxUnpool{n}d"].append((getattr(nn, f"MaxUnpool{n}d")(2), *_unpool(n, (3,))))
        # Not LazyInstanceNorm: torch's does not take its number of features from a loaded state.
        lazy = getattr(nn, f"LazyBatchNorm{n}d")
        rows[lazy.__name__] = [(lazy(), _x(4, 3, *space))]
    for name in ("Dropout", "AlphaDropout", "FeatureAlphaDropout"):
        kind = getattr(nn, name)
        rows[name] = [(kind(p), _x(6, 5, 7)) for p in (0.0, 0.3, 1.0)] + [(kind(0.4).eval(), _x(6, 5))]
    for n in (1, 2, 3):
        kind = getattr(nn, f"Dropout{n}d")
        rows[kind.__name__] = [(kind(0.4), _x(3, 4, *(5, 2, 3)[:n])), (kind(0.4), _x(4, *(5, 2, 3)[:n]))]
    for name, count in (("RNN", 1), ("GRU", 1), ("LSTM", 2)):
        make = getattr(nn, name)
        packed = nn.utils.rnn.pack_padded_sequence(_x(5, 3, 4), lengths)
        loose = nn.utils.rnn.pack_padded_sequence(_x(3, 5, 4), lengths.flip(0), True, enforce_sorted=False)
        state = tuple(_x(4, 3, 6) for _ in range(count))
        rows[name] = [
            (make(4, 6, 2, bidirectional=True), packed),
            (make(4, 6, batch_first=True), loose),
            (make(4, 6, 2, bidirectional=True), _x(5, 3, 4), state if count == 2 else state[0]),
            (make(4, 6, 2, dropout=0.5), _x(5, 3, 4)),
        ]
    rows["LSTM"].append((nn.LSTM(4, 6, 2, proj_size=3, bidirectional=True), packed))
    return rows


def _functions() -> dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Function -> (arguments, keywords)."""
    rows: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
        "affine_grid": [
            ((_x(2, 2, 3), (2, 3, 4, 5)), {"align_corners": False}),
            ((_x(2, 2, 3), (2, 3, 4, 5)), {"align_corners": True}),
            ((_x(2, 3, 4), (2, 1, 3, 4, 5)), {"align_corners": False}),
        ],
        "conv_tbc": [((_x(6, 2, 3), _x(3, 3, 4), _x(4)), {}), ((_x(6, 2, 3), _x(3, 3, 4), _x(4), 2), {})],
        "fold": [((_x(2, 12, 12), (4, 5), (2, 2)), {}), ((_x(12, 9), (5, 5), (2, 2)), {"stride": 2, "padding": 1})],
        "one_hot": [((_indices(5, 2, 3),), {"num_classes": 5})],
        "ctc_loss": [
            ((F.log_softmax(_x(6, 2, 4), 2), torch.tensor([[1, 2, 2], [3, 1, 1]]), (6, 5), (3, 1)), {}),
            ((F.log_softmax(_x(6, 4), 1), torch.tensor([1, 3]), (5,), (2,)), {"blank": 2, "reduction": "sum"}),
        ],
        "gumbel_softmax": [((_x(20, 5),), {"tau": 0.7}), ((_x(20, 5),), {"hard": True, "dim": 0})],
        "dropout1d": [((_x(3, 4, 5), 0.4), {}), ((_x(3, 4, 5), 0.4, False), {})],
        "upsample": [((_x(2, 3, 4, 4), 7), {"mode": "bilinear"}), ((_x(2, 3, 4),), {"scale_factor": 2})],
        "native_channel_shuffle": [((_x(2, 4, 3), 2), {})],
        "relu_": [((_x(3, 4),), {})],
        "selu_": [((_x(3, 4),), {})],
        "elu_": [((_x(3, 4), 0.7), {})],
        "celu_": [((_x(3, 4), 0.7), {})],
        "hardtanh_": [((_x(3, 4), -0.5, 0.7), {})],
        "leaky_relu_": [((_x(3, 4), 0.2), {})],
        "threshold_": [((_x(3, 4), 0.1, 20.0), {})],
        "rrelu_": [((_x(30, 40), 0.1, 0.3, True), {}), ((_x(3, 4),), {})],
        "glu": [((_x(0, 4, 3), 1), {})],
        "normalize": [((torch.zeros(3, 4),), {}), ((_x(3, 4), 1.0, (0, 1)), {})],
        "cross_entropy": [
            ((_x(4, 5, 3), _indices(5, 4, 3)), {"label_smoothing": 0.2, "weight": torch.rand(5), "ignore_index": 2}),
            ((_x(4, 5), F.softmax(_x(4, 5), 1)), {"label_smoothing": 0.3, "weight": torch.rand(5)}),
        ],
    }
    for n in (1, 2, 3):
        space = ((9,), (7, 6), (5, 4, 4))[n - 1]
        rows[f"lp_pool{n}d"] = [((_x(2, 3, *space), 2.0, 3, 2), {}), ((_x(3, *space), 3.0, 2, None, True), {})]
        rows[f"max_pool{n}d_with_indices"] = [((_x(2, 3, *space), 3, 2, 1), {})]
        rows[f"adaptive_max_pool{n}d_with_indices"] = [((_x(2, 3, *space), 3), {})]
        if n > 1:
            samples = torch.rand(2, 3, n)
            rows[f"fractional_max_pool{n}d_with_indices"] = [
                ((_x(2, 3, *space), 2), {"output_size": (2,) * n, "_random_samples": samples})
            ]
    return rows


@functools.cache
def _rows() -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]]:
    with _seeded(SOURCE), noting_construction():
        return _modules(), _functions()


def units() -> list[str]:
    """The names that have cases here."""
    return [*_rows()[0], *_rows()[1], *databases.own_units()]


def generate(unit: str) -> Iterator[Case]:
    """The cases of one name."""
    if unit.split(".")[0] in databases.ALSO:
        yield from databases.generate(unit)
    lazy = unit.startswith("Lazy")  # cannot be copied, and is changed by its first call: made anew
    modules, calls = _rows.__wrapped__() if lazy else _rows()
    for index, (module, *args) in enumerate(modules.get(unit, [])):
        take, module = Taker(), module if lazy else copy.deepcopy(module)
        case = Case(SOURCE, unit, f"{index:02d}", take.make(module), take(tuple(args)), {}, take.arrays)
        case.training = module.training
        if is_lazy(module):
            with torch.no_grad(), _seeded(unit):
                module(*args)
        case.state = varied_state(module, case)
        yield case
    for index, (args, kwargs) in enumerate(calls.get(unit, [])):
        take = Taker()
        yield Case(SOURCE, unit, f"{index:02d}", None, take(args), take(kwargs), take.arrays)
