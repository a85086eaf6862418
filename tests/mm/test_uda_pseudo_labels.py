"""Labels that a network wrote: files, their loading, the tool that makes them, and training on them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg')
import make_pseudo_labels
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from PIL import Image
from test_uda_configs import write_pictures
from tiny_uda import MODEL

from mmseg_stylenorm.datasets import StreetsDataset
from mmseg_stylenorm.uda.pseudo_labels import read_soft, train_ids_of, write_hard, write_soft
from timm_stylenorm.runner import distributed
from timm_stylenorm.runner.configs import config_root, list_configs

MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
FADA = 'quickstart/deeplabv3plus_r18-small_fada_1xb4-240_toy-streets.py'


@pytest.fixture
def soft_file(tmp_path):
    """A soft label of 4 classes and its file."""
    soft = torch.rand(4, 6, 10).softmax(0)
    write_soft(tmp_path / 'a_soft.npz', soft)
    return soft, tmp_path / 'a_soft.npz'


def test_soft_labels_come_back_to_half_a_step(soft_file):
    soft, path = soft_file
    read = torch.from_numpy(read_soft(path, 4)) / 255
    assert (read - soft).abs().max() <= 0.5001 / 255


@pytest.mark.parametrize('fault', ['cut', 'empty', 'other'])
def test_a_damaged_soft_label_is_named(soft_file, fault):
    _, path = soft_file
    path.write_bytes({'cut': path.read_bytes()[:-30], 'empty': b'', 'other': b'\x89PNG\r\n'}[fault])
    with pytest.raises(ValueError, match=r'a_soft\.npz cannot be read'):
        read_soft(path, 4)


def test_no_changed_byte_changes_a_soft_label(soft_file):
    _, path = soft_file
    data, expected, refused = path.read_bytes(), read_soft(path, 4), 0
    for k in range(len(data)):
        path.write_bytes(data[:k] + bytes([data[k] ^ 255]) + data[k + 1 :])
        try:
            assert np.array_equal(read_soft(path, 4), expected), k
        except ValueError:
            refused += 1
    assert refused > len(data) / 2


def test_soft_labels_of_other_classes_or_none_are_named(soft_file, tmp_path):
    with pytest.raises(ValueError, match=r'shape \(4, 6, 10\) and type uint8, expected \(19, H, W\)'):
        read_soft(soft_file[1], 19)
    with pytest.raises(FileNotFoundError, match=r'b_soft\.npz does not exist'):
        read_soft(tmp_path / 'b_soft.npz', 4)


def test_soft_labels_follow_their_image_through_the_pipeline(tmp_path):
    init_default_scope('mmseg')
    classes = np.random.default_rng(0).integers(0, 4, (8, 12), dtype=np.uint8)
    image = np.kron(classes, np.ones((4, 4), np.uint8))  # shows the class of each pixel
    cv2.imwrite(str(tmp_path / 'a.png'), np.dstack([image * 60] * 3))
    write_soft(tmp_path / 'a.npz', F.one_hot(torch.from_numpy(image).long(), 4).permute(2, 0, 1).float())
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadSoftLabels', num_classes=4),
        dict(type='RandomCrop', crop_size=(16, 24)),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PackSoftLabels'),
    ]
    files = {'img_path': str(tmp_path / 'a.png'), 'seg_map_path': str(tmp_path / 'a.npz'), 'seg_fields': []}
    packed = Compose(steps)({**files, 'reduce_zero_label': False, 'label_map': None})
    sample, shown = packed['data_samples'], packed['inputs'][0].long() // 60
    assert sample.gt_soft.data.shape == (4, 16, 24)
    assert torch.equal(sample.gt_soft.data.argmax(0), shown)
    assert torch.equal(sample.gt_sem_seg.data[0], shown)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Pad', size=(24, 40), pad_val=dict(img=0, seg=255)),
        dict(type='RandomRotate', prob=1.0, degree=(30, 31)),
        dict(type='RandomCutOut', prob=1.0, n_holes=1, cutout_shape=(4, 4), seg_fill_in=255),
    ],
    ids=lambda step: step['type'],
)
def test_what_a_transform_fills_in_has_no_soft_label(tmp_path, step):
    init_default_scope('mmseg')
    write_soft(tmp_path / 'a.npz', torch.rand(4, 16, 24).softmax(0))
    image = np.zeros((16, 24, 3), np.uint8)
    results = {'img': image, 'img_shape': (16, 24), 'ori_shape': (16, 24), 'seg_map_path': str(tmp_path / 'a.npz')}
    for one in (dict(type='LoadSoftLabels', num_classes=4), step, dict(type='PackSoftLabels')):
        results = TRANSFORMS.build(one)(results)
    sample = results['data_samples']
    filled = sample.gt_sem_seg.data[0] == 255
    assert filled.any()
    assert torch.equal(sample.gt_soft.data.sum(0) == 0, filled)


def test_self_distillation_learns_from_probabilities_and_not_from_padding():
    init_default_scope('mmseg')
    model = MODELS.build(Config({'model': {**MODEL, 'type': 'SelfDistillation'}}).model).train()

    def item():
        soft = (torch.rand(4, 20, 32).softmax(0) * 255).round().byte()
        sample = SegDataSample(gt_soft=PixelData(data=soft), gt_sem_seg=PixelData(data=soft.argmax(0)[None]))
        return {'inputs': torch.randint(0, 256, (3, 20, 32), dtype=torch.uint8), 'data_samples': sample}

    batch = pseudo_collate([item(), item()])
    labels = torch.stack([sample.gt_soft.data for sample in batch['data_samples']]).double()
    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode='loss')
    logits = model(data['inputs'])  # the images are padded to 24x40
    logits = F.interpolate(logits, (24, 40), mode='bilinear', align_corners=True)[..., :20, :32].double()
    expected = F.cross_entropy(logits, labels / labels.sum(1, keepdim=True))
    torch.testing.assert_close(losses['decode.loss_soft'].double(), expected, rtol=1e-5, atol=0)


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """Arguments of the tool for a network with random weights."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / 'data/toy_streets', count=3)
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(config_root() / FADA).model)
    torch.save({'state_dict': model.state_dict()}, 'teacher.pth')
    common = ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False', 'log_level=ERROR']
    arguments = ['teacher.pth', 'labels', '--work-dir', 'work']

    def write(*extra, config=FADA):
        return make_pseudo_labels.main([config, *arguments, *extra, '--cfg-options', *common])

    return write


