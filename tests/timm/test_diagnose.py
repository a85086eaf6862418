"""What of a drop is style: planted shifts, a shift that is none, and the tool on folders."""

import json
import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import timm_stylenorm
from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.evaluation import diagnose
from timm_stylenorm.evaluation.diagnosis_report import told, write_diagnosis
from timm_stylenorm.evaluation.places import find_places, looking
from timm_stylenorm.evaluation.seen import Seen, draws_of
from timm_stylenorm.surgery.listing import methods_at

CLASSES, SIZE = 4, 16


def gratings(count, seed):
    """Images of stripes in one of four directions, and their directions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing='ij')
    angle = labels.view(-1, 1, 1) * math.pi / CLASSES
    phase = 6.3 * torch.rand(count, 1, 1, generator=generator)
    waves = torch.sin(1.2 * (rows * angle.sin() + columns * angle.cos()) + phase)[:, None]
    strength = 0.5 + torch.rand(count, 3, 1, 1, generator=generator)
    noise = 0.7 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return waves * strength + noise, labels


class Net(nn.Module):
    """Three stages, in the last of which the target may be shifted."""

    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        widths = (3, 8, 16, 16)
        for i in (1, 2, 3):
            conv = nn.Conv2d(widths[i - 1], widths[i], 3, 1 if i == 1 else 2, 1, bias=False)
            setattr(self, f'layer{i}', nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(widths[i]), nn.ReLU())))
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    net, (images, labels) = Net(), gratings(512, 1)
    optimizer = torch.optim.AdamW(net.parameters(), 0.02)
    for step in range(60):
        rows = torch.arange(64) + 64 * (step % 8)
        loss = F.cross_entropy(net(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


class Shifted:
    """Batches of a domain, in which `shifting[0]` tells a hook whether it is the target."""

    def __init__(self, batches, shifting, value):
        self.batches, self.shifting, self.value = batches, shifting, value

    def __iter__(self):
        self.shifting[0] = self.value
        yield from self.batches


def batches_of(count, seed, change=lambda x: x):
    images, labels = gratings(count, seed)
    return list(zip(change(images).split(64), labels.split(64), strict=True))


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_a_planted_affine_shift_is_found_at_its_stage_and_undone(net, stage):
    generator = torch.Generator().manual_seed(stage)
    module, shifting = net.get_submodule(f'layer{stage}'), [False]
    width = module[0][0].out_channels
    scale = (torch.rand(width, generator=generator) * 3 + 0.1).view(1, -1, 1, 1)
    shift = 4 * torch.randn(width, generator=generator).view(1, -1, 1, 1)
    handle = module.register_forward_hook(lambda m, args, y: y * scale + shift if shifting[0] else y)
    source, target = (Shifted(batches_of(192, seed), shifting, seed == 3) for seed in (2, 3))
    found = diagnose(net, source, target)
    handle.remove()
    best = found.ranked[0]
    assert found.measure == 'accuracy'
    assert found.drop.value > 20
    assert best.site == f'stage{stage}'
    assert best.share.value > 90
    assert best.domain_probe > 95
    assert f'at stage{stage}' in found.verdict
    assert 'Most of the drop is style' in found.verdict
    assert all(place.domain_probe < 70 for place in found.places if place.site < best.site)


def shuffled(images, block=8):
    """Pixels in another order within blocks: statistics of channels stay, shapes go."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(block * block, generator=generator)
    _n, c = images.shape[:2]
    parts = F.unfold(images, block, stride=block).unflatten(1, (c, block * block))[:, :, order]
    return F.fold(parts.flatten(1, 2), (SIZE, SIZE), block, stride=block)


def test_pixels_shuffled_within_blocks_are_no_style(net):
    found = diagnose(net, batches_of(192, 2), batches_of(192, 3, shuffled))
    assert found.drop.value > 20
    assert 'Little of the drop is style' in found.verdict
    assert 'little can be regained' in found.verdict


def test_nothing_is_regained_where_nothing_is_lost(net):
    found = diagnose(net, batches_of(192, 2), batches_of(192, 3))
    assert 'nothing to regain' in found.verdict
    assert all(place.share is None and place.domain_probe < 70 for place in found.places)


def test_without_labels_the_entropy_tells(net):
    source, target = ([images for images, _ in batches_of(192, 2, c)] for c in (lambda x: x, lambda x: 0.1 * x + 1))
    found = diagnose(net, source, target, sites=['input'])
    (place,) = found.places
    assert found.measure == 'entropy'
    assert found.target.value > found.source.value
    assert place.share.value > 90
    assert 0 <= place.agreement < 100


