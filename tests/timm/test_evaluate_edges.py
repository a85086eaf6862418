"""What a measurement must not get wrong: stale counts, odd images and networks, the caller's state, wrong options."""

import json
import warnings

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.evaluation import Options, Running, diagnose, evaluate
from timm_stylenorm.evaluation.cells import Corrupt, class_root
from timm_stylenorm.evaluation.images import read_rgb
from timm_stylenorm.files import json_text


class Always(nn.Module):
    """Says one class, whatever it sees."""

    def __init__(self, answer, classes=4):
        super().__init__()
        self.answer, self.classes = answer, classes

    def forward(self, x):
        return nn.functional.one_hot(torch.full((len(x),), self.answer), self.classes).to(x.dtype)


class Brightness(nn.Module):
    """Class 1 for bright images, else 0."""

    def forward(self, x):
        bright = x.mean((1, 2, 3)) > 0
        return torch.stack([~bright, bright, bright & ~bright, bright & ~bright], 1).to(x.dtype)


def write(path, value=128, size=64, mode='RGB'):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).convert(mode).save(path)


@pytest.fixture
def four(tmp_path):
    """Two images of each of four classes."""
    for name in 'abcd':
        for i in range(2):
            write(tmp_path / 'four' / name / f'{i}.png', 40 * i)
    return tmp_path / 'four'


def small(**options):
    torch.manual_seed(0)
    model = timm.create_model('resnet18', num_classes=4, **options)
    model.pretrained_cfg = {**model.pretrained_cfg, 'input_size': (options.get('in_chans', 3), 64, 64)}
    return model


def top1(model, root, **options):
    return evaluate(model, 'imagenet', root, **options).scores['top1']


def test_counts_are_those_of_the_images_and_not_of_their_names(four, tmp_path):
    store = tmp_path / 'store'
    assert top1(Brightness(), four, store=store) == 25
    for i in range(2):
        write(four / 'b' / f'{i}.png', 255)
    assert top1(Brightness(), four, store=store) == 50


def test_counts_are_those_of_the_network_and_not_of_its_tensors(four, tmp_path):
    store = tmp_path / 'store'
    (four / 'a/0.png').unlink()
    assert top1(Always(0), four, store=store) == pytest.approx(100 / 7)
    assert top1(Always(3), four, store=store) == pytest.approx(200 / 7)
    first = evaluate(small(), 'imagenet', four, store=store)
    second = evaluate(small(act_layer='tanh'), 'imagenet', four, store=store)
    assert first.provenance['weight_hash'] == second.provenance['weight_hash']
    assert len(list(store.glob('imagenet-*'))) == 4


def test_a_repeated_measurement_takes_what_is_stored(four, tmp_path, monkeypatch):
    from timm_stylenorm.evaluation import running

    model = small()
    before = top1(model, four, store=tmp_path)
    monkeypatch.setattr(running.Runner, 'count', None)
    assert top1(model, four, store=tmp_path) == before


def test_grey_images_of_16_bits_are_scaled(tmp_path):
    Image.fromarray(np.full((40, 40), 32768, np.uint16)).save(tmp_path / 'grey.png')
    assert set(np.unique(read_rgb(tmp_path / 'grey.png'))) == {128}


@pytest.mark.parametrize('suffix', ['webp', 'bmp', 'tif', 'PNG'])
def test_images_of_every_kind_are_measured(four, suffix):
    write(four / 'a' / f'more.{suffix}')
    assert evaluate(Always(0), 'imagenet', four).cells['all']['total'] == 9


def test_classes_may_be_called_test_or_val(four):
    (four / 'a').rename(four / 'test')
    assert class_root(four) == four
    assert top1(Always(2), four) == 25


def test_nan_is_no_answer(four):
    model = Always(0)
    model.register_forward_hook(lambda module, args, out: out * float('nan'))
    with pytest.warns(StyleNormWarning, match='the network gave NaN for 8 images'):
        assert evaluate(model, 'imagenet', four).scores == {'top1': 0, 'top5': 0}


@pytest.mark.parametrize('outputs', [1001, 21841])
@pytest.mark.parametrize('protocol', ['imagenet-r', 'imagenet-v2'])
def test_tests_of_imagenets_classes_take_its_1000_outputs(tmp_path, outputs, protocol):
    write(tmp_path / ('n01443537' if protocol == 'imagenet-r' else '1') / 'a.png')
    assert evaluate(Always(1, 1000), protocol, tmp_path).scores['top1'] == 100
    with pytest.raises(ValueError, match=f'with the 1000 outputs of ImageNet, not {outputs}'):
        evaluate(Always(1, outputs), protocol, tmp_path)


