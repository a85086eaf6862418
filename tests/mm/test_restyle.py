"""`--style` and `--recipe` of the tools: the model, what a method needs beside it, and the config that a run leaves."""

import pytest
import torch

pytest.importorskip('mmseg')
import cli
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from test_configs import EXAMPLES, QUICK
from torch import nn

from timm_stylenorm import style_layers
from timm_stylenorm.layers import BatchInstanceNorm2d
from timm_stylenorm.methods import ROWS
from timm_stylenorm.runner.configs import config_root
from timm_stylenorm.runner.restyle import COMPANIONS, put_style
from timm_stylenorm.runner.styled import StyledModel

FASHION = 'classification/resnet18_1xb64-500_fashion-mnist.py'


@MODELS.register_module()
class Plain(BaseModel):
    """A model of nobody's scope."""

    def __init__(self, width=4, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))

    def loss(self, inputs, data_samples):
        return {'loss': self.backbone(inputs).mean()}

    def forward(self, inputs, data_samples=None, mode='loss'):
        return self.loss(inputs, data_samples)


def load(*line):
    return cli.load_config(cli.parser('').parse_args([*line]))


def build(cfg):
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('name', EXAMPLES)
def test_the_examples_say_what_the_command_line_says(name):
    method = name.split('_')[2]
    option = ['--recipe', method, 'cut=stage1', 'steps=6'] if method == 'advbn' else ['--style', method]
    example, ours = Config.fromfile(config_root() / name), load(name.replace(f'_{method}_', '_'), *option)
    for cfg in (example, ours):
        cfg.model.update(pretrained=None)
        cfg.model.backbone.update(depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type='BN'))
        cfg.model.decode_head.update(in_channels=64, c1_in_channels=8, channels=8, norm_cfg=dict(type='BN'))
        cfg.model.auxiliary_head.update(in_channels=32, channels=8, norm_cfg=dict(type='BN'))
    theirs, own = build(example), build(ours)
    assert {k: v.shape for k, v in own.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    texts = [[(label, repr(layer)) for label, layer in style_layers(model)] for model in (own, theirs)]
    assert texts[0] == texts[1]
    for cfg in (example, ours):
        for key in ('style', 'recipe'):
            cfg.model.pop(key, None)
        for key in ('launcher', 'work_dir'):
            cfg.pop(key, None)
    assert ours.to_dict() == example.to_dict()


def test_several_styles_and_a_recipe_go_together():
    line = '--style snr reduction=8 --style mixstyle alpha=0.3 --recipe advbn steps=1'
    cfg = load(QUICK, *line.split())
    assert cfg.model.type == 'StyleNormEncoderDecoder'
    labels = [label.partition('.')[0] for label, _ in style_layers(build(cfg))]
    assert {'snr', 'mixstyle', 'advbn'} <= {*labels}
    assert cfg.work_dir.endswith('_toy-streets_snr-reduction8_mixstyle-alpha0.3_advbn-steps1')


def test_the_model_tells_its_classes():
    heads = [layer.head for _, layer in style_layers(build(load(QUICK, '--style', 'snr')))]
    assert [head.out_features for head in heads] == [19, 19, 19]
    heads = [layer.head for _, layer in style_layers(build(load(FASHION, '--style', 'snr')))]
    assert [head.out_features for head in heads] == [10, 10, 10]


def test_a_style_takes_the_place_of_the_one_in_the_config():
    cfg = load('quickstart/deeplabv3plus_r18-small_snr-maxsquare_1xb4-240_toy-streets.py', '--style', 'dsu')
    assert (cfg.model.type, cfg.model.style) == ('MaxSquareUDA', {'type': 'dsu'})


def test_any_other_model_is_wrapped_with_its_keys_where_they_were():
    cfg = Config({'model': {'type': 'Plain', 'width': 8}, 'custom_imports': {'imports': 'os'}})
    put_style(cfg, {'type': 'padain', 'sites': 'convs'})
    assert cfg.model.to_dict() == {
        'type': 'StyleNorm', 'of': 'Plain', 'width': 8, 'style': {'type': 'padain', 'sites': 'convs'},
    }  # fmt: skip
    assert cfg.custom_imports.imports == ['os', 'timm_stylenorm.runner']
    model = build(cfg)
    assert isinstance(model, StyledModel)
    assert [label for label, _ in style_layers(model)] == ['padain.0']
    put_style(cfg, 'mixstyle')
    assert (cfg.model.type, cfg.model.of, cfg.model.style) == ('StyleNorm', 'Plain', 'mixstyle')


def test_a_config_without_a_model_is_refused():
    with pytest.raises(ValueError, match='has none'):
        put_style(Config({'optim_wrapper': {}}), 'mixstyle')


@pytest.mark.parametrize('name', [QUICK, FASHION])
def test_bin_trains_its_gates_faster_and_without_decay(name):
    cfg = load(name, '--style', 'bin')
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BatchInstanceNorm2d(4))
    ours, theirs = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    if 'gates' not in ours:
        ours, theirs = theirs, ours
    assert ours['params'] == [model[1].gate]
    assert (ours['lr'], ours['weight_decay']) == (pytest.approx(10 * theirs['lr']), 0)