def test_the_tool_goes_on_where_it_was_and_repairs_what_is_damaged(teacher, capsys):
    assert len(teacher('--soft', '--stride', '2')) == 3
    files = sorted(Path('labels').rglob('*.npz'))
    assert [str(file) for file in files] == [f'labels/t/{k}_soft.npz' for k in range(3)]
    before = [file.read_bytes() for file in files]
    soft = read_soft(files[0], 19)
    assert soft.shape == (19, 16, 32)
    assert np.abs(soft.sum(0).astype(int) - 255).max() < 10
    files[0].unlink()
    files[1].write_bytes(before[1][:-20])
    assert len(teacher('--soft', '--stride', '2')) == 2
    assert [file.read_bytes() for file in files] == before
    assert '2 labels written to labels, 1 were there' in capsys.readouterr().out
    assert not list(Path('labels').rglob('*.part'))


def hard_labels():
    return [np.asarray(Image.open(file)) for file in sorted(Path('labels').rglob('*_pseudo.png'))]


def test_hard_labels_are_ignored_where_unsure(teacher):
    teacher()
    assert all(label.max() < 19 for label in hard_labels())
    with pytest.raises(SystemExit, match=r'other settings \(threshold 0.0 and not 1.0\)'):
        teacher('--threshold', '1')
    assert len(teacher('--threshold', '1', '--force')) == 3
    assert json.loads(Path('labels/pseudo_labels.json').read_text())['threshold'] == 1
    assert all((label == 255).all() for label in hard_labels())


def test_the_label_that_the_third_stage_opens_is_the_argmax_at_the_size_of_the_image_in_the_colours_of_cityscapes(
    teacher,
):
    """The network sees the images at half of their size."""
    shrink = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 16)), dict(type='PackSegInputs')]
    Path('small.py').write_text(f'_base_ = {str(config_root() / FADA)!r}\ntest_pipeline = {shrink}\n')
    teacher(config='small.py')
    model = MODELS.build(Config.fromfile(config_root() / FADA).model).eval()
    model.load_state_dict(torch.load('teacher.pth')['state_dict'])
    data = StreetsDataset(
        'cityscapes',
        split='train',
        data_root='data/toy_streets/cityscapes',
        data_prefix={'img_path': 'leftImg8bit/train', 'seg_map_path': str(Path('labels').resolve())},
        seg_map_suffix='_pseudo.png',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadTrainIds'), dict(type='PackSegInputs')],
    )
    for item in data:
        with Image.open(item['data_samples'].seg_map_path) as png:
            assert (png.mode, png.size) == ('P', (64, 32))
            assert np.array(png.getpalette()[:57]).reshape(19, 3).tolist() == data.metainfo['palette']
        small = cv2.resize(item['inputs'].permute(1, 2, 0).numpy(), (32, 16))
        seen = (torch.from_numpy(small[..., ::-1].copy()).permute(2, 0, 1).float() - MEAN) / STD
        logits = F.interpolate(model(seen[None]), (32, 64), mode='bilinear', align_corners=False)
        assert (item['data_samples'].gt_sem_seg.data == logits.argmax(1)).float().mean() > 0.999