def test_options_are_taken_or_refused(tmp_path, four):
    for name in ('fog_3d', 'near_focus'):
        write(tmp_path / 'c' / name / '1' / 'a' / 'x.png', size=224)
    one = evaluate(Always(0, 1), 'imagenet-3dcc', tmp_path / 'c', options=Options(corruptions=('fog_3d',)))
    assert list(one.cells) == ['fog_3d/1']
    with pytest.raises(ValueError, match="unknown corruption 'fog'"):
        evaluate(Always(0, 1), 'imagenet-3dcc', tmp_path / 'c', options=Options(corruptions=('fog',)))
    with pytest.raises(ValueError, match='imagenet-r has no subset to choose'):
        evaluate(Always(0, 1000), 'imagenet-r', four, options=Options(subset='robustbench'))
    with pytest.raises(ValueError, match='imagenet has no corruptions to choose'):
        evaluate(Always(0), 'imagenet', four, options=Options(corruptions=('fog',)))
    with pytest.raises(ValueError, match='limit: expected at least 1, got 0'):
        Options(limit=0)
    with pytest.raises(ValueError, match="batch_size: expected 'auto' or at least 1, got 0"):
        Running(0)


def test_a_part_with_fewer_images_is_missing(tmp_path):
    from timm_stylenorm.evaluation.cells import CORRUPTIONS

    for name in CORRUPTIONS:
        for severity in range(1, 6):
            for folder in ('n01440764', 'n01443537'):
                write(tmp_path / name / str(severity) / folder / 'x.jpg', size=224)
    options = {'metrics': ['mCE'], 'running': Running(batch_size=2)}
    assert evaluate(Always(0, 1000), 'imagenet-c', tmp_path, **options).scores['mCE'] > 0
    (tmp_path / 'fog/3/n01440764/x.jpg').unlink()
    with pytest.raises(ValueError, match=r'missing: fog/3 \(1 of 2 images\)'):
        evaluate(Always(0, 1000), 'imagenet-c', tmp_path, **options)


def test_a_score_that_needs_clean_images_says_so(four):
    with pytest.raises(ValueError, match='top1_clean_subset of imagenet-r needs the clean'):
        evaluate(Always(0, 1000), 'imagenet-r', four, metrics='top1_clean_subset')


def test_clean_images_are_looked_for_before_anything_runs(tmp_path):
    write(tmp_path / 'r/n01443537/a.png')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        evaluate(Always(1, 1000), 'imagenet-r', tmp_path / 'r', clean=tmp_path / 'nowhere', store=tmp_path / 'store')
    assert not (tmp_path / 'store').exists()


@pytest.mark.parametrize('name', ['impulse_noise', 'glass_blur', 'gaussian_noise', 'snow', 'elastic_transform'])
def test_a_corruption_is_drawn_from_its_seed(name):
    pytest.importorskip('imagecorruptions')
    image = torch.randint(256, (3, 40, 40), dtype=torch.uint8)
    first, again, other = (Corrupt(name, 3, seed)(image, 5) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_corruptions_need_32_pixels():
    with pytest.raises(ValueError, match='32 x 32 pixels at least, not 28 x 40'):
        Corrupt('fog', 1, 0)(torch.zeros(3, 28, 40, dtype=torch.uint8), 0)


@pytest.mark.parametrize('protocol', ['imagenet', 'fgsm', 'pgd'])
def test_the_caller_keeps_gradients_modes_and_draws(four, protocol):
    if protocol == 'pgd':
        pytest.importorskip('foolbox')
    model = small().train()
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    evaluate(model, protocol, four)
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize('protocol', ['fgsm', 'pgd'])
def test_attacks_need_no_context_of_gradients(four, protocol, context):
    if protocol == 'pgd':
        pytest.importorskip('foolbox')
    model = small()
    with context():
        evaluate(model, protocol, four)


def test_networks_of_other_kinds_are_measured(four):
    evaluate(small().bfloat16(), 'imagenet', four)
    evaluate(small(in_chans=1), 'imagenet', four)
    model = small()
    model.get_extra_state = lambda: {'a': 1}
    type(model).set_extra_state = lambda self, state: None
    evaluate(model, 'imagenet', four)
    del type(model).set_extra_state


def batches(labels, images=None):
    images = torch.randn(len(labels), 3, 64, 64) if images is None else images
    return [(images, torch.tensor(labels))]


def test_labels_without_a_class_are_refused():
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=f'a label {wrong} for 4 classes'):
            diagnose(small(), batches([0, 1, 2, 3]), batches([0, 1, 2, wrong]))


def test_batches_of_another_kind_are_named():
    for batch, told in (({'image': torch.zeros(1)}, 'dict'), ((torch.zeros(1), 1, 2), '3 items')):
        with pytest.raises(ValueError, match=f'got {told}; give predict='):
            diagnose(small(), [batch], [batch])


def test_a_wrapped_model_and_one_site_by_its_name_are_diagnosed():
    found = diagnose(nn.DataParallel(small()), batches([0, 1, 2, 3]), batches([0, 1, 2, 3]), sites='stage1')
    assert [place.site for place in found.places] == ['stage1']


def test_a_share_of_a_drop_has_an_error_with_few_images():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model, images = small().eval(), torch.randn(8, 3, 64, 64)
        said = model(images).argmax(1).tolist()
        wrong = [(label + (i < 7)) % 4 for i, label in enumerate(said)]
        found = diagnose(model, batches(said, images), batches(wrong, images), sites='stage1')
    assert found.drop.is_clear
    assert np.isfinite(found.places[0].share.error)


def test_json_has_no_nan():
    text = json_text({'a': float('nan'), 'b': [1.5, (float('inf'),)]})
    assert json.loads(text, parse_constant=pytest.fail) == {'a': None, 'b': [1.5, [None]]}
