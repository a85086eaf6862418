"""Protocols on generated trees in their own layouts, with networks whose answers are known."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.evaluation import PROTOCOLS, Options, Running, evaluate, list_protocols, scores
from timm_stylenorm.evaluation.cells import C_BAR
from timm_stylenorm.evaluation.labels import categories, synsets

CORRUPTIONS, EXTRA = tuple(scores.ALEXNET), scores.EXTRA
WORDNET = synsets()


class Oracle(nn.Module):
    """Answers what the first pixel of an image says, in 24 bits: red and green the output, blue whether to be wrong."""

    def __init__(self, outputs=1000, crop_pct=0.95):
        super().__init__()
        self.outputs, self.seen = outputs, []
        self.pretrained_cfg = dict(mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=crop_pct, input_size=(3, 224, 224))
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        pixels = (x * 255).round().long()
        self.seen += list(pixels.to(torch.uint8))
        code = pixels[:, :, 0, 0]
        answer = (code[:, 0] * 256 + code[:, 1] + code[:, 2]) % self.outputs
        return nn.functional.one_hot(answer, self.outputs).float()


def image(answer, wrong=False, size=(224, 224)):
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:8] = np.random.default_rng(answer).integers(256, size=(8, size[1], 3))  # more would take long to write
    pixels[0, 0] = answer // 256, answer % 256, wrong
    return Image.fromarray(pixels)


def write(folder, answers, right, size=(224, 224), name=lambda output: WORDNET[output], suffix='png'):
    """Images of the outputs `answers`, of which so many are answered rightly."""
    for i, output in enumerate(answers):
        place = folder / name(output)
        place.mkdir(parents=True, exist_ok=True)
        image(output, wrong=i >= right, size=size).save(place / f'{i}.{suffix}')


SMALL = Running(batch_size=16)


@pytest.fixture(scope='module')
def imagenet_c(tmp_path_factory):
    """75 parts of 10 images, of which 1, 2, ..., 10, 1, 2, ... are answered rightly; and 20 parts of the extra ones."""
    root = tmp_path_factory.mktemp('c')
    for i, (name, severity) in enumerate((c, s) for c in (*CORRUPTIONS, *EXTRA) for s in range(1, 6)):
        write(root / name / str(severity), [7 * k for k in range(10)], right=1 + i % 10)
    return root


def hand_made_mce(root_right):
    """From the numbers of right images of 10, in the order of the corruptions."""
    return (
        sum(
            sum(100 * (10 - r) / 10 for r in root_right[5 * i : 5 * i + 5]) / 5 / scores.ALEXNET[c]
            for i, c in enumerate(CORRUPTIONS)
        )
        / 15
    )


def test_mce_is_that_of_hand_in_all_digits(imagenet_c, tmp_path):
    clean = tmp_path / 'val'
    write(clean, [7 * k for k in range(10)], right=9)
    result = evaluate(Oracle(crop_pct=1.0), 'imagenet-c', imagenet_c, clean=tmp_path, running=SMALL)
    right = [1 + i % 10 for i in range(95)]
    assert result.scores['mCE'] == pytest.approx(hand_made_mce(right), abs=1e-12)
    assert result.scores['mean_error'] == pytest.approx(sum(100 - 10 * r for r in right[:75]) / 75, abs=1e-12)
    assert result.scores['extra_mean_error'] == pytest.approx(sum(100 - 10 * r for r in right[75:]) / 20, abs=1e-12)
    assert len(result.cells) == 95
    assert result.cells['gaussian_noise/3'] == {'total': 10, 'top1': 3, 'top5': 3, 'damaged': 0}
    relative = [
        (sum(100 - 10 * r for r in right[5 * i : 5 * i + 5]) / 5 - 10) / (scores.ALEXNET[c] - scores.ALEXNET_CLEAN)
        for i, c in enumerate(CORRUPTIONS)
    ]
    assert result.scores['relative_mCE'] == pytest.approx(sum(relative) / 15, abs=1e-12)


def test_a_permuted_table_of_alexnet_would_be_found():
    """All 75 parts differ, so that each entry of the table counts."""
    counts = {f'{c}/{s}': {'total': 80, 'top1': 1 + 5 * i + s} for i, c in enumerate(CORRUPTIONS) for s in range(5)}
    assert len({count['top1'] for count in counts.values()}) == 75
    right = scores.imagenet_c(counts, None)['mCE']
    names = list(scores.ALEXNET)
    for a, b in itertools.pairwise(names):
        swapped = dict(scores.ALEXNET)
        swapped[a], swapped[b] = swapped[b], swapped[a]
        mean = [sum(100 - 100 * counts[f'{c}/{s}']['top1'] / 80 for s in range(5)) / 5 for c in names]
        assert abs(sum(m / swapped[c] for m, c in zip(mean, names, strict=True)) / 15 - right) > 1e-6


def test_what_reaches_the_network_is_the_file_pixel_for_pixel(imagenet_c):
    model = Oracle()
    evaluate(model, 'imagenet-c', imagenet_c, metrics=['mean_error'], options=Options(corruptions=('snow',)))
    files = [p for s in range(1, 6) for p in sorted((imagenet_c / f'snow/{s}').rglob('*.png'))]
    assert len(model.seen) == len(files) == 50
    for seen, file in zip(model.seen, files, strict=True):
        assert np.array_equal(seen.permute(1, 2, 0).numpy(), np.asarray(Image.open(file)))


def test_files_of_another_size_are_named_and_not_resized(tmp_path):
    write(tmp_path / 'snow/1', [3], 1, size=(256, 224))
    with pytest.raises(
        ValueError, match=r"'1/n\d+/0\.png' has 256 x 224 pixels: .* 224 x 224, and are neither resized"
    ):
        evaluate(Oracle(), 'imagenet-c', tmp_path, metrics=['mean_error'])


def test_a_missing_corruption_is_named_before_anything_runs(imagenet_c, tmp_path):
    for name in CORRUPTIONS:
        if name != 'fog':
            (tmp_path / name).symlink_to(imagenet_c / name)
    (tmp_path / 'fog').mkdir()
    for severity in (1, 2, 4, 5):
        (tmp_path / f'fog/{severity}').symlink_to(imagenet_c / f'fog/{severity}')
    model = Oracle()
    with pytest.raises(ValueError, match=r"missing: fog \(1 of 5 severities\).*metrics=\['mean_error'\]"):
        evaluate(model, 'imagenet-c', tmp_path)
    assert not model.seen
    result = evaluate(model, 'imagenet-c', tmp_path, metrics=['mean_error'])
    assert set(result.scores) == {'mean_error'}
    assert result.provenance['missing'] == ['fog (1 of 5 severities)']
    with pytest.raises(ValueError, match=r"unknown metric of imagenet-c: 'mce'.*mCE"):
        evaluate(model, 'imagenet-c', tmp_path, metrics=['mce'])


def test_the_five_archives_of_the_release_may_keep_their_folders(imagenet_c, tmp_path):
    groups = {
        'noise': CORRUPTIONS[:3],
        'blur': CORRUPTIONS[3:7],
        'weather': CORRUPTIONS[7:10],
        'digital': CORRUPTIONS[10:],
        'extra': EXTRA,
    }
    for group, names in groups.items():
        (tmp_path / group).mkdir()
        for name in names:
            (tmp_path / group / name).symlink_to(imagenet_c / name)
    cells = evaluate(Oracle(), 'imagenet-c', tmp_path, options=Options(limit=1)).cells
    assert list(cells) == [f'{c}/{s}' for c in (*CORRUPTIONS, *EXTRA) for s in range(1, 6)]


def test_a_damaged_file_is_named_and_the_rest_counts(tmp_path):
    write(tmp_path, range(4), right=4)
    victim = next((tmp_path / WORDNET[2]).glob('*'))
    victim.write_bytes(victim.read_bytes()[:500])
    with pytest.warns(StyleNormWarning, match=rf'1 files cannot be read and are left out: .*{WORDNET[2]}/2\.png'):
        result = evaluate(Oracle(crop_pct=1.0), 'imagenet', tmp_path)
    assert result.cells['all'] == {'total': 3, 'top1': 3, 'top5': 3, 'damaged': 1}


def test_a_broken_call_goes_on_and_counts_nothing_twice(imagenet_c, tmp_path):
    class Killed(Exception):
        pass

    def stop(name, done, total):
        if name == 'snow/3':
            raise Killed

    options = Options(corruptions=('snow',))
    arguments = dict(metrics=['mean_error'], options=options, store=tmp_path)
    model = Oracle()
    with pytest.raises(Killed):
        evaluate(model, 'imagenet-c', imagenet_c, progress=stop, **arguments)
    model.seen.clear()
    result = evaluate(model, 'imagenet-c', imagenet_c, **arguments)
    assert len(model.seen) == 30
    model.seen.clear()
    assert evaluate(model, 'imagenet-c', imagenet_c, **arguments).cells == result.cells
    assert not model.seen
    with torch.no_grad():
        model.weight += 1  # other weights
    evaluate(model, 'imagenet-c', imagenet_c, **arguments)
    assert len(model.seen) == 50


@pytest.mark.parametrize('letter', ['a', 'r'])
def test_outputs_beside_the_200_classes_take_no_part(letter, tmp_path):
    """The network answers a class that is none of the 200: the best of these counts."""
    names = synsets(letter)
    inside = [WORDNET.index(name) for name in names]
    outside = next(i for i in range(1000) if i not in inside)

    class Beside(Oracle):
        def forward(self, x):
            logits = 0.5 * super().forward(x)
            logits[:, outside] = 1
            return logits

    write(tmp_path / 'a', [inside[0], inside[5], inside[199]], right=2)
    write(tmp_path / 'val', [inside[0], inside[1], outside], right=2)
    result = evaluate(Beside(crop_pct=1.0), f'imagenet-{letter}', tmp_path / 'a', clean=tmp_path)
    assert result.scores == pytest.approx({'top1': 200 / 3, 'top1_clean_subset': 100})
    assert result.provenance['clean']['total'] == 2  # the third is of none of the classes


def test_folders_of_v2_are_numbers_and_not_a_sorted_list(tmp_path):
    write(tmp_path, [2, 10, 100, 999], right=4, size=(300, 260), name=str)
    assert evaluate(Oracle(), 'imagenet-v2', tmp_path).cells['all']['total'] == 4

    class First(Oracle):
        """Reads the number of a flat image, which resizing keeps."""

        def forward(self, x):
            value = (x[:, 0].mean((1, 2)) * 255).round().long()
            return nn.functional.one_hot(value, 1000).float()

    for output in (2, 10, 100):
        Image.new('RGB', (260, 300), (output, 0, 0)).save(tmp_path / str(output) / 'x.png')
        next((tmp_path / str(output)).glob('[0-9].png')).unlink()
    next((tmp_path / '999').glob('*.png')).unlink()
    assert evaluate(First(), 'imagenet-v2', tmp_path).scores['top1'] == 100


def test_classes_that_do_not_fit_the_network_are_an_error(tmp_path):
    write(tmp_path, range(3), right=3, name=lambda output: 'abc'[output])
    assert evaluate(Oracle(outputs=3), 'imagenet', tmp_path).cells['all']['total'] == 3
    with pytest.raises(ValueError, match=r'3 folders of classes, such as .a., and the network has 5 outputs'):
        evaluate(Oracle(outputs=5), 'imagenet', tmp_path)


def cue(root, shape, texture, number, answer):
    (root / shape).mkdir(exist_ok=True)
    image(answer).save(root / shape / f'{shape}{number}-{texture}{number}.png')


def test_shape_bias_counts_decisions_for_shape_or_texture(tmp_path):
    groups = categories()
    output = {name: group[0] for name, group in zip(groups.names, groups.outputs, strict=True)}

    class Sure(Oracle):
        def forward(self, x):
            return 50 * super().forward(x)

    for i, answer in enumerate(['cat', 'cat', 'cat', 'clock', 'dog']):
        cue(tmp_path, 'cat', 'clock', i, output[answer])
    cue(tmp_path, 'cat', 'cat', 9, output['dog'])  # no conflict
    result = evaluate(Sure(), 'cue-conflict', tmp_path)
    assert result.scores == pytest.approx({'shape_bias': 75, 'shape_top1': 60, 'texture_top1': 20})
    image(0).save(tmp_path / 'cat/cat.png')
    with pytest.raises(ValueError, match=r"cat\.png' is no '<shape>N-<texture>M\.png'"):
        evaluate(Sure(), 'cue-conflict', tmp_path)


def test_a_category_has_the_mean_of_its_probabilities(tmp_path):
    """All of the weight on one of 30 dogs is less than half of it on the only knife."""
    groups = categories()
    logits = torch.full((1, 1000), -20.0)
    dog, knife = (groups.outputs[groups.names.index(name)] for name in ('dog', 'knife'))
    logits[0, dog[0]], logits[0, knife[0]] = 3.0, 1.0
    assert len(dog) > 20
    assert groups.names[groups.scores(logits).argmax()] == 'knife'


def test_cifar_c_is_severity_major_and_has_no_mce(tmp_path):
    labels = np.tile(np.arange(6) % 10, 5)
    for name in CORRUPTIONS:
        array = np.stack([np.asarray(image(label, wrong=i // 6 >= 2, size=(32, 32))) for i, label in enumerate(labels)])
        np.save(tmp_path / f'{name}.npy', array)
    np.save(tmp_path / 'labels.npy', labels)
    result = evaluate(Oracle(outputs=10), 'cifar10-c', tmp_path)
    assert result.scores == pytest.approx({'mean_error': 60, 'top1': 40})
    assert [result.cells[f'snow/{s}']['top1'] for s in range(1, 6)] == [6, 6, 0, 0, 0]
    (tmp_path / 'fog.npy').unlink()
    with pytest.raises(ValueError, match='mean_error of cifar10-c is over 15 corruptions'):
        evaluate(Oracle(outputs=10), 'cifar10-c', tmp_path)
    np.save(tmp_path / 'fog.npy', array[:12])
    with pytest.raises(ValueError, match=r'fog\.npy. holds \(12, 32, 32, 3\), expected \(30, 32, 32, 3\)'):
        evaluate(Oracle(outputs=10), 'cifar10-c', tmp_path)


def test_c_bar_wants_its_ten_corruptions_at_their_strengths(tmp_path):
    for name, strengths in C_BAR.items():
        for strength in strengths.split():
            write(tmp_path / name / strength, [1, 2], right=1)
    result = evaluate(Oracle(), 'imagenet-c-bar', tmp_path)
    assert result.scores == {'mean_error': 50, 'top1': 50}
    assert len(result.cells) == 50


def test_other_trees_of_corruptions_and_filters(tmp_path):
    write(tmp_path / '3d/fog_3d/1', [1, 2], right=2)
    write(tmp_path / '3d/flash/1', [1, 2], right=1)
    assert evaluate(Oracle(), 'imagenet-3dcc', tmp_path / '3d').scores == {'mean_error': 25, 'top1': 75}
    write(tmp_path / 'i/Nashville', [1, 2], right=2)
    write(tmp_path / 'i/Toaster', [1, 2], right=1)
    assert evaluate(Oracle(crop_pct=1.0), 'imagenet-instagram', tmp_path / 'i').scores == {'top1': 75, 'mean_error': 25}


def test_objectnet_joins_outputs_and_cuts_the_border(tmp_path):
    maps = tmp_path / 'mappings'
    maps.mkdir()
    (maps / 'folder_to_objectnet_label.json').write_text(json.dumps({'chair_': 'Chair', 'nothing': 'Weight'}))
    (maps / 'objectnet_to_imagenet_1k.json').write_text(json.dumps({'Chair': 'rocker; folding chair', 'Mug': 'mug'}))
    (maps / 'pytorch_to_imagenet_2012_id.json').write_text(json.dumps({'5': 0, '7': 1, '9': 2}))
    (maps / 'imagenet_to_label_2012_v2').write_text('folding chair\nmug\nrocker\n')

    class Corner(Oracle):
        def forward(self, x):
            assert x[:, 0].max() < 0.95, 'the red border is seen'
            value = (x[:, 1].mean((1, 2)) * 255).round().long()
            return nn.functional.one_hot(value, 1000).float()

    for folder, outputs in (('chair_', (5, 9, 7)), ('nothing', (1,))):
        (tmp_path / 'images' / folder).mkdir(parents=True)
        for i, output in enumerate(outputs):
            picture = Image.new('RGB', (226, 226), (255, 0, 0))
            picture.paste(Image.new('RGB', (224, 224), (0, output, 0)), (1, 1))
            picture.save(tmp_path / f'images/{folder}/{i}.png')
    result = evaluate(Corner(), 'objectnet', tmp_path)
    assert result.cells['all'] == {'total': 3, 'top1': 2, 'top5': 3, 'damaged': 0}
    (maps / 'imagenet_to_label_2012_v2').unlink()
    with pytest.raises(FileNotFoundError, match='imagenet_to_label_2012_v2'):
        evaluate(Corner(), 'objectnet', tmp_path)


def test_corruptions_on_the_fly_are_the_same_each_time(tmp_path):
    pytest.importorskip('imagecorruptions')
    write(tmp_path, range(2), right=2, size=(64, 64), name=lambda output: 'ab'[output])
    model = Oracle(outputs=2)
    model.pretrained_cfg['input_size'] = (3, 64, 64)
    runs = []
    for workers in (0, 1):
        model.seen.clear()
        evaluate(
            model, 'corrupted', tmp_path, running=Running(workers=workers),
            options=Options(corruptions=('gaussian_noise', 'brightness')),
        )  # fmt: skip
        runs.append(list(model.seen))
    assert len(runs[0]) == 20
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert not torch.equal(runs[0][0], runs[0][2])


def test_the_subset_of_robustbench_is_that_of_its_list(tmp_path):
    folder = tmp_path / WORDNET[0]
    folder.mkdir()
    for number in (15253, 1, 20685):
        image(0).save(folder / f'ILSVRC2012_val_{number:08d}.png')
    result = evaluate(Oracle(), 'imagenet', tmp_path, options=Options(subset='robustbench'))
    assert result.cells['all']['total'] == 2
    assert result.provenance['subset'] == 'robustbench'
    with pytest.raises(ValueError, match="unknown subset of ImageNet 'robust'"):
        evaluate(Oracle(), 'imagenet', tmp_path, options=Options(subset='robust'))


@pytest.mark.parametrize('protocol', ['fgsm', 'fgsm-ce', 'pgd'])
def test_attacks_lower_the_accuracy_of_a_linear_network(protocol, tmp_path):
    if protocol == 'pgd':
        pytest.importorskip('foolbox')
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    names = 'abc'
    for i in range(12):
        picture = torch.randint(90, 166, (3, 224, 224), dtype=torch.uint8)
        with torch.no_grad():
            mean, std = (
                torch.tensor(v).view(3, 1, 1) for v in (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
            )
            label = int(model((picture / 255 - mean)[None] / std).argmax())
        (tmp_path / names[label]).mkdir(exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / names[label] / f'{i}.png')
    for name in names:
        (tmp_path / name).mkdir(exist_ok=True)
    model.pretrained_cfg = dict(crop_pct=1.0)
    assert evaluate(model, 'imagenet', tmp_path).scores['top1'] == 100
    result = evaluate(model, protocol, tmp_path)
    assert result.scores['top1'] < 50
    assert evaluate(model, protocol, tmp_path).cells == result.cells  # the start of PGD has a seed


def test_the_adversarial_batch_norms_are_chosen_by_name(tmp_path):
    model = timm.create_model('test_resnet_debiased', num_classes=2)
    for module in model.modules():
        if hasattr(module, 'aux_bn'):
            module.aux_bn.weight.data.mul_(-1)
    write(tmp_path, range(2), right=2, size=(64, 64), name=lambda output: 'ab'[output])
    seen = []
    handle = model.fc.register_forward_hook(lambda module, x, y: seen.append(y))
    for bn in ('clean', 'adversarial'):
        assert evaluate(model, 'imagenet', tmp_path, bn=bn).provenance['batch_norms'] == bn
    handle.remove()
    assert not torch.allclose(*seen)
    with pytest.raises(ValueError, match="unknown route 'adv'"):
        evaluate(model, 'imagenet', tmp_path, bn='adv')


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="unknown protocol 'imagenet_c'; did you mean 'imagenet-c'"):
        evaluate(Oracle(), 'imagenet_c', '.')


def test_a_network_must_give_logits(tmp_path):
    write(tmp_path, range(2), right=2)
    with pytest.raises(ValueError, match=r'expected logits \(N, K\) of the network, got a tensor of shape'):
        evaluate(nn.Conv2d(3, 4, 3), 'imagenet', tmp_path)


@pytest.mark.parametrize('name', list_protocols())
def test_a_row_says_what_a_reader_must_know(name):
    row = PROTOCOLS[name]
    assert all((row.title, row.layout, row.paper, row.metrics))
    assert set(row.complete or {}) <= set(row.metrics)


@pytest.mark.parametrize('name', list_protocols())
def test_the_page_has_the_row_of_the_table(name):
    row, page = PROTOCOLS[name], (Path(__file__).parents[2] / 'docs/robustness.md').read_text()
    metrics = ', '.join(f'`{metric}`' for metric in row.metrics)
    said = f'{row.title}: {row.paper}' + (f'; {row.note}' if row.note else '')
    assert f'\n| `{name}` | {metrics} | {said} |\n' in page
