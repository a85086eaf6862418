"""Stands in for mmcv's compiled operators, which its wheels without CUDA lack: NMS and RoIAlign by torchvision."""

import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec

import torch
from torchvision import ops


def nms(boxes, scores, iou_threshold, offset=0):
    return ops.nms(boxes, scores, iou_threshold)


def roi_align_forward(
    x,
    rois,
    output,
    argmax_y,
    argmax_x,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    size = (aligned_height, aligned_width)
    output.copy_(ops.roi_align(x, rois, size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad,
    rois,
    argmax_y,
    argmax_x,
    grad_x,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    backward = torch.ops.torchvision._roi_align_backward
    sizes = (aligned_height, aligned_width, *grad_x.shape, sampling_ratio, aligned)
    grad_x.copy_(backward(grad.contiguous(), rois, spatial_scale, *sizes))


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
