"""Image sets for the Runner: kinds, transforms, shifts, and what they say when something is wrong."""

import gzip
import importlib.util
import pickle
import sys
import types
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmengine')

from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import DataLoader, IterableDataset

from timm_stylenorm.classification import (
    STYLE_SHIFTS,
    DomainBalancedSampler,
    MultiDomainDataset,
    StreamEpochHook,
    shift_image,
)
from timm_stylenorm.classification import data as data_module
from timm_stylenorm.evaluation.idx import read_idx
from timm_stylenorm.runner.loaders import domains


def build(**cfg):
    return DATASETS.build({'type': 'TimmDataset', **cfg})


def write_images(folder, count=2, size=(24, 20), seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(256, size=(*size, 3), dtype=np.uint8)).save(folder / f'{i}.png')


@pytest.fixture
def folders(tmp_path):
    for k, split in enumerate(('train', 'val')):
        for c, name in enumerate(('cat', 'dog')):
            write_images(tmp_path / split / name, count=2 + k, seed=10 * k + c)
    return tmp_path


def write_idx(path, array, magic=8):
    data = bytes((0, 0, magic, array.ndim)) + np.array(array.shape, '>u4').tobytes() + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(256, size=(6, 28, 28), dtype=np.uint8)


def test_image_folders_give_uint8_images_and_labels(folders):
    dataset = build(root=str(folders), split='train', transform=dict(input_size=16, is_training=True))
    assert dataset.metainfo == {'classes': ['cat', 'dog']}
    assert [sample['targets'] for sample in dataset] == [0, 0, 1, 1]
    assert dataset[0]['inputs'].shape == (3, 16, 16)
    assert dataset[0]['inputs'].dtype == torch.uint8


@pytest.mark.parametrize('split', ['val', 'validation'])
def test_split_names_mean_the_same_folder(folders, split):
    assert len(build(root=str(folders), split=split)) == 6


def test_torchvision_transforms_run_in_order(folders):
    steps = [dict(type='Resize', size=(8, 8)), dict(type='CenterCrop', size=4)]
    expected = (
        Image.open(folders / 'val' / 'dog' / '0.png').resize((8, 8), Image.Resampling.BILINEAR).crop((2, 2, 6, 6))
    )
    sample = build(root=str(folders), split='val', transform=steps)[3]
    assert np.array_equal(sample['inputs'].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_cifar100_files_are_read(tmp_path, monkeypatch):
    folder = tmp_path / 'cifar-100-python'
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(4, 3, 32, 32), dtype=np.uint8)
    for name in ('train', 'test'):
        content = {'data': pixels.reshape(4, -1), 'fine_labels': [3, 99, 0, 7]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / 'meta').write_bytes(pickle.dumps({'fine_label_names': [f'class{i}' for i in range(100)]}))
    monkeypatch.setattr('torchvision.datasets.cifar.check_integrity', lambda *args: True)
    dataset = build(name='torch/cifar100', root=str(tmp_path), split='val')
    assert np.array_equal(dataset[1]['inputs'].numpy(), pixels[1])
    assert dataset[1]['targets'] == 99
    assert dataset.metainfo['classes'][99] == 'class99'


def test_torchvisions_image_folder_works(folders):
    assert len(build(name='torch/image_folder', root=str(folders), split='val')) == 6


@pytest.mark.parametrize(
    ('prefix', 'package'), [('hfds', 'datasets'), ('wds', 'webdataset'), ('tfds', 'tensorflow-datasets')]
)
def test_a_missing_package_is_named_with_its_cure(monkeypatch, prefix, package):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=f'needs the package .{package}.: pip install {package}'):
        build(name=f'{prefix}/food101', root='.')


CLASSES = ['cat', 'dog']
INDICES = {'cat': 0, 'dog': 1}


