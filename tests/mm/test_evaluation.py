"""DomainIoUMetric: its numbers are mmseg's, by domain; means, pools, subsets, reports, two processes, tools/test.py."""

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmseg')
import test as test_tool
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope
from mmseg.datasets import CityscapesDataset
from mmseg.evaluation import IoUMetric
from mmseg.registry import MODELS

from mmseg_stylenorm.evaluation import DomainIoUMetric, class_scores
from timm_stylenorm.runner.configs import config_root

CLASSES = CityscapesDataset.METAINFO['classes']
DOMAINS = ['city', 'fog', 'rain']
QUICK = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
META = {'classes': CLASSES, 'domains': DOMAINS, 'known_domains': [*DOMAINS, 'snow']}


def sample(index: int, **extra) -> dict:
    """What a metric gets of an image; half of the predictions are right, class 16 is nowhere."""
    rng = np.random.default_rng(index)
    label = torch.from_numpy(rng.integers(0, 16, (1, 8, 12)))
    prediction = torch.where(torch.from_numpy(rng.random((1, 8, 12)) < 0.5), label, label.roll(1))
    label = torch.where(torch.from_numpy(rng.random((1, 8, 12)) < 0.1), 255, label)
    result = {'pred_sem_seg': {'data': prediction}, 'gt_sem_seg': {'data': label}, 'img_path': f'x/{index}.png'}
    return {**result, 'domain': DOMAINS[index % 3], **extra}


def evaluate(metric, samples: list[dict], meta: dict = META) -> dict:
    metric.dataset_meta = meta
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def by_mmseg(samples: list[dict]) -> dict:
    return {key: pytest.approx(float(value), abs=0.011) for key, value in evaluate(IoUMetric(), samples).items()}


def matrices(samples: list[dict], domain: str) -> list[np.ndarray]:
    """Confusion matrices by a plain loop."""
    rows = []
    for one in samples:
        matrix = np.zeros((19, 19), int)
        for truth, guess in zip(
            one['gt_sem_seg']['data'].flatten(), one['pred_sem_seg']['data'].flatten(), strict=True
        ):
            if truth != 255:
                matrix[truth, guess] += 1
        rows += [matrix] if one['domain'] == domain else []
    return rows


def test_each_domain_has_the_numbers_of_mmsegs_metric():
    samples = [sample(k) for k in range(9)]
    found = evaluate(DomainIoUMetric(means={}), samples)
    assert found == {
        f'{domain}/{key}': value
        for domain in DOMAINS
        for key, value in by_mmseg([s for s in samples if s['domain'] == domain]).items()
    }


def test_without_domains_it_is_mmsegs_metric():
    samples = [sample(k, domain='') for k in range(3)]
    assert evaluate(DomainIoUMetric(), samples) == by_mmseg(samples)


def test_means_count_domains_alike_and_pools_count_pixels():
    samples = [sample(k) for k in (0, 3, 6, 1, 2)]  # three of city, one of fog, one of rain
    pools = {'bad': ['fog', 'rain']}
    found = evaluate(DomainIoUMetric(means={'all': DOMAINS, 'both': ['bad', 'city']}, pools=pools), samples)
    assert {key: found[f'bad/{key}'] for key in ('mIoU', 'mAcc', 'aAcc')} == by_mmseg(samples[3:])
    for mean, parts in (('all', DOMAINS), ('both', ['bad', 'city'])):
        assert found[f'{mean}/mIoU'] == pytest.approx(np.mean([found[f'{part}/mIoU'] for part in parts]), abs=0.011)
    assert len({found[f'{name}/mIoU'] for name in (*DOMAINS, 'bad', 'all', 'both')}) == 6


def test_by_default_the_mean_is_over_all_domains():
    found = evaluate(DomainIoUMetric(), [sample(k) for k in range(3)])
    assert found['mean/mIoU'] == pytest.approx(np.mean([found[f'{d}/mIoU'] for d in DOMAINS]), abs=0.011)
    assert 'mean/mIoU' not in evaluate(DomainIoUMetric(), [sample(k) for k in (0, 3)])


