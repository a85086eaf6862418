"""Protocols on images that lie in a tar file, in the shards of a webdataset, or in a data set of Hugging Face."""

import io
import itertools
import json
import re
import tarfile
from pathlib import Path

import pytest
from test_protocols import WORDNET, Oracle, image, write

from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.evaluation import PROTOCOLS, Options, Running, evaluate
from timm_stylenorm.evaluation.labels import folder_indices
from timm_stylenorm.evaluation.readers import place_of

OUTPUTS = [7, 0, 999, 7]


def tar_of(folder, file):
    with tarfile.open(file, 'w') as tar:
        tar.add(folder, '.')
    return file


@pytest.fixture
def oracle():
    return Oracle(crop_pct=1.0)


def test_a_tar_file_gives_the_counts_of_its_folder(tmp_path, oracle):
    write(tmp_path / 'val', OUTPUTS, right=3)
    (tmp_path / 'val' / WORDNET[0] / '._1.png').write_bytes(b'\0\5\26\7')
    packed = tar_of(tmp_path / 'val', tmp_path / 'val.tar')
    for workers in (0, 1):
        result = evaluate(oracle, 'imagenet', packed, running=Running(workers=workers))
        assert result.cells == {'all': {'total': 4, 'top1': 3, 'top5': 3, 'damaged': 0}}
        assert result.cells == evaluate(oracle, 'imagenet', tmp_path / 'val').cells
    assert evaluate(oracle, 'imagenet', packed, options=Options(limit=2)).cells['all']['total'] == 2


def test_numbers_of_v2_are_outputs_in_a_tar_file_too(tmp_path, oracle):
    write(tmp_path / 'v2', [2, 10, 100, 999], right=4, name=str)
    packed = tar_of(tmp_path / 'v2', tmp_path / 'v2.tar')
    assert evaluate(oracle, 'imagenet-v2', packed).scores['top1'] == 100


def test_the_subset_of_robustbench_goes_by_names_in_a_tar_file(tmp_path, oracle):
    folder = tmp_path / 'val' / WORDNET[0]
    folder.mkdir(parents=True)
    for number in (15253, 1, 20685):
        image(0).save(folder / f'ILSVRC2012_val_{number:08d}.png')
    packed = tar_of(tmp_path / 'val', tmp_path / 'val.tar')
    assert evaluate(oracle, 'imagenet', packed, options=Options(subset='robustbench')).cells['all']['total'] == 2


def test_a_damaged_tar_file_and_one_of_several_sets_are_refused(tmp_path, oracle):
    for name in ('train', 'val'):
        write(tmp_path / 'all' / name, [1, 2], right=2)
    packed = tar_of(tmp_path / 'all', tmp_path / 'all.tar')
    with pytest.raises(ValueError, match=r"classes in '.*all\.tar' lie in several folders, train, val"):
        evaluate(oracle, 'imagenet', packed)
    packed.write_bytes(b'no archive' * 100)
    with pytest.raises(ValueError, match=r"all\.tar' is damaged or cut short"):
        evaluate(oracle, 'imagenet', packed)


def shards(folder, outputs, right, info=True, damaged=()):
    """Two shards of a webdataset."""
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f'val-{shard}.tar', 'w') as tar:
            for i in range(shard, len(outputs), 2):
                file = io.BytesIO()
                image(outputs[i], wrong=i >= right).save(file, 'png')
                png = file.getvalue()[:300] if i in damaged else file.getvalue()
                for suffix, data in (('png', png), ('cls', str(outputs[i]).encode())):
                    member = tarfile.TarInfo(f'{i:04d}.{suffix}')
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    if info:
        split = dict(
            name='validation', num_samples=len(outputs), filenames=['val-0.tar', 'val-1.tar'],
            shard_lengths=[len(range(k, len(outputs), 2)) for k in range(2)],
        )  # fmt: skip
        (folder / '_info.json').write_text(json.dumps({'splits': {'validation': split}}))
    return f'wds/{folder}'


@pytest.fixture
def webdataset():
    return pytest.importorskip('webdataset', reason='webdataset is not installed')


@pytest.mark.parametrize('workers', [0, 2])
def test_shards_are_read_in_order_and_count_once(webdataset, tmp_path, oracle, workers):
    place = shards(tmp_path / 'shards', OUTPUTS, right=3)
    result = evaluate(oracle, 'imagenet', place, running=Running(workers=workers, batch_size=3))
    assert result.cells == {'all': {'total': 4, 'top1': 3, 'top5': 3, 'damaged': 0}}
    assert result.provenance['root'] == f'{place}:validation'


def test_processes_share_a_stream(webdataset, tmp_path):
    from timm_stylenorm.evaluation.images import Shown
    from timm_stylenorm.evaluation.readers import StreamCell

    cell = StreamCell.read(place_of(shards(tmp_path / 'shards', list(range(7)), right=7)), 'all')
    shares = [[label for _, _, label, _ in cell.images(Shown((0,) * 3, (1,) * 3), rank, 3)] for rank in range(3)]
    assert sorted(itertools.chain(*shares)) == list(range(7))
    assert [len(share) for share in shares] == [3, 2, 2]