def test_hfds_images_come_through_timms_reader(monkeypatch, tmp_path):
    write_images(tmp_path / 'images')
    rows = [{'image': {'bytes': None, 'path': str(tmp_path / 'images' / f'{i}.png')}, 'label': i} for i in range(2)]

    class Rows(list):
        info = types.SimpleNamespace(
            features={'label': types.SimpleNamespace(names=CLASSES, _str2int=INDICES, str2int=INDICES.get)},
            splits={'train': types.SimpleNamespace(num_examples=2)},
        )

        def cast_column(self, key, feature):
            return self

    fake = types.ModuleType('datasets')
    fake.__spec__ = importlib.util.spec_from_loader('datasets', None)
    fake.load_dataset = lambda name, **kwargs: Rows(rows)
    fake.Image = lambda decode: None
    monkeypatch.setitem(sys.modules, 'datasets', fake)
    for name in [name for name in sys.modules if name.startswith('timm.data.readers.reader_hfds')]:
        monkeypatch.delitem(sys.modules, name)
    dataset = build(name='hfds/pets', split='train')
    assert [sample['targets'] for sample in dataset] == [0, 1]
    assert np.array_equal(dataset[1]['inputs'].permute(1, 2, 0), np.asarray(Image.open(tmp_path / 'images' / '1.png')))


def test_a_stream_is_read_in_order_by_a_loader(monkeypatch):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from ((Image.new('RGB', (4, 4), (i, 0, 0)), i) for i in range(3))

        def __len__(self):
            return 3

    monkeypatch.setattr(data_module, 'create_dataset', lambda *args, **kwargs: Stream())
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    stream = build(name='wds/imagenet', root='.', domain='web')
    batch = next(iter(DataLoader(stream, batch_size=3)))
    assert batch['targets'].tolist() == [0, 1, 2] == batch['inputs'][:, 0, 0, 0].tolist()
    assert batch['domain'] == ['web'] * 3
    epochs = []
    stream.dataset.set_epoch = epochs.append
    runner = types.SimpleNamespace(train_dataloader=types.SimpleNamespace(dataset=stream), epoch=7)
    StreamEpochHook().before_train_epoch(runner)
    assert epochs == [7]
    with pytest.raises(ValueError, match='`shift` needs one with random access'):
        build(name='wds/imagenet', root='.', shift='dark')


@pytest.mark.parametrize('layout', ['t10k-{}.gz', 'raw/t10k-{}', 'FashionMNIST/raw/t10k-{}'])
def test_idx_files_are_found_in_each_layout(tmp_path, grey, layout):
    write_idx(tmp_path / layout.format('images-idx3-ubyte'), grey)
    write_idx(tmp_path / layout.format('labels-idx1-ubyte'), np.arange(6, dtype=np.uint8))
    dataset = DATASETS.build(dict(type='FashionMNIST', root=str(tmp_path), split='test', limit=5))
    assert len(dataset) == 5
    assert dataset[4]['targets'] == 4
    assert np.array_equal(dataset[4]['inputs'], np.repeat(grey[4:5], 3, axis=0))


def idx_root(tmp_path, images, labels):
    write_idx(tmp_path / 'train-images-idx3-ubyte', images)
    write_idx(tmp_path / 'train-labels-idx1-ubyte', labels)
    return dict(type='FashionMNIST', root=str(tmp_path))


def test_idx_files_that_do_not_fit_are_named(tmp_path, grey):
    cfg = idx_root(tmp_path, grey, np.arange(4, dtype=np.uint8))
    with pytest.raises(ValueError, match='6 train images but 4 labels'):
        DATASETS.build(cfg)


@pytest.mark.parametrize('name', ['x', 'x.gz'])
def test_an_idx_file_cut_short_is_named(tmp_path, grey, name):
    write_idx(tmp_path / name, grey)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    with pytest.raises(ValueError, match=f'{name} is .*cut short'):
        read_idx(tmp_path / name)


def test_missing_idx_files_name_debians_package(tmp_path):
    with pytest.raises(FileNotFoundError, match='apt-get install dataset-fashion-mnist'):
        DATASETS.build(dict(type='FashionMNIST', root=str(tmp_path)))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image folder '.*absent'"):
        build(root=str(tmp_path / 'absent'))
    with pytest.raises(FileNotFoundError, match='set download=True'):
        build(name='torch/cifar100', root=str(tmp_path / 'absent'))


def test_a_missing_split_does_not_fall_back_to_all_images(folders):
    with pytest.raises(FileNotFoundError, match="no folder for split 'test', only train, val"):
        build(root=str(folders), split='test')