def test_a_mean_without_one_of_its_domains_is_left_out():
    metric = DomainIoUMetric(
        means={'mean': [*DOMAINS, 'snow'], 'two': ['city', 'fog']}, pools={'bad': ['rain', 'snow']}
    )
    found = evaluate(metric, [sample(k) for k in range(3)])
    assert {key.split('/')[0] for key in found} == {*DOMAINS, 'two'}


def test_synthias_subsets_average_the_classes_that_it_has():
    samples = [sample(k) for k in range(6)]
    found = evaluate(DomainIoUMetric(subsets={'fog': ['mIoU16', 'mIoU13']}), samples)
    iou = sum(matrices(samples, 'fog'))
    scores = dict(zip(CLASSES, 100 * class_scores(iou)[0], strict=True))
    sixteen = [value for name, value in scores.items() if name not in ('terrain', 'truck', 'train')]
    thirteen = [
        value for name, value in scores.items() if name not in ('terrain', 'truck', 'train', 'wall', 'fence', 'pole')
    ]
    assert (len(sixteen), len(thirteen)) == (16, 13)
    assert found['fog/mIoU16'] == pytest.approx(np.nanmean(sixteen), abs=0.006)
    assert found['fog/mIoU13'] == pytest.approx(np.nanmean(thirteen), abs=0.006)
    assert not {'city/mIoU16', 'mean/mIoU16'} & {*found}  # not every domain has it


def test_miou16_of_predictions_of_absent_classes_is_19_sixteenths_of_miou():
    absent = [CLASSES.index(name) for name in ('terrain', 'truck', 'train')]
    label = torch.tensor([k for k in range(19) if k not in absent] * 4).view(1, 8, 8)
    prediction = label.clone().flatten()
    prediction[:6] = torch.tensor(absent * 2)
    one = {'pred_sem_seg': {'data': prediction.view(1, 8, 8)}, 'gt_sem_seg': {'data': label}, 'domain': 'city'}
    found = evaluate(DomainIoUMetric(subsets=['mIoU16']), [one])
    assert found['city/mIoU16'] == pytest.approx(found['city/mIoU'] * 19 / 16, abs=0.02)


def test_the_report_holds_what_was_counted(tmp_path):
    samples = [sample(k) for k in range(6)]
    metric = DomainIoUMetric(report_dir=str(tmp_path / 'report'), pools={'bad': ['fog', 'rain']})
    found = evaluate(metric, samples)
    report = json.loads((tmp_path / 'report/domains.json').read_text())
    assert report['classes'] == list(CLASSES)
    assert report['means'] == {'mean': DOMAINS}
    assert list(report['domains']) == [*DOMAINS, 'bad']
    fog, matrix = report['domains']['fog'], sum(matrices(samples, 'fog'))
    assert fog['confusion'] == matrix.tolist()
    assert fog['images'] == 2
    assert fog['IoU']['train'] is None  # nowhere: JSON has no nan
    assert fog['IoU']['road'] == pytest.approx(100 * class_scores(matrix)[0][0])
    assert {f'{name}/{k}': round(v, 2) for name, row in report['scores'].items() for k, v in row.items()} == found
    for name in ('domains.png', 'confusion.png'):
        with Image.open(tmp_path / 'report' / name) as picture:
            assert len(picture.convert('RGB').getcolors(1 << 24)) > 50
    assert {path.name for path in (tmp_path / 'report').iterdir()} == {'domains.json', 'domains.png', 'confusion.png'}


def test_predictions_go_into_a_folder_for_each_domain_with_labels_or_without(tmp_path):
    samples = [sample(k, img_path='x/same.png') for k in range(3)]
    for one in samples[1:]:
        del one['gt_sem_seg']
    meta = {**META, 'image_folders': dict.fromkeys(DOMAINS, 'x')}
    found = evaluate(DomainIoUMetric(output_dir=str(tmp_path)), samples, meta)
    assert {key.split('/')[0] for key in found} == {'city'}
    for one in samples:
        written = np.asarray(Image.open(tmp_path / one['domain'] / 'same.png'))
        np.testing.assert_array_equal(written, one['pred_sem_seg']['data'][0])


