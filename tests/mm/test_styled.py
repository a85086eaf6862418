"""`StyleNorm` around models of mmdet, mmpretrain, mmseg and mmengine: plain keys, losses, frozen stages, pickles."""

import copy
import pickle
import subprocess
import sys
import time
from pathlib import Path

import compiled_ops
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import timm_stylenorm.runner  # noqa: F401 (registers StyleNorm)
from timm_stylenorm import style_disabled, style_layers, style_parameters
from timm_stylenorm.runner.distributed import prepare_cpu_distributed
from timm_stylenorm.runner.styled import StyledModel, style_norm

# detectors freeze what comes before the layers in the stem
pytestmark = pytest.mark.filterwarnings('ignore:irw. losses of layers train nothing')

compiled_ops.install()
RESNET = dict(
    type='ResNet', depth=18, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1, norm_eval=True,
    style='pytorch',
)  # fmt: skip
FPN = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=32, num_outs=5)
PREPROCESSOR = dict(
    type='DetDataPreprocessor', mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], bgr_to_rgb=True, pad_size_divisor=32
)
ANCHORS = dict(
    type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[4, 8, 16, 32, 64]
)
CODER = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4)
ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1)
TEST = dict(nms_pre=50, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5)
COMMON = dict(data_preprocessor=PREPROCESSOR, backbone=RESNET, neck=FPN)
HEAD = dict(num_classes=3, in_channels=32, stacked_convs=1, feat_channels=32)
RPN = dict(assigner=ASSIGNER, sampler=dict(type='RandomSampler', num=16, pos_fraction=0.5), allowed_border=-1)
DETECTORS = {
    'RetinaNet': dict(
        **COMMON,
        bbox_head=dict(
            type='RetinaHead', **HEAD, anchor_generator=ANCHORS, bbox_coder=CODER, loss_bbox=dict(type='L1Loss')
        ),
        train_cfg=dict(assigner=ASSIGNER, sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
        test_cfg=TEST,
    ),
    'FCOS': dict(**COMMON, bbox_head=dict(type='FCOSHead', **HEAD, strides=[4, 8, 16, 32, 64]), test_cfg=TEST),
    'FasterRCNN': dict(
        **COMMON,
        rpn_head=dict(
            type='RPNHead', in_channels=32, feat_channels=32,
            anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[1.0], strides=[4, 8, 16, 32, 64]),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2),
                out_channels=32, featmap_strides=[4, 8, 16, 32],
            ),
            bbox_head=dict(
                type='Shared2FCBBoxHead', in_channels=32, fc_out_channels=32, roi_feat_size=7, num_classes=3
            ),
        ),
        train_cfg=dict(
            rpn=dict(**RPN, pos_weight=-1),
            rpn_proposal=dict(nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
            rcnn=dict(assigner=ASSIGNER, sampler=dict(type='RandomSampler', num=16, pos_fraction=0.25), pos_weight=-1),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
            rcnn=dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5),
        ),
    ),
}  # fmt: skip


def detector(name='RetinaNet', **kwargs):
    pytest.importorskip('mmdet.models')
    cfg = Config(dict(model=dict(type=f'mmdet.{name}', **DETECTORS[name])))
    return MODELS.build(dict(type='StyleNorm', model=cfg.model, **kwargs))


