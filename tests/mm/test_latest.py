"""Which checkpoint a resumed training goes on from, and what it starts from where there is none."""

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmengine')
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny_runs import config, train

from timm_stylenorm.runner import latest
from timm_stylenorm.runner.checkpoint import load_local
from timm_stylenorm.runner.configs import config_root
from timm_stylenorm.runner.latest import newest_checkpoint

TOOLS = config_root().parent / 'tools'


@HOOKS.register_module()
class NoteStart(Hook):
    """Notes the iteration and the weights that training starts with."""

    priority = 'LOWEST'

    def before_train(self, runner):
        runner.began = runner.iter, runner.model.net[2].weight.detach().clone(), runner._resume


NOTE = {'hooks': [{'type': 'NoteStart'}]}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A run with the checkpoints iter_2, iter_4 and best_acc_iter_4."""
    folder = tmp_path_factory.mktemp('source')
    torch.manual_seed(0)
    train(folder, steps=4, checkpoint={'max_keep_ckpts': 5, 'save_best': 'acc'})
    return folder


@pytest.fixture
def run(source, tmp_path):
    """A copy of it."""
    for path in source.glob('*.pth'):
        os.link(path, tmp_path / path.name)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_4.pth'))
    return tmp_path


def weights(path):
    return torch.load(path)['state_dict']['net.2.weight']


def cut(path):
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def test_resume_in_an_empty_work_dir_starts_from_load_from_as_without_it(source, tmp_path):
    start = source / 'iter_4.pth'
    plain = train(tmp_path / 'plain', steps=2, load_from=str(start), **NOTE)
    resumed = train(tmp_path / 'resumed', steps=2, load_from=str(start), resume=True, **NOTE)
    for runner in (plain, resumed):
        iteration, weight, resume = runner.began
        assert (iteration, resume) == (0, False)
        assert torch.equal(weight, weights(start))
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


def test_resume_prefers_the_work_dir_to_load_from(source, run, tmp_path_factory):
    other = tmp_path_factory.mktemp('other') / 'pretrained.pth'
    torch.save({'state_dict': {}}, other)
    iteration, weight, _ = train(run, steps=6, load_from=str(other), resume=True, **NOTE).began
    assert iteration == 4
    assert torch.equal(weight, weights(source / 'iter_4.pth'))


def test_a_load_from_inside_the_work_dir_or_a_resume_from_is_what_is_resumed(run, source, tmp_path_factory):
    assert train(run, load_from=str(run / 'iter_2.pth'), resume=True, **NOTE).began[0] == 2
    new = tmp_path_factory.mktemp('new')
    options = {'load_from': str(source / 'iter_2.pth'), 'resume_from': str(source / 'iter_2.pth')}
    assert train(new, resume=True, **options, **NOTE).began[0] == 2


@pytest.mark.parametrize('damage', ['missing', 'cut', 'empty'])
def test_a_damaged_or_missing_last_checkpoint_gives_way_to_the_newest_complete_one(run, damage, monkeypatch):
    shown = []
    monkeypatch.setattr(latest, 'print_log', lambda text, *_: shown.append(text))
    if damage == 'missing':
        (run / 'iter_4.pth').unlink()
    else:
        cut(run / 'iter_4.pth')
        if damage == 'empty':
            (run / 'iter_4.pth').write_bytes(b'')
    (run / 'iter_9.pth.part').write_bytes(b'half')
    (run / 'iter_8.pth').write_bytes(b'half')
    assert newest_checkpoint(str(run)) == str(run / 'iter_2.pth')
    (text,) = shown
    assert 'iter_4.pth' in text.partition(';')[0]
    assert f'resuming from {run}/iter_2.pth' in text
    assert train(run, resume=True, **NOTE).began[0] == 2


@pytest.mark.parametrize('note', [None, '', '\x00\x00'])
def test_a_work_dir_without_a_readable_note_gives_its_newest_checkpoint(run, note):
    (run / 'last_checkpoint').unlink()
    if note is not None:
        (run / 'last_checkpoint').write_text(note)
    assert newest_checkpoint(str(run)) == str(run / 'iter_4.pth')


def test_a_work_dir_that_was_moved_gives_its_own_checkpoint(run):
    (run / 'last_checkpoint').write_text('/before/it/moved/iter_2.pth')
    assert newest_checkpoint(str(run)) == str(run / 'iter_2.pth')


def test_a_best_checkpoint_without_optimizer_is_the_last_resort(run):
    for name in ('iter_2.pth', 'iter_4.pth'):
        (run / name).unlink()
    assert newest_checkpoint(str(run)) == str(run / 'best_acc_iter_4.pth')


def test_the_folder_that_the_hook_writes_to_is_searched(run, tmp_path_factory):
    saving = {'out_dir': str(tmp_path_factory.mktemp('store')), 'max_keep_ckpts': 3}
    work = tmp_path_factory.mktemp('work')
    train(work, stop=5, checkpoint=saving)
    (work / 'last_checkpoint').unlink()
    assert train(work, resume=True, stop=4, checkpoint=saving, **NOTE).began[0] == 4
    (own,) = Path(saving['out_dir']).glob('*/iter_2.pth')
    assert train(work, resume=True, load_from=str(own), checkpoint=saving, **NOTE).began[0] == 2


def test_without_any_complete_checkpoint_a_damaged_last_one_is_an_error(tmp_path):
    (tmp_path / 'iter_2.pth').write_bytes(b'half')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    with pytest.raises(ValueError, match=r'cannot read .*iter_2\.pth.*no other complete checkpoint'):
        train(tmp_path, resume=True)


def test_a_file_that_is_cut_off_anywhere_is_called_damaged(source, tmp_path):
    content = (source / 'iter_2.pth').read_bytes()
    for length in range(0, len(content), len(content) // 40):
        for bytes_ in (content[:length], content[length:]) if length else (b'',):
            (tmp_path / 'part.pth').write_bytes(bytes_)
            for read in (load_local, latest.peek):
                with pytest.raises(ValueError, match=r'part\.pth'):
                    read(str(tmp_path / 'part.pth'))


def test_half_of_a_first_checkpoint_or_weights_alone_start_anew(tmp_path):
    (tmp_path / 'iter_2.pth').write_bytes(b'half')
    torch.save({'state_dict': {}}, tmp_path / 'pretrained.pth')
    assert newest_checkpoint(str(tmp_path)) is None
    assert newest_checkpoint(str(tmp_path / 'absent')) is None


def test_resume_from_says_what_is_wrong_with_its_file(run):
    torch.save({'state_dict': torch.load(run / 'iter_2.pth')['state_dict']}, run / 'weights.pth')
    for name, kind, text in (
        ('iter_3.pth', FileNotFoundError, r"iter_3\.pth'.*did you mean .*iter_"),
        ('weights.pth', ValueError, r'cannot resume from .*weights\.pth: it has no meta, message_hub'),
    ):
        with pytest.raises(kind, match=text):
            train(run, resume=True, load_from=str(run / name), resume_from=str(run / name))


def test_a_test_with_resume_in_its_config_uses_load_from(run):
    cfg = config(run, load_from=str(run / 'iter_2.pth'), resume=True)
    cfg.update(test_dataloader=cfg.val_dataloader, test_evaluator=cfg.val_evaluator, test_cfg=dict())
    chosen = []
    runner = Runner.from_cfg(cfg)
    runner.resume = lambda path: chosen.append(path)
    runner.load_or_resume()
    assert chosen == [str(run / 'iter_2.pth')]


def test_all_processes_take_the_choice_of_the_first(run, monkeypatch):
    monkeypatch.setattr(latest, 'is_main_process', lambda: False)
    monkeypatch.setattr(latest, 'broadcast_object_list', lambda data: data.__setitem__(0, str(run / 'iter_2.pth')))
    assert train(run, resume=True, **NOTE).began[0] == 2


@pytest.mark.parametrize('held', [False, True], ids=['empty', 'with a checkpoint'])
@pytest.mark.parametrize('owner', ['ours', 'mmseg'])
def test_resume_of_the_train_scripts(source, run, tmp_path_factory, monkeypatch, owner, held):
    mmseg = pytest.importorskip('mmseg')
    script = {'ours': TOOLS / 'train.py', 'mmseg': Path(mmseg.__file__).parent / '.mim/tools/train.py'}[owner]
    if not script.is_file():
        pytest.skip('mmseg without its tools')
    monkeypatch.syspath_prepend(str(TOOLS))
    work = run if held else tmp_path_factory.mktemp('new')
    config(work, load_from=str(source / 'iter_4.pth'), **NOTE).dump(str(work / 'c.py'))
    began = []
    monkeypatch.setattr(NoteStart, 'before_train', lambda self, runner: began.append(runner.iter))
    monkeypatch.setattr(sys, 'argv', ['train.py', str(work / 'c.py'), '--work-dir', str(work), '--resume'])
    runpy.run_path(str(script), run_name='__main__')
    assert began == [4 if held else 0]