def test_a_truncated_image_is_named(folders):
    path = folders / 'train' / 'dog' / '1.png'
    path.write_bytes(path.read_bytes()[:200])
    dataset = build(root=str(folders), split='train')
    with pytest.raises(OSError, match=r"cannot read image '.*dog/1\.png'.*Restore the file"):
        dataset[3]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(name='wsd/imagenet'), "unknown kind of data set 'wsd/'; did you mean 'wds/'"),
        (dict(transform=[dict(type='RandomCrob')]), "did you mean 'RandomCrop'"),
        (dict(transform=dict(normalize=True)), 'normalize is the task of model.data_preprocessor'),
        (dict(transform=dict(is_training=True, re_prob=0.2)), 'set erasing there'),
        (dict(shift='blurr'), "unknown style shift 'blurr'; did you mean 'blur'"),
    ],
)
def test_a_wrong_argument_is_named(folders, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(root=str(folders), **arguments)


@pytest.fixture
def pacs(tmp_path):
    for k, (domain, count) in enumerate({'art_painting': 3, 'photo': 2, 'sketch': 5}.items()):
        for c, name in enumerate(('dog', 'elephant')):
            if (domain, name) != ('photo', 'dog'):
                write_images(tmp_path / domain / name, count, seed=10 * k + c)
    return str(tmp_path)


def test_domains_share_their_labels_even_where_a_class_is_missing(pacs):
    photo = DATASETS.build(dict(type='DomainFolders', root=pacs, domains=['photo']))
    assert [sample['targets'] for sample in photo] == [1, 1]
    assert photo[0]['domain'] == 'photo'


def test_leave_out_is_the_complement_of_domains(pacs):
    rest = DATASETS.build(dict(type='PACS', root=pacs, leave_out=['photo']))
    assert Counter(sample['domain'] for sample in rest) == {'art_painting': 6, 'sketch': 10}


def test_an_unknown_domain_is_named(pacs):
    with pytest.raises(ValueError, match="unknown domain 'sketches'; did you mean 'sketch'"):
        DATASETS.build(dict(type='PACS', root=pacs, domains=['sketches']))


def test_every_batch_holds_as_many_images_of_each_domain(pacs):
    dataset = DATASETS.build(dict(type='PACS', root=pacs))
    sampler = DomainBalancedSampler(dataset, seed=3)
    drawn = list(islice(sampler, 60))
    for start in range(0, 60, 6):
        counts = Counter(dataset.domain_of(i) for i in drawn[start : start + 6])
        assert counts == {'art_painting': 2, 'photo': 2, 'sketch': 2}
    assert set(drawn) == set(range(len(dataset)))
    assert list(islice(DomainBalancedSampler(dataset, seed=3), 60)) == drawn


def test_with_a_run_of_its_size_every_batch_is_of_one_domain_in_turn(pacs):
    dataset = DATASETS.build(dict(type='PACS', root=pacs))
    drawn = list(islice(DomainBalancedSampler(dataset, seed=3, run=4), 60))
    batches = [{dataset.domain_of(i) for i in drawn[start : start + 4]} for start in range(0, 60, 4)]
    assert batches == [{'art_painting'}, {'photo'}, {'sketch'}] * 5
    assert set(drawn) == set(range(len(dataset)))
    with pytest.raises(ValueError, match='run >= 1, got 0'):
        DomainBalancedSampler(dataset, run=0)


@pytest.mark.parametrize('place', ['', 'splits', '../splits'])
def test_an_official_split_is_that_of_its_lists(pacs, place):
    root = Path(pacs) / 'images'
    root.mkdir()
    for domain in ('art_painting', 'photo', 'sketch'):
        (Path(pacs) / domain).rename(root / domain)
    folder = root / place
    folder.mkdir(exist_ok=True)
    lists = {
        'art_painting': ['elephant/1.png 2', 'dog/0.png 1'],
        'sketch': ['dog/4.png 1', 'dog/n02103406_4068-1.png 1'],
    }
    for domain, lines in lists.items():
        text = ''.join(f'{domain}/{line}\r\n' for line in lines)
        (folder / f'{domain}_train_kfold.txt').write_text(text + '\n', 'utf-8-sig')
    train = DATASETS.build(dict(type='PACS', root=str(root), leave_out=['photo'], split='train'))
    assert [(path.relative_to(root).as_posix(), label) for path, label, _ in train.samples] == [
        ('art_painting/elephant/1.png', 1),
        ('art_painting/dog/0.png', 0),
        ('sketch/dog/4.png', 0),
    ]
    with pytest.raises(FileNotFoundError, match=r"no list 'photo_train_kfold\.txt' .* split=None takes all"):
        DATASETS.build(dict(type='PACS', root=str(root), split='train'))
    whole = DATASETS.build(dict(type='PACS', root=str(root), domains=['photo'], split='train', split_missing_ok=True))
    assert len(whole) == 2
    with pytest.raises(ValueError, match="unknown split 'val'"):
        DATASETS.build(dict(type='PACS', root=str(root), split='val'))
    (folder / 'sketch_train_kfold.txt').write_text('sketch/dog/9.png 1')
    with pytest.raises(FileNotFoundError, match=r"1 images that .* has not, such as 'sketch/dog/9\.png'"):
        DATASETS.build(dict(type='PACS', root=str(root), domains=['sketch'], split='train'))


def test_aug_splits_gives_the_image_and_other_views_of_it(folders):
    """The other views are what the authors' operations make of the same crop."""
    torch.manual_seed(0)
    crop = dict(type='RandomCrop', size=6)
    views = [dict(type='RandomSolarize', threshold=128, p=1.0)]
    sample = build(root=str(folders), transform=[crop, dict(type='AugSplits', splits=4, transforms=views)])[0]
    assert sample['inputs'].shape == (4, 3, 6, 6)
    first, *rest = sample['inputs']
    expected = torch.where(first >= 128, 255 - first, first)
    assert not torch.equal(first, expected)
    assert all(torch.equal(view, expected) for view in rest)
    with pytest.raises(ValueError, match='splits >= 2, got 1'):
        build(root=str(folders), transform=[dict(type='AugSplits', splits=1, transforms=views)])
    with pytest.raises(ValueError, match='use one of the two'):
        build(root=str(folders), shift='dark', transform=[dict(type='AugSplits', transforms=views)])[0]


def test_a_transform_holds_transforms(folders):
    always = dict(type='RandomApply', transforms=[dict(type='Resize', size=(9, 7))], p=1.0)
    assert build(root=str(folders), transform=[always])[0]['inputs'].shape == (3, 9, 7)
    with pytest.raises(ValueError, match="unknown torchvision transform 'Rezise'; did you mean 'Resize'"):
        build(root=str(folders), transform=[dict(always, transforms=[dict(type='Rezise', size=8)])])


@pytest.mark.parametrize('run', [1, 3])
def test_a_skipped_sampler_goes_on_where_it_was(pacs, run):
    dataset = DATASETS.build(dict(type='PACS', root=pacs))
    drawn = list(islice(DomainBalancedSampler(dataset, seed=0, run=run), 40))
    sampler = DomainBalancedSampler(dataset, seed=0, run=run)
    sampler.skip(25)
    assert list(islice(sampler, 15)) == drawn[25:]


def test_a_held_out_share_is_of_each_class_and_domain_and_the_rest_is_trained_on(tmp_path):
    for domain, label, count in [('photo', 'cat', 10), ('photo', 'dog', 5), ('sketch', 'cat', 5)]:
        write_images(tmp_path / domain / label, count)
    spec = dict(type='DomainFolders', root=str(tmp_path), holdout=0.2)
    train, held = (DATASETS.build(dict(spec, split=split)).samples for split in ('train', 'crossval'))
    assert sorted((domain, label) for _, label, domain in held) == [*[('photo', 0)] * 2, ('photo', 1), ('sketch', 0)]
    assert sorted([*train, *held]) == sorted(DATASETS.build(dict(type='DomainFolders', root=str(tmp_path))).samples)
    assert held == DATASETS.build(dict(spec, split='crossval')).samples


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(holdout=1.5, split='train'), r'holdout=1\.5'),
        (dict(holdout=0.2), 'split=None'),
        (dict(holdout=0.01, split='crossval'), 'leaves a part without any'),
    ],
)
def test_a_share_that_is_none_is_refused(pacs, arguments, message):
    with pytest.raises(ValueError, match=message):
        DATASETS.build(dict(type='DomainFolders', root=pacs, **arguments))


