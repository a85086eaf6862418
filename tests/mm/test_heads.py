"""DeepLabV2's head."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg')
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_stylenorm.heads import DeepLabV2Head


def test_logits_are_the_sum_of_all_four_dilated_convolutions():
    head = DeepLabV2Head(6, num_classes=5, in_index=1)
    x = torch.randn(2, 6, 9, 11)
    state = head.state_dict()
    terms = [
        F.conv2d(x, state[f'conv2d_list.{k}.weight'], state[f'conv2d_list.{k}.bias'], padding=d, dilation=d)
        for k, d in enumerate((6, 12, 18, 24))
    ]
    torch.testing.assert_close(head([None, x]), sum(terms))


def test_weights_start_small_and_biases_at_zero():
    head = DeepLabV2Head(64, num_classes=19)
    head.init_weights()
    for conv in head.conv2d_list:
        assert 0.009 < conv.weight.std() < 0.011
        assert not conv.bias.any()


def test_every_parameter_learns_from_the_loss():
    head = DeepLabV2Head(6, num_classes=5, in_index=0, align_corners=True)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 33, 41)))) for _ in range(2)]
    loss = head.loss([torch.randn(2, 6, 5, 6)], samples, None)['loss_ce']
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_dropout_acts_on_the_features_in_training_only():
    head = DeepLabV2Head(32, num_classes=5, dropout_ratio=0.5)
    x = [torch.randn(1, 32, 5, 5)]
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))


def test_no_dilation_is_refused():
    with pytest.raises(ValueError, match='at least one dilation'):
        DeepLabV2Head(6, dilations=(), num_classes=5)
