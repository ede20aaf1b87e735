"""What holds for any schedule, split, recipe and chain of layers, tried with many that hypothesis makes up."""

import numpy as np
import pytest
import torch
from torch import nn

from utils import architecture
from utils.data import train_validation_split
from utils.errors import RunError
from utils.training import Recipe, optimizer_and_schedule

pytest.importorskip("hypothesis", reason="requirements-tools.txt is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.one_of(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.floats(0, 1)))
def test_the_learning_rate_is_defined_in_every_step(steps, warmup):
    optimizer, schedule = optimizer_and_schedule(nn.Linear(2, 2), Recipe(1, lr=0.1, warmup=warmup), steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if len(rates) < steps:
            schedule.step()
    assert all(0 < rate <= 0.1 + 1e-9 for rate in rates)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_any_split_is_whole_and_even(extra, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(100 + extra) % 10)
    train, held_out = train_validation_split(labels, validation=10 + extra // 10, seed=seed)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    counts = np.bincount(labels[held_out], minlength=10)
    assert counts.max() - counts.min() <= 1


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(set(vars(Recipe(1))) - {"precision"})),
        st.one_of(st.integers(-5, 500), st.floats(), st.booleans(), st.none(), st.text(max_size=3)),
        max_size=3,
    )
)
def test_any_recipe_is_sensible_or_refused_in_a_sentence(values):
    try:
        recipe = Recipe(**{"epochs": 1} | values)
    except RunError as error:
        assert str(error).isprintable()
    else:
        assert type(recipe.epochs) is int and recipe.epochs >= 1 and 0 < recipe.lr < float("inf")
        assert all(
            0 <= getattr(recipe, key) <= 1 for key in ("warmup", "momentum", "dropout", "flip", "affine", "hole")
        )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([1, 3, 5]), st.integers(1, 2), st.integers(1, 3)),
        min_size=1,
        max_size=4,
    )
)
def test_the_layer_table_of_any_chain_is_right(layers):
    """Parameters, sizes and receptive field against PyTorch's own counts and the textbook's recurrence."""
    chain, before, field, jump = [], 3, 1, 1
    for channels, kernel, stride, dilation in layers:
        padding = dilation * (kernel - 1) // 2
        chain.append(nn.Conv2d(before, channels, kernel, stride, padding, dilation))
        field, jump, before = field + (kernel - 1) * dilation * jump, jump * stride, channels
    model = nn.Sequential(*chain, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
    table = architecture.layer_table(model)
    convolutions = table[table.kernel.notna()].iloc[: len(chain)]
    assert table.parameters.sum() == sum(p.numel() for p in model.parameters())
    assert convolutions.receptive_field.iloc[-1] == field and convolutions.jump.iloc[-1] == jump
    x = torch.zeros(1, 3, 32, 32)
    for layer, size in zip(chain, convolutions.out_size, strict=True):
        x = layer(x)
        assert x.shape[-1] == size