def test_labels_of_fewer_classes_come_back_as_the_network_counts_them(tmp_path):
    """Files hold train ids, whatever the classes of the network."""
    write_pictures(tmp_path, count=1)
    init_default_scope('mmseg')
    classes = [name for name in StreetsDataset.METAINFO['classes'] if name not in ('terrain', 'truck', 'train')]
    data = StreetsDataset(
        'cityscapes',
        split='train',
        data_root=str(tmp_path / 'cityscapes'),
        data_prefix={'img_path': 'leftImg8bit/train', 'seg_map_path': 'labels'},
        seg_map_suffix='_pseudo.png',
        metainfo={'classes': classes},
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadTrainIds'), dict(type='PackSegInputs')],
        lazy_init=True,
    )
    (tmp_path / 'cityscapes/labels/t').mkdir(parents=True)
    predicted = np.random.default_rng(0).integers(0, 16, (32, 64))
    label = train_ids_of(data)[predicted]
    assert sorted({*range(19)} - set(np.unique(label))) == [9, 14, 16]
    write_hard(tmp_path / 'cityscapes/labels/t/0_pseudo.png', label, data.METAINFO['palette'])
    data.full_init()
    assert np.array_equal(data[0]['data_samples'].gt_sem_seg.data[0], predicted)


@pytest.mark.parametrize('fault', [b'', b'\x89PNG', 'colour'])
def test_a_damaged_hard_label_is_written_again(teacher, fault):
    (file, *_) = teacher()
    whole = file.read_bytes()
    if fault == 'colour':
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file)
    else:
        file.write_bytes(fault)
    assert teacher() == [file]
    assert file.read_bytes() == whole


def test_a_checkpoint_that_is_refused_costs_no_label(teacher):
    teacher()
    labels = {file: file.read_bytes() for file in Path('labels').rglob('*') if file.is_file()}
    broken = {'cut': Path('teacher.pth').read_bytes()[:-100], 'none': b'no checkpoint'}
    Path('teacher.pth').rename('good.pth')
    torch.save({'state_dict': {'conv.weight': torch.zeros(3, 3)}}, 'other.pth')
    for content in (*broken.values(), Path('other.pth').read_bytes(), None):
        Path('teacher.pth').unlink(missing_ok=True)
        if content is not None:
            Path('teacher.pth').write_bytes(content)
        with pytest.raises(SystemExit, match='teacher'):
            teacher('--soft', '--force')
        assert {file: file.read_bytes() for file in Path('labels').rglob('*') if file.is_file()} == labels


def test_a_folder_never_holds_labels_of_two_kinds(teacher):
    teacher('--soft')
    teacher('--force')
    assert len(list(Path('labels').rglob('*_pseudo.png'))) == 3
    assert not list(Path('labels').rglob('*_soft.npz'))


@pytest.mark.parametrize('wrong', [['--stride', '0'], ['--threshold', '1.5']], ids=lambda wrong: wrong[0])
def test_settings_out_of_range_are_refused(teacher, wrong):
    with pytest.raises(SystemExit):
        teacher(*wrong)


def test_labels_without_a_manifest_are_not_taken_for_ones_own(teacher):
    Path('labels/t').mkdir(parents=True)
    Path('labels/t/0_pseudo.png').write_bytes(b'mine')
    with pytest.raises(SystemExit, match='--force'):
        teacher()
    assert Path('labels/t/0_pseudo.png').read_bytes() == b'mine'


def test_a_config_without_target_images_is_refused(teacher, tmp_path):
    config = FADA.replace('_fada_1xb4', '_1xb8')
    with pytest.raises(SystemExit, match='names no target images'):
        make_pseudo_labels.main([config, 'teacher.pth', 'labels'])