def pictures(size=(64, 96)):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = []
    for _ in range(2):
        boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 70.0, 60.0]])
        sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes, labels=torch.tensor([0, 2])))
        sample.set_metainfo({'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1.0, 1.0)})
        samples.append(sample)
    return {'inputs': [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples], 'data_samples': samples}


def losses_of(model, batch):
    return model(**model.data_preprocessor(batch, training=True), mode='loss')


ALL_BY_DEFAULT = ('irw', 'RetinaNet')  # one style in every detector, every style in one


@pytest.mark.parametrize(
    ('style', 'name'),
    [
        pytest.param(style, name, marks=() if {style, name} & {*ALL_BY_DEFAULT} else pytest.mark.slow)
        for style in ('irw', 'snr', 'padain')
        for name in DETECTORS
    ],
)
@pytest.mark.some(2)
def test_detectors_train_and_their_style_losses_count(name, style):
    model = detector(name, style=style).train()
    losses = losses_of(model, pictures())
    total, log = model.parse_losses(losses)
    assert total.isfinite()
    ours = [key for key in log if key.startswith('style.')]
    assert bool(ours) == (style == 'irw'), 'images of detection have no class for the loss of snr'
    theirs, _ = BaseModel.parse_losses(model, {k: v for k, v in losses.items() if not k.startswith('style.')})
    torch.testing.assert_close(total, theirs + sum(losses[key] for key in ours))
    total.backward()
    assert model.eval().test_step(pictures())[0].pred_instances is not None


def test_the_keys_are_those_of_the_plain_model():
    plain = MODELS.build(ConfigDict(type='RetinaNet', _scope_='mmdet', **Config(dict(m=DETECTORS['RetinaNet'])).m))
    styled = detector(style='snr')
    assert isinstance(styled, type(plain))
    missing, unexpected = styled.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all('.style.snr.' in key for key in missing)


def test_a_flat_config_is_the_nested_one():
    pytest.importorskip('mmdet.models')
    torch.manual_seed(0)
    nested = detector(style='snr')
    torch.manual_seed(0)
    cfg = Config(dict(model=DETECTORS['RetinaNet'])).model
    flat = MODELS.build(ConfigDict(type='StyleNorm', of='mmdet.RetinaNet', style='snr', **cfg))
    assert all(torch.equal(a, b) for a, b in zip(nested.state_dict().values(), flat.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match='as `model`, or its type as `of`'):
        style_norm(of='mmdet.RetinaNet', model=dict(type='mmdet.RetinaNet'))


def test_copies_and_pickles_are_of_the_same_class():
    model = detector(style='padain')
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        assert isinstance(twin, StyledModel)
        assert [label for label, _ in style_layers(twin)] == [label for label, _ in style_layers(model)]


@pytest.mark.slow
def test_a_pickle_is_of_the_same_class_in_another_process(tmp_path):
    model = detector(style='padain')
    (tmp_path / 'model.pkl').write_bytes(pickle.dumps(model))
    script = (
        'import pickle, sys; sys.path.insert(0, sys.argv[2]); import compiled_ops; compiled_ops.install()\n'
        "print(type(pickle.load(open(sys.argv[1], 'rb'))).__name__)"
    )
    line = [sys.executable, '-c', script, str(tmp_path / 'model.pkl'), compiled_ops.__file__.rpartition('/')[0]]
    assert subprocess.run(line, capture_output=True, text=True).stdout.strip().endswith('StyleNormRetinaNet')


def test_switching_the_style_off_changes_the_losses_of_a_frozen_stage():
    model = detector(style=dict(type='snr', sites='stage1')).train()
    data = model.data_preprocessor(pictures(), training=True)
    on = model.parse_losses(model(**data, mode='loss'))[0]
    with style_disabled(model):
        off = model.parse_losses(model(**data, mode='loss'))[0]
    assert not torch.isclose(on, off, rtol=1e-4)


def test_gates_at_a_frozen_stage_learn():
    model = detector(style=dict(type='snr', sites='stage1')).train()
    model.parse_losses(losses_of(model, pictures()))[0].backward()
    gates = {k: p.grad for k, p in model.named_parameters() if '.style.snr.' in k}
    assert any('.fc1.' in key for key in gates)
    assert all(grad is not None and grad.abs().max() > 0 for grad in gates.values())
    assert not any(p.requires_grad for k, p in model.backbone.layer1.named_parameters() if '.style.' not in k)


def test_a_recipe_trains_a_detector_in_two_passes():
    model = detector(recipe=dict(type='advbn', cut='stage1', steps=1)).train()
    losses = losses_of(model, pictures())
    assert {'loss_cls', 'adv.loss_cls'} <= losses.keys()
    model.parse_losses(losses)[0].backward()


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='ResNet', depth=18, style='pytorch'),
        dict(type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32])),
        dict(type='RegNet', arch='regnetx_400mf'),
    ],
    ids=lambda backbone: backbone['type'],
)
def test_classifiers_of_mmpretrain_learn_from_image_labels(backbone):
    pytest.importorskip('mmpretrain.models')
    from mmpretrain.structures import DataSample

    channels = {'ResNet': 512, 'ConvNeXt': 32, 'RegNet': 384}[backbone['type']]
    cfg = dict(
        type='mmpretrain.ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=channels, loss=dict(type='CrossEntropyLoss')),
        data_preprocessor=dict(num_classes=5, mean=[0, 0, 0], std=[1, 1, 1], to_rgb=True),
    )  # fmt: skip
    if backbone['type'] == 'ConvNeXt':
        cfg.pop('neck')
    model = MODELS.build(dict(type='StyleNorm', model=Config(dict(m=cfg)).m, style='snr')).train()
    samples = [DataSample().set_gt_label(k) for k in range(3)]
    batch = {'inputs': [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 3, 'data_samples': samples}
    losses = losses_of(model, batch)
    assert {'loss', 'style.snr.stage1', 'style.snr.stage3.ce'} <= losses.keys()
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    total.backward()
    assert all(p.grad is not None for _, layer in style_layers(model) for p in layer.parameters())


class Pictures(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.manual_seed(index)
        return {key: value[0] for key, value in pictures().items()}


def runner(work_dir, iters, **options):
    return Runner(
        model=ConfigDict(type='StyleNorm', of='mmdet.RetinaNet', style=['irw', 'mixstyle'], **DETECTORS['RetinaNet']),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=Pictures(), collate_fn=dict(type='pseudo_collate'),
            sampler=dict(type='InfiniteSampler', shuffle=True),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=100),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        custom_hooks=[dict(type='RNGStateHook'), dict(type='EMAHook'), dict(type='CheckpointGuardHook')],
        randomness=dict(seed=0),
        default_scope='mmdet',
        log_level='WARNING',
        experiment_name=f'styled_{work_dir.name}_{iters}_{time.time_ns()}',
        **options,
    )  # fmt: skip


def test_the_runner_trains_a_detector_with_averages_and_resumes_bit_for_bit(tmp_path):
    pytest.importorskip('mmdet.models')
    whole = runner(tmp_path / 'whole', 4).train()
    runner(tmp_path / 'parts', 2).train()
    resumed = runner(tmp_path / 'parts', 4, resume=True).train()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


class Count(BaseMetric):
    """How many boxes were found in how many images."""

    def process(self, data_batch, data_samples):
        self.results += [len(sample['pred_instances']['scores']) for sample in data_samples]

    def compute_metrics(self, results):
        return {'images': len(results), 'boxes': sum(results)}


def test_the_runner_evaluates_a_detector(tmp_path):
    pytest.importorskip('mmdet.models')
    loader = dict(
        batch_size=2, num_workers=0, dataset=Pictures(), collate_fn=dict(type='pseudo_collate'),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )  # fmt: skip
    parts = dict(val_dataloader=loader, val_cfg=dict(type='ValLoop'), val_evaluator=dict(type=Count))
    run = runner(tmp_path, 2, **parts)
    before = copy.deepcopy(run.model.state_dict())
    run.train()
    moved = [key for key, value in run.model.state_dict().items() if not torch.equal(value, before[key])]
    assert any('bbox_head' in key for key in moved)
    found = run.val_loop.run()
    assert found['images'] == len(Pictures())
    assert 0 < found['boxes'] <= 5 * found['images']
    assert run.val_loop.run() == found


@pytest.mark.parametrize('style', ['irw', 'snr'])
def test_a_detector_trains_in_half_precision(style):
    model = detector(style=style).train()
    data = model.data_preprocessor(pictures(), training=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        total, log = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert all(value.isfinite() for value in log.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in style_parameters(model))
    assert style != 'irw' or log['style.irw.stage1.sum'] > 0


def test_test_time_augmentation_of_mmdet_takes_a_styled_model():
    pytest.importorskip('mmdet.models')
    tta = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=5)
    module = ConfigDict(type='StyleNorm', of='mmdet.RetinaNet', style='snr', **DETECTORS['RetinaNet'])
    model = MODELS.build(ConfigDict(type='mmdet.DetTTAModel', module=module, tta_cfg=tta)).eval()
    assert isinstance(model.module, StyledModel)
    views = []
    for flip in (False, True):
        view = pictures()
        for sample in view['data_samples']:
            sample.set_metainfo({'flip': flip, 'flip_direction': 'horizontal' if flip else None})
        views.append(view)
    batch = {key: [view[key] for view in views] for key in views[0]}
    assert all(len(sample.pred_instances) <= 5 for sample in model.test_step(batch))


def test_mmdets_own_functions_take_a_flat_config(tmp_path):
    pytest.importorskip('mmdet.models')
    from mmdet.apis import inference_detector, init_detector

    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64), keep_ratio=True)]
    pipeline += [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(type='StyleNorm', of='mmdet.RetinaNet', style='snr', **DETECTORS['RetinaNet']),
            test_dataloader=dict(dataset=dict(type='CocoDataset', ann_file='none.json', pipeline=pipeline)),
        )
    )
    model = init_detector(cfg, None, palette='random', device='cpu')
    assert isinstance(model, StyledModel)
    assert len(inference_detector(model, np.zeros((64, 96, 3), np.uint8)).pred_instances) <= 5