@pytest.fixture
def shown(tmp_path, grey):
    """A test set as it is, and dark, by the names of the domains; in the scope of configs of classification."""
    part = idx_root(tmp_path, grey, np.zeros(6, np.uint8))
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield dict(clean=part, dark=dict(part, shift='dark'))


@pytest.mark.parametrize('kind', ['MultiDomainDataset', 'JoinedDataset'])
def test_samples_of_several_sets_say_their_domain(shown, kind):
    joined = DATASETS.build(dict(type=kind, domains=shown))
    assert [joined[i]['domain'] for i in (5, 6)] == ['clean', 'dark'] == joined.metainfo['domains']
    assert joined.metainfo['classes'] == joined.datasets[0].dataset.metainfo['classes']
    assert domains(joined) == ['clean'] * 6 + ['dark'] * 6
    assert joined[6]['inputs'].float().mean() < 0.5 * joined[0]['inputs'].float().mean()


@pytest.mark.parametrize('kind', ['MultiDomainDataset', 'JoinedDataset'])
def test_joined_sets_keep_the_domains_that_they_say_themselves(shown, kind):
    named = [dict(part, domain=name) for name, part in shown.items()]
    joined = DATASETS.build(dict(type=kind, datasets=[*named, shown['clean']]))
    assert domains(joined) == ['clean'] * 6 + ['dark'] * 6 + [None] * 6
    assert [joined[i].get('domain') for i in (5, 6, 12)] == ['clean', 'dark', None]