def test_the_model_stays_as_it_is(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    diagnose(net, batches_of(64, 2), batches_of(64, 3), sites=['stage1'])
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.eval()


def test_batches_that_end_after_one_pass_are_refused(net):
    with pytest.raises(ValueError, match='only once'):
        diagnose(net, iter(batches_of(64, 2)), batches_of(64, 3))


def test_an_unknown_site_is_refused_before_anything_runs(net):
    with pytest.raises(ValueError, match='stage9'):
        diagnose(net, None, None, sites=['stage9'])


def test_a_module_that_does_not_run_is_refused(net):
    net.spare = nn.Conv2d(3, 8, 3)
    with pytest.raises(ValueError, match=r"'spare'.*does not run"):
        find_places(net, ['spare'])
    del net.spare


@pytest.mark.parametrize('name', ['resnet18', 'swin_tiny_patch4_window7_224', 'vit_tiny_patch16_224'])
def test_places_are_what_the_network_passes_on(name):
    size = {} if name == 'resnet18' else {'img_size': 64, 'window_size': 2} if 'swin' in name else {'img_size': 64}
    model = timm.create_model(name, **size).eval()
    images, shapes = torch.rand(2, 3, 64, 64), {}
    places = find_places(model)
    with torch.no_grad():
        plain = model(images)
        with looking(places, lambda place, x: shapes.update({place: x.shape[:2]})):
            assert torch.equal(model(images), plain)
        with looking(places[1:2], lambda place, x: x * 2):
            assert not torch.allclose(model(images), plain)
    assert [shapes[place.name] for place in places] == [(2, place.site.channels) for place in places]


def test_methods_at_a_site_are_those_whose_layers_stand_there():
    model = timm.create_model('resnet18')
    places = {place.name: place.path for place in find_places(model)}
    found = {site: {entry.method: entry for entry in entries} for site, entries in methods_at(model, places).items()}
    assert found['stage1']['mixstyle'].sites == ()
    assert found['stage4']['mixstyle'].sites == ('stage4',)
    assert found['stage1']['bin'].sites == ()
    assert 'bin' not in found['input']
    assert any('num_classes=K' in need for need in found['stage2']['snr'].needs)
    timm_stylenorm.add_style(model, 'mixstyle', sites=found['stage4']['mixstyle'].sites)


def test_the_score_of_dense_labels_is_the_mean_iou_over_classes_that_occur():
    logits = torch.tensor([[[3.0, 0, 0, 0]], [[0, 3.0, 3.0, 0]], [[0, 0, 0, 3.0]], [[0, 0, 0, 0]]])
    label = torch.tensor([[0, 1, 2, 255]])
    seen = Seen()
    seen.add([(logits, label)])
    (score,) = seen.score(draws_of(1, 0)[:1]).tolist()
    assert seen.dense
    assert score == pytest.approx(100 * (1 + 1 / 2 + 0) / 3)


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r'\(2, 2\).*\(1, 4\)'):
        Seen().add([(torch.zeros(3, 1, 4), torch.zeros(2, 2))])


def test_reports_hold_what_was_found(net, tmp_path):
    found = diagnose(net, batches_of(64, 2), batches_of(64, 3, lambda x: 0.1 * x + 1))
    files = write_diagnosis(found, tmp_path)
    content = json.loads(files[0].read_text())
    assert [file.name for file in files] == ['diagnosis.json', 'diagnosis.png', 'diagnosis.html']
    assert content['verdict'] == found.verdict
    assert content['ranking'][0] == 'input'
    assert content['places'][0]['matched']['value'] == found.places[0].matched.value
    assert Image.open(files[1]).size[0] > 500
    page = files[2].read_text()
    assert found.verdict in page
    assert page.count('<tr>') == 2 + len(found.places) + sum(len(p.methods) for p in found.places)
    assert found.verdict in told(found)
    assert 'methods that act at input' in told(found)


@pytest.fixture
def folders(tmp_path, net):
    """A source and a target of images in folders of classes, and the weights of a network of timm."""
    for domain, seed, change in (('source', 2, 1.0), ('target', 3, 0.2)):
        images, labels = gratings(24, seed)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            pixels = ((image * change * 0.2 + 0.5).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
            file = tmp_path / domain / 'abcd'[label] / f'{i}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels)).save(file)
    torch.save(timm.create_model('test_resnet', num_classes=4).state_dict(), tmp_path / 'weights.pth')
    return tmp_path


def run_tool(folders, *rest, target='target'):
    from diagnose import main

    words = [f'test_resnet={folders / "weights.pth"}', str(folders / 'source'), str(folders / target)]
    return main([*words, '--num-classes', '4', '--out', str(folders / 'out'), *rest])


def test_the_tool_diagnoses_folders_of_classes(folders, capsys):
    (folders / 'target' / 'a' / 'broken.png').write_bytes(b'no image')
    with pytest.warns(StyleNormWarning, match=r'1 files cannot be read.*broken.png'):
        found = run_tool(folders, '--sites', 'input', 'stage1')
    assert found.measure == 'accuracy'
    assert found.images == (24, 24)
    assert found.provenance['weight_hash']
    assert (folders / 'out' / 'diagnosis.html').is_file()
    assert found.verdict in capsys.readouterr().out


def test_the_tool_takes_a_target_without_labels(folders):
    flat = folders / 'flat'
    flat.mkdir()
    for i, file in enumerate(sorted((folders / 'target').glob('*/*.png'))):
        file.rename(flat / f'{i}.png')
    assert run_tool(folders, '--sites', 'input', target='flat').measure == 'entropy'


def test_the_tool_says_which_folder_is_missing(folders, capsys):
    with pytest.raises(SystemExit):
        run_tool(folders, target='nowhere')
    assert 'nowhere' in capsys.readouterr().err