def test_what_a_stream_leaves_out_is_counted(webdataset, tmp_path, oracle):
    place = shards(tmp_path / 'shards', OUTPUTS, right=4, damaged=[1])
    with pytest.warns(StyleNormWarning, match='all: 1 files cannot be read and are left out: see the log'):
        assert evaluate(oracle, 'imagenet', place).cells['all'] == {'total': 3, 'top1': 3, 'top5': 3, 'damaged': 1}


def test_a_stream_is_known_again_by_its_length(webdataset, tmp_path, oracle):
    place = shards(tmp_path / 'shards', OUTPUTS, right=3)
    first = evaluate(oracle, 'imagenet', place, store=tmp_path / 'cells')
    oracle.seen.clear()
    assert evaluate(oracle, 'imagenet', place, store=tmp_path / 'cells').cells == first.cells
    assert not oracle.seen
    with pytest.raises(ValueError, match='all has 4 images that can be read, of 3'):
        evaluate(oracle, 'imagenet', f'{place}:val-{{0..1}}.tar|3', store=tmp_path / 'cells')


def test_what_a_stream_cannot_do_is_said(webdataset, tmp_path, oracle):
    place = shards(tmp_path / 'shards', OUTPUTS, right=3, info=False)
    with pytest.raises(ValueError, match=r'split validation not found in info'):
        evaluate(oracle, 'imagenet', place)
    with pytest.raises(ValueError, match=r'does not say how many images it has: put _info\.json'):
        evaluate(oracle, 'imagenet', f'{place}:val-{{0..1}}.tar')
    whole = f'{place}:val-{{0..1}}.tar|4'
    assert evaluate(oracle, 'imagenet', whole).cells['all']['total'] == 4
    for protocol, options, told in (
        ('imagenet', Options(limit=2), 'is read in order, and a limit'),
        ('imagenet', Options(subset='robustbench'), 'a subset needs a folder or a tar file'),
        ('imagenet-r', Options(), 'has no names of classes'),
        ('imagenet-c', Options(), r'imagenet-c is read from folders, not by a reader as of wds/'),
    ):
        with pytest.raises(ValueError, match=told):
            evaluate(oracle, protocol, whole, options=options)
    with pytest.raises(FileNotFoundError, match=r'no folder .* of shards'):
        evaluate(oracle, 'imagenet', f'{place}x')


@pytest.mark.parametrize(('kind', 'package'), [('hfds', 'datasets'), ('wds', 'webdataset')])
def test_a_missing_package_is_named_with_its_cure(monkeypatch, oracle, kind, package):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=f'needs the package .{package}.: pip install {package}'):
        evaluate(oracle, 'imagenet', f'{kind}/imagenet')


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', [WORDNET.__getitem__, str, lambda output: f'c{output:03d}'], ids=['ids', 'numbers', 'names']
)
def test_a_data_set_of_hugging_face_gives_the_counts_of_its_folder(tmp_path, monkeypatch, name):
    datasets = pytest.importorskip('datasets', reason='datasets is not installed')
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    outputs = range(12) if name(1) == 'c001' else OUTPUTS
    write(tmp_path / 'pets/validation', outputs, right=3, name=name)
    model = Oracle(outputs=12 if name(1) == 'c001' else 1000, crop_pct=1.0)
    result = evaluate(model, 'imagenet', f'hfds/{tmp_path}/pets')
    assert result.cells == evaluate(model, 'imagenet', tmp_path / 'pets/validation').cells
    assert result.cells['all']['top1'] == 3
    with pytest.raises(ValueError, match=r'cannot read .hfds/.*pets:test.: .*[sS]plit'):
        evaluate(model, 'imagenet', f'hfds/{tmp_path}/pets:test')
    with pytest.raises(ValueError, match='goes by the names of files'):
        evaluate(model, 'imagenet', f'hfds/{tmp_path}/pets', options=Options(subset='robustbench'))


def test_names_are_numbered_as_by_timm_and_the_other_order_is_told():
    names = ('class1', 'class2', 'class10')
    with pytest.warns(StyleNormWarning, match="'class1', ..., 'class10'; torchvision's ImageFolder sorts '10' before"):
        assert folder_indices(names, 3, 'root') == (0, 1, 2)
    assert folder_indices(('0', '1', '2', '10'), 11, 'root') == (0, 1, 2, 10)
    assert folder_indices(('tench', 'goldfish'), 2, 'rows of a data set') == (0, 1)


@pytest.mark.parametrize(
    ('text', 'parts'),
    [
        ('hfds/timm/imagenet-1k', ('hfds', 'timm/imagenet-1k', 'validation')),
        ('hfds//data/pets:test', ('hfds', '/data/pets', 'test')),
        ('wds/s3://bucket/in1k', ('wds', 's3://bucket/in1k', 'validation')),
        ('wds/data/in1k:val-{00..63}.tar|50000', ('wds', 'data/in1k', 'val-{00..63}.tar|50000')),
    ],
)
def test_a_source_is_read_from_its_text(text, parts):
    source = place_of(text)
    assert (source.kind, source.name, source.split) == parts


def test_the_page_names_the_protocols_that_are_read_from_other_places():
    page = (Path(__file__).parents[2] / 'docs/robustness.md').read_text()
    found = re.search(r'folders of classes \(([^)]*)\), these places', page)[1]
    assert re.findall(r'`([^`]*)`', found) == [name for name, row in PROTOCOLS.items() if row.in_readers]
