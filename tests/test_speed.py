"""What makes a step fast: precision, memory layout, and that the network comes back as it was."""

import pytest
import torch

from utils.engine import speed
from utils.models import ConvNet, conv, separable

CPU = torch.device("cpu")


@pytest.fixture
def network():
    torch.manual_seed(1)
    return ConvNet(8, c1=conv(3, 8, stride=2), c2=separable(8, 8, stride=2)).eval()


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "avx512_f": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_the_processor_decides_the_precision(capabilities, precision, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert speed.suitable_precision(CPU) == precision


@pytest.mark.parametrize(
    ("cpuinfo", "native"),
    [
        ("flags : fpu avx512_bf16\n", True),
        ("flags : amx_bf16 fpu\n", True),
        ("flags : avx512f\n", False),
        (None, False),
    ],
)
def test_an_older_pytorch_asks_linux(cpuinfo, native, monkeypatch, tmp_path):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if cpuinfo:
        (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    asked = []
    monkeypatch.setattr(speed, "Path", lambda path: asked.append(path) or tmp_path / "cpuinfo")
    assert speed.native_bfloat16() is native
    assert asked == ["/proc/cpuinfo"]


@pytest.mark.parametrize(("native", "precision"), [(True, "bfloat16"), (False, "float16")])
def test_so_does_the_graphics_card(native, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: native)
    assert speed.suitable_precision(torch.device("cuda")) == precision
    assert speed.suitable_precision(torch.device("mps")) == "float32"


def test_the_network_comes_back_as_it_was_built(network):
    def patched():
        return [name for name, module in network.named_modules() if "forward" in vars(module)]

    images = torch.randn(2, 3, 32, 32)
    before = network(images)
    with pytest.raises(KeyboardInterrupt), speed.prepared(network, CPU):
        assert patched() == ["layers.c2.depthwise"]
        assert network.layers.c1.conv.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(network(images), before, atol=1e-6), "without autocast nothing changes"
        raise KeyboardInterrupt
    assert patched() == []
    assert all(p.is_contiguous() and p.device == CPU for p in network.parameters())
    assert torch.equal(network(images), before)


def test_strided_depthwise_convolutions_stay_in_float32(network):
    images, dtypes = torch.randn(4, 3, 32, 32), {}
    expected = network(images)
    for name in ("c1.conv", "c2.depthwise", "c2.pointwise"):
        module = network.layers.get_submodule(name)
        module.register_forward_hook(lambda _, __, out, name=name: dtypes.__setitem__(name, out.dtype))
    with speed.prepared(network, CPU), speed.autocast(CPU, "bfloat16"):
        mixed = network(images)
    assert dtypes == {"c1.conv": torch.bfloat16, "c2.depthwise": torch.float32, "c2.pointwise": torch.bfloat16}
    assert torch.allclose(mixed.float(), expected, atol=0.1)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_dilated_convolutions_have_finite_gradients_in_bfloat16_whatever_their_channels(one_thread):
    """With one thread oneDNN's wrong gradient shows every time."""
    for channels in (16, 24):
        layer = conv(channels, channels, padding=2, dilation=2)
        images = torch.randn(8, channels, 32, 32).to(memory_format=torch.channels_last)
        with speed.prepared(layer, CPU):
            with speed.autocast(CPU, "bfloat16"):
                loss = layer(images).float().square().mean()
            loss.backward()
        assert layer.conv.weight.grad.isfinite().all(), channels
