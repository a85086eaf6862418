"""Class activation maps side by side: labels, predictions, targets, and what is refused."""

import re
import shutil

import explain
import numpy as np
import pytest
import timm
import torch
from figures import cams
from mistakes import UserError
from PIL import Image

FOLDERS = ('dog', 'cat', 'bird')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Folders of three classes, and weights of two models."""
    root, rng = tmp_path_factory.mktemp('world'), np.random.default_rng(0)
    for name in FOLDERS:
        (root / 'images' / name).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(256, size=(80, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / 'images' / name / f'{i}.png')
    torch.manual_seed(0)
    for name in ('test_resnet', 'test_resnet_snr'):
        torch.save(timm.create_model(name, num_classes=3).state_dict(), root / f'{name}.pth')
    return root


def line(world, *words, models=('test_resnet', 'test_resnet_snr')):
    images = [] if '--images' in words else ['--images', str(world / 'images')]
    return [*(f'{name}={world / name}.pth' for name in models), *images, '--device', 'cpu', *words]


@pytest.fixture
def drawn(world, monkeypatch, tmp_path):
    """The panels of each model that a command line draws."""

    def draw(*words, **options):
        found = []
        monkeypatch.setattr(cams, 'draw', lambda out, names, columns: found.extend(columns))
        explain.main(line(world, *words, '--out', str(tmp_path / 'x.png'), **options))
        return found

    return draw


@pytest.mark.slow
def test_models_stand_side_by_side_in_a_picture(world, tmp_path, capsys):
    explain.main(line(world, '--out', str(tmp_path / 'cams.png'), '--show', '3', '--cam', 'layercam'))
    assert f'wrote {tmp_path / "cams.png"}' in capsys.readouterr().out
    with Image.open(tmp_path / 'cams.png') as picture:
        assert picture.width > 3 * 150
        assert picture.height > 3 * 150


def test_folders_of_classes_are_labels_in_the_order_of_training(drawn):
    (panels,) = drawn(models=['test_resnet'])
    assert [panel.label for panel in panels] == [f'class {k}' for k in (0, 0, 1, 1, 2, 2)]  # bird, cat, dog
    assert all(panel.target is None for panel in panels)
    assert all(panel.image.shape == (3, *panel.heat.shape) for panel in panels)


def test_a_prediction_is_that_of_the_model_with_its_probability(world, drawn):
    _, panels = drawn('--show', '2')
    net = timm.create_model('test_resnet_snr', num_classes=3).eval()
    net.load_state_dict(torch.load(world / 'test_resnet_snr.pth', weights_only=True))
    data = timm.data.resolve_model_data_config(net)
    with Image.open(world / 'images/bird/0.png') as image, torch.no_grad():
        shares = net(timm.data.create_transform(**data)(image)[None]).softmax(1)[0]
    assert panels[0].predicted == f'class {int(shares.argmax())}'
    assert panels[0].share == pytest.approx(shares.max().item(), abs=1e-4)


def test_the_target_may_be_the_label_or_any_class(drawn):
    for target in ('label', '2'):
        (panels,) = drawn('--target', target, models=['test_resnet'])
        for panel in panels:
            asked = panel.label if target == 'label' else 'class 2'
            assert panel.target == (None if panel.predicted == asked else asked)


def test_labels_on_the_command_line_win_and_folders_of_other_things_are_none(world, drawn):
    (panels,) = drawn('--labels', *'012012', models=['test_resnet'])
    assert [panel.label for panel in panels] == [f'class {k}' for k in (0, 1, 2, 0, 1, 2)]
    (panels,) = drawn('--images', str(world / 'images/dog'), models=['test_resnet'])
    assert [panel.label for panel in panels] == [None, None]
    files = [str(world / f'images/{name}/1.png') for name in ('dog', 'cat')]
    (panels,) = drawn('--images', *files, models=['test_resnet'])
    assert [panel.label for panel in panels] == ['class 2', 'class 1']


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--layer', 'stage9'], "no site 'stage9'; did you mean 'stage4'"),
        (['--cam', 'gradcma'], "did you mean 'gradcam'"),
        (['--target', '3'], 'class 3: the network has 3 outputs, 0 to 2'),
        (['--target', 'dog'], "class 'dog': give the number"),
        (['--labels', '1'], '--labels: 1 classes for 6 images'),
        (['--names', 'one'], '--names: 1 names for 2 models'),
        (['--out', 'no/x.png'], "no folder 'no'"),
        (['--images', 'nothing'], "unknown folder 'nothing'"),
    ],
)
def test_mistakes_are_told_in_a_line(world, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        explain.main(line(world, *words))
    assert not list(tmp_path.iterdir())


def test_a_damaged_image_and_a_target_without_labels_are_told(world, tmp_path):
    (tmp_path / 'broken.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'cannot read the image .*broken\.png'):
        explain.main(line(world, '--images', str(tmp_path), '--out', str(tmp_path / 'x.png')))
    with pytest.raises(UserError, match='--target label: the labels are not known'):
        explain.main(line(world, '--images', str(world / 'images/dog'), '--target', 'label'))


def test_models_of_the_same_name_are_told_apart_by_their_folder(world, tmp_path):
    import networks

    words = []
    for run in ('one', 'two'):
        (tmp_path / run).mkdir()
        shutil.copy(world / 'test_resnet.pth', tmp_path / run / 'last.pth')
        words.append(f'test_resnet={tmp_path / run}/last.pth')
    found = networks.networks(explain.parse_args([*words, '--images', 'x', '--device', 'cpu']))
    assert [one.name for one in found] == ['test_resnet (one/last.pth)', 'test_resnet (two/last.pth)']


def test_the_help_names_every_kind_of_map(capsys):
    from timm_stylenorm.evaluation.cams import CAMS

    with pytest.raises(SystemExit):
        explain.parse_args(['--help'])
    text = capsys.readouterr().out
    assert all(re.search(rf'{re.escape(name)}[ ,;]', text) for name in CAMS)


def test_imagenet_classes_are_known_by_name():
    from networks import class_number

    names = ('tench', 'golden retriever')
    assert class_number('golden retriever', names, 2) == 1
    with pytest.raises(ValueError, match="did you mean 'golden retriever'"):
        class_number('golden retriver', names, 2)