@pytest.mark.parametrize('which', ['pred_sem_seg', 'gt_sem_seg'])
def test_a_class_beyond_the_last_is_an_error_not_another_class(which):
    one = sample(0)
    one[which]['data'][0, 0, 0] = 19
    one['gt_sem_seg']['data'][0, 0, 0] = min(19, one['gt_sem_seg']['data'][0, 0, 0])
    with pytest.raises(ValueError, match=r'holds class 19, the data set has classes 0\.\.18'):
        evaluate(DomainIoUMetric(), [one])


def test_a_negative_class_is_named():
    one = sample(0)
    one['gt_sem_seg']['data'][0, 0, 0] = -1
    with pytest.raises(ValueError, match='a label holds class -1'):
        evaluate(DomainIoUMetric(), [one])


def test_a_label_of_another_size_says_where_labels_are_loaded():
    one = sample(0)
    one['gt_sem_seg']['data'] = one['gt_sem_seg']['data'][:, :4]
    with pytest.raises(ValueError, match=r'a label is \(4, 12\) and its prediction \(8, 12\).*ScoreAsShown'):
        evaluate(DomainIoUMetric(), [one])


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(means={'mean': ['city', 'fgo']}), "unknown domain 'fgo'; did you mean 'fog'"),
        (dict(pools={'bad': ['rian']}), "unknown domain 'rian'; did you mean 'rain'"),
        (dict(subsets={'ciyt': ['mIoU16']}), "unknown domain 'ciyt'; did you mean 'city'"),
        (dict(means={'fog': ['city']}), "is called 'fog', and so is a domain"),
        (dict(pools={'bad': ['fog', 'rain'], 'all': ['bad', 'city']}), "unknown domain 'bad'"),
        (dict(means={'bad': ['fog']}, pools={'bad': ['fog', 'rain']}), "a mean is called 'bad', and so is a pool"),
        (dict(subsets=['mIoU15']), "unknown subset of classes 'mIoU15'"),
    ],
)
def test_a_wrong_name_stops_before_the_test(options, said):
    with pytest.raises(ValueError, match=said):
        DomainIoUMetric(**options).dataset_meta = META