def test_isw_gets_a_hook_unless_it_has_one():
    def hooks(*line):
        return [hook for hook in load(*line, '--style', 'isw').custom_hooks if hook['type'] == 'ISWHook']

    whole = [{'type': 'LoadImageFromFile'}, {'type': 'PackSegInputs'}]
    assert hooks(QUICK) == [{'type': 'ISWHook', 'pipeline': whole}]
    uda = QUICK.replace('1xb8', 'maxsquare_1xb4')
    assert hooks(uda) == [{'type': 'ISWHook'}], 'the source in a pair of data sets has its own transforms'
    assert [hook['begin'] for hook in hooks(QUICK.replace('_1xb', '_isw_1xb'))] == [24]


def test_a_method_that_needs_a_recipe_gets_it():
    assert load(QUICK, '--style', 'advbn', 'steps=2').model.recipe == 'advbn'
    assert load(QUICK, '--style', 'advbn', '--recipe', 'advbn', 'lower=trainable').model.recipe.lower == 'trainable'


def test_every_companion_is_given_by_the_config_or_told_by_the_model():
    named = {companion for method in ROWS.values() for companion in method.companions}
    assert named == {*COMPANIONS, 'classes', 'domains'}


def test_no_two_styles_share_a_work_dir(tmp_path):
    lines = ['', '--style mixstyle', '--style mixstyle alpha=0.3', '--style dsu', '--recipe advbn']
    assert len({load(QUICK, *line.split()).work_dir for line in lines}) == len(lines)
    assert load(QUICK, '--style', 'dsu', '--work-dir', str(tmp_path)).work_dir == str(tmp_path)


def test_the_config_of_a_run_needs_no_option(tmp_path):
    cfg = load(QUICK, '--style', 'snr', "sites=('stage1','stage2')", '--recipe', 'advbn', 'steps=1')
    cfg.dump(tmp_path / 'c.py')
    again = load(str(tmp_path / 'c.py'))
    assert again.to_dict() == cfg.to_dict()
    twice = load(str(tmp_path / 'c.py'), '--style', 'snr', "sites=('stage1','stage2')", '--recipe', 'advbn', 'steps=1')
    assert twice.work_dir == cfg.work_dir


@pytest.mark.parametrize('name', [QUICK, FASHION])
def test_a_model_tells_its_style_once_in_the_log_of_its_run(name, capsys):
    MMLogger.get_instance(f'{name} tells')
    build(load(name, '--style', 'ibn_a'))
    assert capsys.readouterr().out.count('style: ibn_a replaces 6 norms; +0 parameters; losses: none') == 1
    build(load(name))
    assert 'style:' not in capsys.readouterr().out


@pytest.mark.parametrize('line', [['--style', 'padian'], ['--style', 'padain', 'q=1'], ['--recipe', 'advnb']])
def test_a_wrong_name_is_told_before_anything_is_written(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError), match='unknown'):
        load(QUICK, *line)
    assert not [*tmp_path.iterdir()]