def train_in_processes(folder):
    """What each of two processes does."""
    cfg = Config(dict(model=dict(type='StyleNorm'), find_unused_parameters=False))
    prepare_cpu_distributed(cfg, 'pytorch')
    options = dict(launcher='pytorch', cfg=dict(model_wrapper_cfg=cfg.model_wrapper_cfg))
    model = runner(Path(folder), 3, **options).train().module
    torch.save(model.state_dict(), Path(folder, f'rank{torch.distributed.get_rank()}.pth'))


@pytest.mark.slow
def test_two_processes_train_the_same_detector(tmp_path):
    pytest.importorskip('mmdet.models')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', __file__]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f'rank{rank}.pth', weights_only=True) for rank in (0, 1))
    trained = [key for key, _ in detector(style=['irw', 'mixstyle']).named_parameters()]
    assert all(torch.equal(first[key], second[key]) for key in trained)


class Net(BaseModel):
    """A model of somebody, with a loss of its own."""

    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.loss(inputs, data_samples) if mode == 'loss' else self.trunk(inputs)

    def loss(self, inputs, data_samples):
        return {'loss': self.trunk(inputs).square().mean()}


def test_somebodys_model_and_what_is_wrong_is_named():
    style = dict(type='snr', sites='3', num_classes=0)
    model = style_norm(dict(type=Net), style=style, where='trunk')
    assert 'loss' in model(torch.randn(2, 3, 16, 16), mode='loss')
    with pytest.raises(ValueError, match=r"where='backbone': StyleNormNet has no such sub-module; it has .*trunk"):
        style_norm(dict(type=Net), style=style)
    with pytest.raises(KeyError, match="'Nothing' is no model of scope"):
        style_norm(dict(type='Nothing'), style=style)
    with pytest.raises(TypeError, match=r'BaseDataPreprocessor has no method loss'):
        style_norm(dict(type='BaseDataPreprocessor'), style=style)


def test_the_default_scope_finds_the_type_and_stays():
    pytest.importorskip('mmdet.models')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = style_norm(dict(type='RetinaNet', **Config(dict(m=DETECTORS['RetinaNet'])).m), style='padain')
        assert DefaultScope.get_current_instance().scope_name == 'mmdet'
    assert type(model).__name__ == 'StyleNormRetinaNet'


if __name__ == '__main__':
    train_in_processes(sys.argv[1])
