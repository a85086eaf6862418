"""Layer-wise learning rates: what a method adds has the rate of the stage that it follows."""

import pytest
import timm
from nets import small
from timm.models._manipulate import group_with_matcher
from timm.optim import param_groups_layer_decay

import timm_stylenorm


def scales(model):
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    return {names[parameter]: group['lr_scale'] for group in groups for parameter in group['params']}


@pytest.mark.parametrize('method', ['snr', 'selfnorm', 'bin'])
@pytest.mark.parametrize('arch', ['resnet18', 'convnext_atto', 'swin_tiny_patch4_window7_224', 'resnetv2_50'])
def test_a_layer_has_the_rate_of_what_it_follows(arch, method):
    plain = scales(small(arch))
    model = small(arch)
    try:
        timm_stylenorm.add_style(model, method)
    except ValueError:
        assert (arch, method) in {('convnext_atto', 'bin'), ('swin_tiny_patch4_window7_224', 'bin')}
        return
    found = scales(model)
    added = set(found) - set(plain)
    assert added
    if method != 'bin':
        assert {name: scale for name, scale in found.items() if name not in added} == plain
    for name in added:
        place = f'{name.partition(".style.")[0] if ".style." in name else name.rpartition(".")[0].removesuffix(".bn")}.'
        hosts = [scale for other, scale in plain.items() if other.startswith(place)]
        assert found[name] == hosts[-1], name


@pytest.mark.parametrize('reverse', [False, True])
def test_groups_of_plain_models_are_timms(reverse):
    model = small('convnext_atto')
    own = group_with_matcher.__wrapped__
    arguments = model.group_matcher(), False, reverse
    assert group_with_matcher(model.named_parameters(), *arguments) == own(model.named_parameters(), *arguments)
    names = timm.models.group_parameters(timm_stylenorm.add_style(model, 'snr'), model.group_matcher())
    assert {name for group in names.values() for name in group} == {name for name, _ in model.named_parameters()}
