"""What lies above AdvBN's cut runs again as in the first pass, whatever hangs on its modules."""

import pytest
import torch
import torchvision
from torch import nn

from timm_stylenorm import add_style, style_layers
from timm_stylenorm.layers import AdvBN
from timm_stylenorm.recipes.replay import Replay


def replayed(model, x):
    """The output of a whole pass, and of one from the features at the cut."""
    replay = Replay(model.eval(), next(layer for _, layer in style_layers(model) if isinstance(layer, AdvBN)))
    with torch.no_grad():
        with replay.recording():
            whole = model(x)
        with replay.playing(replay.features):
            return whole, model(x)


@pytest.mark.parametrize('cut', ['stage1', 'layer1.1.conv2', 'layer1.1.conv1', 'layer2.0'])
def test_layers_at_residual_sums_run_around_any_cut(cut):
    """torchvision's blocks call one activation several times, and the hooks there count its calls."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4)
    add_style(model, [{'type': 'irw', 'sites': ('stage1.sum', 'stage2.sum')}, {'type': 'advbn', 'sites': cut}])
    seen = []
    for label, layer in style_layers(model):
        if label.startswith('irw'):
            layer.register_forward_hook(lambda m, args, y, label=label: seen.append(label))
    whole, again = replayed(model, torch.randn(2, 3, 32, 32))
    assert torch.equal(whole, again)
    above = [label for label in ('irw.stage1.sum', 'irw.stage2.sum') if 'conv' in cut or 'stage2' in label]
    assert seen == ['irw.stage1.sum', 'irw.stage2.sum', *above]


def test_a_layer_on_a_module_that_is_called_above_the_cut_runs_again():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Conv2d(4, 5, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.last(self.first(x))

    torch.manual_seed(0)
    model = Net()
    add_style(model, [{'type': 'snr', 'reduction': 2, 'sites': 'last'}, {'type': 'advbn', 'sites': 'first'}])
    whole, again = replayed(model, torch.randn(2, 3, 8, 8))
    assert torch.equal(whole, again)


def test_what_follows_the_cut_must_not_change_the_features():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    add_style(model, 'advbn', sites='0')
    with pytest.raises(RuntimeError, match=r'advbn\.0: what follows the cut changes its maps in place'):
        replayed(model, torch.randn(2, 3, 8, 8))
