"""Image folders and tar files for classification as they lie on disks: junk, capitals, damaged and oversized files."""

import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmengine')
from mmengine.registry import DATASETS
from test_classification_data import write_images

from timm_stylenorm.classification import DomainFolders, TopK
from timm_stylenorm.datafiles import decode_text, is_hidden, shown_size, visible_files


def add_junk(folder):
    """What file managers leave in a folder of classes, which lies beside others."""
    for path in [path for path in folder.rglob('*') if path.is_dir()]:
        (path / '.DS_Store').write_bytes(b'x')
        (path / 'Thumbs.db').write_bytes(b'x')
        for image in list(path.glob('[0-9].png')):
            (path / f'._{image.name}').write_bytes(b'\0\5\26\7')
    write_images(folder / '.ipynb_checkpoints')
    write_images(folder / '__MACOSX')


@pytest.fixture
def pets(tmp_path):
    """Two classes in val/, with junk and an image whose suffix has capitals."""
    for name in ('cat', 'dog'):
        write_images(tmp_path / 'val' / name)
    (tmp_path / 'val/dog/1.png').rename(tmp_path / 'val/dog/1.PNG')
    add_junk(tmp_path / 'val')
    return tmp_path


@pytest.mark.parametrize('name', ['', 'torch/image_folder'])
def test_junk_is_no_image_and_no_class(pets, name):
    dataset = DATASETS.build(dict(type='TimmDataset', name=name, root=str(pets), split='val'))
    assert dataset.metainfo['classes'] == ['cat', 'dog']
    assert [sample['targets'] for sample in dataset] == [0, 0, 1, 1]


def test_a_class_map_keeps_its_numbers(pets):
    (pets / 'map.txt').write_text('dog\nbird\ncat\n')
    options = dict(type='TimmDataset', root=str(pets), split='val', class_map=str(pets / 'map.txt'))
    assert [sample['targets'] for sample in DATASETS.build(options)] == [2, 2, 0, 0]


def test_junk_in_a_tar_file_is_no_image(pets):
    with tarfile.open(pets / 'pets.tar', 'w') as tar:
        tar.add(pets / 'val', '.')
    dataset = DATASETS.build(dict(type='TimmDataset', root=str(pets / 'pets.tar'), split='val'))
    assert sorted(sample['targets'] for sample in dataset) == [0, 0, 1, 1]


def test_a_folder_of_junk_only_is_refused(tmp_path):
    write_images(tmp_path / 'val/cat')
    for file in list((tmp_path / 'val/cat').iterdir()):
        file.rename(file.with_name(f'._{file.name}'))
    with pytest.raises(FileNotFoundError, match='are hidden files'):
        DATASETS.build(dict(type='TimmDataset', root=str(tmp_path), split='val'))


@pytest.fixture
def pacs(tmp_path):
    for domain in ('photo', 'sketch'):
        for name in ('cat', 'dog'):
            write_images(tmp_path / domain / name)
        add_junk(tmp_path / domain)
    return tmp_path


def test_domains_have_no_junk(pacs):
    shutil.copytree(pacs / 'photo', pacs / '__MACOSX')
    dataset = DomainFolders(str(pacs))
    assert (dataset.domains, dataset.classes, len(dataset)) == (['photo', 'sketch'], ['cat', 'dog'], 8)


def test_a_domain_that_is_given_is_that_of_all_images(pacs):
    dataset = DomainFolders(str(pacs), domain='dark', shift='dark')
    assert {sample['domain'] for sample in dataset} == {'dark'}
    assert {sample['domain'] for sample in DomainFolders(str(pacs), shift='dark')} == {'photo', 'sketch'}
    metric = TopK(topk=(1,))
    metric.process(None, [{'scores': np.eye(2)[0], 'target': 0, 'domain': dataset.domain_of(k)} for k in range(8)])
    assert set(metric.evaluate(8)) == {'accuracy/top1', 'accuracy/dark/top1'}


def test_lists_of_a_split_are_read_as_editors_leave_them(pacs):
    (pacs / 'photo/cat/0.png').rename(pacs / 'photo/cat/my cat.png')
    for domain, text in (
        ('photo', 'photo/cat/my cat.png 1\r\n\r\n photo/dog/1.png 2 \r\n'),
        ('sketch', 'sketch/cat/0.png 1'),
    ):
        (pacs / f'{domain}_test_kfold.txt').write_bytes(text.encode('utf-16'))
    assert len(DomainFolders(str(pacs), split='test')) == 3


@pytest.mark.parametrize('fault', ['empty', 'oversized'])
def test_a_file_that_is_no_image_is_named(pets, monkeypatch, fault):
    dataset = DATASETS.build(dict(type='TimmDataset', root=str(pets), split='val'))
    if fault == 'empty':
        (pets / 'val/cat/0.png').write_bytes(b'')
    else:
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    with pytest.raises(OSError, match=r"cannot read image '.*val/cat/0\.png'"):
        dataset[0]


@pytest.mark.parametrize(
    ('path', 'hidden'),
    [
        ('a/b.png', False),
        ('._a.png', True),
        ('a/.ipynb_checkpoints/b.png', True),
        ('__MACOSX/a/b.png', True),
        ('@eaDir/b.png', True),
        ('a.b/c.png', False),
    ],
)
def test_hidden_files_are_known_by_any_part_of_their_path(path, hidden):
    assert is_hidden(path) == hidden


def test_visible_files_follow_links_and_are_sorted(tmp_path):
    write_images(tmp_path / 'elsewhere')
    (tmp_path / 'root/b').mkdir(parents=True)
    (tmp_path / 'root/a').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'root/b/x.txt').write_text('')
    names = [path.relative_to(tmp_path / 'root').as_posix() for path in visible_files(tmp_path / 'root')]
    assert names == ['a/0.png', 'a/1.png', 'b/x.txt']


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png'])
def test_the_size_as_shown_is_that_of_opencv(tmp_path, orientation, suffix):
    cv2 = pytest.importorskip('cv2')
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f'a.{suffix}'
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(file, exif=exif)
    with Image.open(file) as image:
        assert shown_size(image) == cv2.imread(str(file)).shape[1::-1]


def test_text_in_no_known_encoding_is_refused():
    with pytest.raises(ValueError, match=r'list\.txt is no text'):
        decode_text(b'\xff\x00\xfe', 'list.txt')
