"""tools/adabn.py on a folder of images without labels, of segmentors and of classifiers."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmengine')
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import timm_stylenorm.classification  # noqa: F401 (registers the classifier)
from timm_stylenorm.runner.configs import config_root

SEGMENTATION = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
CLASSIFIER = """
model = dict(type='StyleNormClassifier', model='test_resnet', num_classes=3, style='bin',
    data_preprocessor=dict(mean=(0.5,) * 3, std=(0.5,) * 3))
test_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='TimmDataset', name='', root='nowhere', split='val', transform=[dict(type='Resize', size=32)]))
test_cfg = dict(type='TestLoop')
test_evaluator = dict(type='TopK', topk=1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Red images in folders within each other, beside what is no image."""
    monkeypatch.chdir(tmp_path)
    for k in range(4):
        place = tmp_path / 'pictures' / f'drive{k % 2}'
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 60, (48, 64, 3), np.uint8) + np.array([190, 0, 0], np.uint8)
        Image.fromarray(pixels).save(place / f'{k}.{"PNG" if k else "jpg"}')
        (place / f'._{k}.png').write_bytes(b'of another system')
    (tmp_path / 'pictures/notes.txt').write_text('no image')
    return tmp_path


def adapted(config, folder, *options):
    import adabn

    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmseg' if 'Decoder' in cfg.model.type else 'mmengine'):
        model = MODELS.build(cfg.model)
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, folder / 'net.pth')
    adabn.main([str(config), 'net.pth', '--images', 'pictures', *options])
    names = ('net.pth', 'net_adabn.pth')
    before, after = (torch.load(folder / name, weights_only=True)['state_dict'] for name in names)
    return {key for key, value in before.items() if not torch.equal(value, after[key])}, after


def test_a_segmentor_needs_no_labels_and_no_data_set(folder):
    pytest.importorskip('mmseg')
    changed, _ = adapted(config_root() / SEGMENTATION, folder)
    assert changed
    assert {key.rpartition('.')[2] for key in changed} == {'running_mean', 'running_var', 'num_batches_tracked'}


def test_a_classifier_neither(folder):
    (folder / 'c.py').write_text(CLASSIFIER)
    changed, after = adapted('c.py', folder, '--batch-size', '2')
    assert {key.rpartition('.')[2] for key in changed} == {'running_mean', 'running_var', 'num_batches_tracked'}
    assert {int(value) for key, value in after.items() if key.endswith('num_batches_tracked')} == {2}


@pytest.mark.parametrize(
    ('images', 'message'),
    [('nothing', 'no such folder'), ('net.pth', 'is a file'), ('empty', 'no image in it')],
)
def test_a_folder_without_images_is_a_mistake(images, message, folder):
    import adabn

    (folder / 'empty').mkdir()
    (folder / 'net.pth').touch()
    (folder / 'c.py').write_text(CLASSIFIER)
    with pytest.raises(SystemExit, match=message):
        adabn.main(['c.py', 'net.pth', '--images', images])