def _rank(rank: int, folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    store = f'file://{folder}/store'
    torch.distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    metric = DomainIoUMetric(report_dir=str(folder / 'report'), output_dir=str(folder / 'predicted'))
    metric.dataset_meta = {**META, 'image_folders': dict.fromkeys(DOMAINS, 'x')}
    for index in DefaultSampler(range(count), shuffle=False):
        metric.process(None, [sample(index, img_path=f'x/{index}/same.png')])
    (folder / f'{rank}.json').write_text(json.dumps([len(metric.results), metric.evaluate(count)]))
    torch.distributed.destroy_process_group()


def test_two_processes_count_as_one_and_leave_out_what_the_sampler_repeats(tmp_path, unpainted):
    context = multiprocessing.get_context('fork')
    ranks = [context.Process(target=_rank, args=(rank, tmp_path, 7)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    found = [json.loads((tmp_path / f'{rank}.json').read_text()) for rank in range(2)]
    expected = evaluate(DomainIoUMetric(), [sample(k) for k in range(7)])
    assert found == [[4, expected], [4, expected]]  # eight were processed, seven count
    report = json.loads((tmp_path / 'report/domains.json').read_text())
    assert [row['images'] for row in report['domains'].values()] == [3, 2, 2]
    for index in range(7):
        with Image.open(tmp_path / f'predicted/{DOMAINS[index % 3]}/{index}/same.png') as written:
            np.testing.assert_array_equal(np.asarray(written), sample(index)['pred_sem_seg']['data'][0])


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """Two images of each domain of the toy streets, and a checkpoint of the small net, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rng, root = np.random.default_rng(0), tmp_path / 'data/toy_streets'
    files = [(f'gta5/images/{k}.png', f'gta5/labels/{k}_labelTrainIds.png') for k in range(2)]
    city = 'cityscapes/{}/val/t/{}_{}.png'
    files += [
        (city.format('leftImg8bit', k, 'leftImg8bit'), city.format('gtFine', k, 'gtFine_labelTrainIds')) for k in (2, 3)
    ]
    for image, label in files:
        for name, array in ((image, rng.integers(0, 256, (32, 64, 3))), (label, rng.integers(0, 19, (32, 64)))):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(root / name)
    (root / 'gta5/splits').mkdir()
    (root / 'gta5/splits/val.txt').write_text('0\n1\n')
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(config_root() / QUICK).model)
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, 'net.pth')
    return tmp_path


def test_one_run_of_the_tool_measures_all_domains(toy):
    line = [QUICK, 'net.pth', '--work-dir', 'out', '--out', 'predicted']
    line += ['--data', '_base_/datasets/toy_streets_domains_256x512.py', '--cfg-options']
    line += ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False', 'log_level=ERROR']
    found = test_tool.main(line)
    (folder,) = (path for path in (toy / 'out').iterdir() if path.is_dir())
    assert (folder / f'{folder.name}.log').is_file()
    report = json.loads((folder / 'domains.json').read_text())
    assert found['mean/mIoU'] == pytest.approx((found['seen/mIoU'] + found['unseen/mIoU']) / 2, abs=0.011)
    assert found['unseen/mIoU'] == round(report['scores']['unseen']['mIoU'], 2)
    assert (folder / 'domains.png').is_file()
    files = sorted(str(path.relative_to('predicted')) for path in Path('predicted').rglob('*.png'))
    assert files == ['seen/0.png', 'seen/1.png', 'unseen/t/2_leftImg8bit.png', 'unseen/t/3_leftImg8bit.png']
    truth = [np.asarray(Image.open(f'data/toy_streets/gta5/labels/{k}_labelTrainIds.png')) for k in range(2)]
    right = sum((np.asarray(Image.open(f'predicted/seen/{k}.png')) == truth[k]).sum() for k in range(2))
    assert found['seen/aAcc'] == pytest.approx(100 * right / (2 * 32 * 64), abs=0.006)


def test_the_tool_names_the_missing_folder_of_a_domain_before_it_builds_anything(toy):
    line = [QUICK, 'net.pth', '--data', '_base_/datasets/gtav2domains_768x768.py']
    with pytest.raises(SystemExit, match=r"gtav2domains.* reads its data from 'data/cityscapes'.*does not exist"):
        test_tool.main(line)


def test_the_tool_says_what_test_time_augmentation_lacks(toy):
    Path('quickstart').mkdir()
    Path('quickstart/mine.py').write_text(f"_base_ = '{config_root() / QUICK}'\ntta_pipeline = None\n")
    with pytest.raises(SystemExit, match=r'--tta needs tta_pipeline, which quickstart/.* does not have'):
        test_tool.main(['quickstart/mine.py', 'net.pth', '--work-dir', 'out', '--tta'])


def test_images_of_one_name_have_a_prediction_each_where_the_metric_is_mmsegs(toy):
    for kind in ('leftImg8bit', 'gtFine'):
        shutil.copytree(
            toy / f'data/toy_streets/cityscapes/{kind}/val/t', toy / f'data/toy_streets/cityscapes/{kind}/val/u'
        )
    options = ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False', 'log_level=ERROR']
    found = test_tool.main([QUICK, 'net.pth', '--work-dir', 'out', '--out', 'predicted', '--cfg-options', *options])
    assert set(found) == {'mIoU', 'mAcc', 'aAcc'}
    files = sorted(str(path.relative_to('predicted')) for path in Path('predicted').rglob('*.png'))
    assert files == [f'{town}/{k}_leftImg8bit.png' for town in 'tu' for k in (2, 3)]
