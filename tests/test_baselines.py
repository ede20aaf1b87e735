"""The networks that every reader knows."""

from dataclasses import asdict

import pytest
import torch

from tests.conftest import random_images
from utils import architecture, models, runs
from utils.engine import records
from utils.errors import RunError
from utils.experiments import EXPERIMENTS, RECIPE, Experiment
from utils.study.baselines import BASELINES, Block, chosen, resnet_20
from utils.training import Recipe


def test_resnet_20_is_that_of_the_paper():
    """20 weighted layers on the longest way; 272,474 parameters and 41 million multiply-adds with 1x1 shortcuts."""
    model = resnet_20()
    table = architecture.layer_table(model)
    ways = table[table.kind.isin(["Conv2d", "Linear"]) & ~table.layer.str.contains("shortcut")]
    assert len(ways) == 20
    totals = architecture.totals(model)
    assert totals["parameters"] == 272_474 and 40e6 < totals["macs"] < 42e6
    sizes = table[table.kind == "add"].out_size.tolist()
    assert sizes == [32] * 3 + [16] * 3 + [8] * 3
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_block_adds_its_shortcut():
    block = Block(8, 8, 1).eval()
    for parameter in block.layers.parameters():
        torch.nn.init.zeros_(parameter)
    images = torch.rand(1, 8, 4, 4)
    assert torch.equal(block(images), images)  # its layers add nothing
    assert Block(8, 16, 2)(images).shape == (1, 16, 2, 2)


def test_a_baseline_is_chosen_by_its_name_as_any_other_network():
    assert chosen("baselines/resnet_20") == (resnet_20, Experiment(RECIPE))
    assert BASELINES["baselines/resnet_20_long"].recipe == EXPERIMENTS["accurate"].recipe
    assert chosen("small") == (models.small, EXPERIMENTS["small"])
    with pytest.raises(RunError, match="There is no network 'resnet'"):
        chosen("resnet")


@pytest.mark.usefixtures("one_thread")
def test_a_run_whose_name_has_a_slash_is_found(root):
    def network():
        return models.ConvNet(8, c1=models.conv(3, 8, stride=4))

    recipe = Recipe(epochs=1, batch_size=32, precision="float32")
    run = runs.train(network, recipe, random_images(), name="baselines/mine", progress=False)
    wanted = records.identity(records.build(network, 1), asdict(recipe), run.metrics["run"]["data"], 1)
    assert records.find("baselines/mine", wanted, records.build(network, 1)) == root / "runs" / "baselines" / "mine"
