"""Stands in for mmcv's compiled operators, which its wheels without CUDA lack: NMS and RoIAlign by torchvision."""

import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec

import torch
from torchvision import ops


def nms(boxes, scores, iou_threshold, offset=0):
    return ops.nms(boxes, scores, iou_threshold)


def roi_align_forward(x, rois, output, argmax_y, argmax_x, **options):
    size, scale, *rest = _settings(options)
    output.copy_(ops.roi_align(x, rois, size, scale, *rest))


def roi_align_backward(grad, rois, argmax_y, argmax_x, grad_x, **options):
    size, scale, *rest = _settings(options)
    backward = torch.ops.torchvision._roi_align_backward
    grad_x.copy_(backward(grad.contiguous(), rois, scale, *size, *grad_x.shape, *rest))


def _settings(options):
    size = options['aligned_height'], options['aligned_width']
    return size, options['spatial_scale'], options['sampling_ratio'], options['aligned']


class _Extension(types.ModuleType):
    nms, roi_align_forward, roi_align_backward = map(staticmethod, (nms, roi_align_forward, roi_align_backward))

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f'the stand-in for mmcv._ext has no {name}')

        return missing


def install():
    """Only where the real ones are missing, and before mmcv.ops is imported."""
    name = 'mmcv._ext'
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = _Extension(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
