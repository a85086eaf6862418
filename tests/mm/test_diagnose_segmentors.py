"""tools/diagnose.py on a segmentor: domains of a config, of the model's own, and folders without labels."""

import pytest
import torch

pytest.importorskip('mmseg')
import diagnose
import prepare_toy_streets
from cli import load_config, parser
from mmengine.registry import MODELS, DefaultScope

MODEL = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
DOMAINS = '_base_/datasets/toy_streets_domains_256x512.py'


@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    """Drawn streets, and a segmentor without training."""
    folder = tmp_path_factory.mktemp('streets')
    prepare_toy_streets.main([str(folder / 'data/toy_streets'), '--train', '2', '--val', '4', '--size', '64x32'])
    torch.manual_seed(0)
    cfg = load_config(parser('').parse_args([MODEL]))
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.save({'meta': {}, 'state_dict': MODELS.build(cfg.model).state_dict()}, folder / 'net.pth')
    return folder


def diagnosed(streets, monkeypatch, source, target, *rest):
    monkeypatch.chdir(streets)
    return diagnose.main(
        [f'{MODEL}=net.pth', source, target, '--out', 'out', '--sites', 'stage1', '--limit', '3', *rest]
    )


def test_domains_of_a_config_are_scored_by_their_labels(streets, monkeypatch):
    found = diagnosed(streets, monkeypatch, f'{DOMAINS}:seen', f'{DOMAINS}:unseen')
    assert found.measure == 'mIoU'
    assert found.images == (3, 3)
    assert found.places[0].module == 'layer1'
    assert (streets / 'out' / 'diagnosis.html').is_file()


@pytest.mark.slow
def test_a_folder_has_no_labels_for_a_segmentor(streets, monkeypatch):
    images = 'data/toy_streets/cityscapes/leftImg8bit/val'
    assert diagnosed(streets, monkeypatch, f'{DOMAINS}:seen', images).measure == 'entropy'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ((f'{DOMAINS}:sean', f'{DOMAINS}:unseen'), "'seen'"),
        ((DOMAINS, f'{DOMAINS}:unseen'), 'name one of seen, unseen'),
        (('nowhere', f'{DOMAINS}:unseen'), 'nowhere'),
    ],
)
def test_a_domain_that_is_not_there_is_refused(streets, monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit):
        diagnosed(streets, monkeypatch, *words)
    assert message in capsys.readouterr().err