def test_only_chooses_domains_in_the_order_asked(shown):
    assert MultiDomainDataset(shown, only='dark').metainfo == {
        **MultiDomainDataset(shown).metainfo,
        'domains': ['dark'],
    }
    assert domains(MultiDomainDataset(shown, only=['dark', 'clean'])) == ['dark'] * 6 + ['clean'] * 6


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(only='drak'), "unknown domain 'drak'; did you mean 'dark'"),
        (dict(only=[]), 'no domain'),
        (dict(domains=None), r'domains=dict\(NAME=...\), and maybe only=, or datasets='),
        (dict(datasets=[]), 'or datasets='),
        (dict(domains=None, datasets=[], only='dark'), 'or datasets='),
    ],
)
def test_domains_that_are_not_there_are_named(shown, arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiDomainDataset(**{'domains': shown, **arguments})


def test_domains_of_other_classes_are_refused(shown):
    shown['dark']['classes'] = ['coat', 'bag']
    with pytest.raises(ValueError, match='the classes of dark are not those of clean'):
        MultiDomainDataset(shown)


def test_shifts_equal_their_formulas(grey):
    image = torch.from_numpy(grey[:3])
    x = image.double() / 255
    formulas = {
        'contrast': 0.5 + 0.3 * (x - 0.5),
        'bright': (x + 0.4).clamp(max=1),
        'dark': 0.35 * x,
        'gamma': x**0.4,
        'inverted': 1 - x,
    }
    for name, expected in formulas.items():
        shifted = shift_image(image, name)
        assert (shifted.double() / 255 - expected).abs().max() <= 0.51 / 255, name
    centre = shift_image(image, 'blur')[:, 10, 10].double() / 255
    assert (centre - x[:, 8:13, 8:13].mean((1, 2))).abs().max() <= 0.51 / 255


def test_noise_and_texture_follow_the_seed(grey):
    image = torch.from_numpy(grey[:3])
    image[:, :5] = 0
    for name in ('noise', 'texture'):
        assert torch.equal(shift_image(image, name, seed=1), shift_image(image, name, seed=1))
        assert not torch.equal(shift_image(image, name, seed=1), shift_image(image, name, seed=2))
    textured = shift_image(image, 'texture')
    kept = image > 0.05 * 255
    assert torch.equal(textured[kept], image[kept])
    assert textured[:, :5].float().std() > 20


def test_every_shift_keeps_shape_and_type(grey):
    image = torch.from_numpy(grey[:3])
    for name in STYLE_SHIFTS:
        shifted = shift_image(image, name)
        assert shifted.dtype == torch.uint8
        assert shifted.shape == image.shape
        assert not torch.equal(shifted, image)