def test_another_network_or_test_pipeline_is_another_setting(teacher):
    teacher()
    with pytest.raises(SystemExit, match=r'other settings .*network'):
        teacher('--cfg-options', 'model.test_cfg.mode=slide')


def test_a_soft_label_of_another_image_is_refused(tmp_path):
    init_default_scope('mmseg')
    step = TRANSFORMS.build(dict(type='LoadSoftLabels', num_classes=4))
    for size, stride in (((17, 31), 4), ((16, 24), 1), ((5, 7), 3)):
        write_soft(tmp_path / 'a.npz', torch.rand(4, *size).softmax(0))
        height, width = (n * stride - stride + 1 for n in size)
        image = np.zeros((height, width, 3), np.uint8)
        files = {'img_path': 'a.png', 'seg_map_path': str(tmp_path / 'a.npz')}
        results = {'img': image, 'ori_shape': (height, width), **files}
        assert step(dict(results))['gt_soft'].shape[:2] == (height, width)
        results['ori_shape'] = (width * 2, height)
        with pytest.raises(
            ValueError, match=r'soft label .*a\.npz is .*, and its image a\.png .*do not belong together'
        ):
            step(dict(results))


def target_images(root=Path('data/toy_streets/cityscapes/leftImg8bit/train/t')):
    return sorted(root.glob('*_leftImg8bit.png'))


def test_one_image_that_cannot_be_read_costs_no_other_label(teacher):
    first, second, _ = target_images()
    first.write_bytes(first.read_bytes()[:50])
    second.write_bytes(b'')
    with pytest.raises(
        SystemExit, match=rf'2 images have no label, .*{first.name} cannot be decoded.*{second.name} is an'
    ):
        teacher()
    assert [file.name for file in Path('labels').rglob('*.png')] == ['2_pseudo.png']
    write_pictures(Path('again'), count=3)
    for file in (first, second):
        file.write_bytes(Path('again/cityscapes/leftImg8bit/train/t', file.name).read_bytes())
    assert len(teacher()) == 2


def test_labels_of_images_in_two_folders_are_kept_apart(teacher):
    folder = target_images()[0].parent
    (folder.parent / 'u').mkdir()
    for file in target_images():
        (folder.parent / 'u' / file.name).write_bytes(file.read_bytes())
        (folder / f'._{file.name}').write_bytes(b'x')
    (folder / '0_leftImg8bit.png').rename(folder / '0_leftImg8bit.PNG')
    teacher()
    names = sorted(str(file) for file in Path('labels').rglob('*.png'))
    assert names == [f'labels/{town}/{k}_pseudo.png' for town in 'tu' for k in range(3)]


def test_labels_of_other_images_are_other_settings(teacher):
    teacher()
    Path('data').rename('elsewhere')
    Path('data').symlink_to('elsewhere')
    with pytest.raises(SystemExit, match=r'other settings \(images .*data/toy_streets/.* and not .*elsewhere'):
        teacher()


def test_labels_that_hold_no_class_are_told_of(teacher, capsys):
    teacher('--threshold', '1')
    assert 'warning: 3 labels hold no class, since the network is nowhere as sure as --threshold 1.0' in (
        capsys.readouterr().err
    )
    assert teacher('--threshold', '1') == []


def test_a_cut_label_is_written_again(teacher):
    (first, *_) = teacher()
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    assert teacher() == [first]
    assert first.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:isw. no pairs of channels')
@pytest.mark.parametrize('name', [name for name in list_configs() if name.startswith('quickstart/')])
def test_labels_without_any_class_give_finite_losses(name):
    init_default_scope('mmseg')
    cfg = Config.fromfile(config_root() / name)
    distributed._sync_bn_to_bn(cfg.model)
    model = MODELS.build(cfg.model).train()

    def part():
        label = PixelData(data=torch.full((1, 64, 128), 255))
        soft = PixelData(data=torch.zeros(19, 64, 128, dtype=torch.uint8))
        samples = [SegDataSample(gt_sem_seg=label, gt_soft=soft) for _ in range(2)]
        return {'inputs': list(torch.randint(256, (2, 3, 64, 128)).byte()), 'data_samples': samples}

    losses = model(**model.data_preprocessor({**part(), 'target': part()}, True), mode='loss')
    assert losses
    for key, value in losses.items():
        assert torch.isfinite(value).all(), key
