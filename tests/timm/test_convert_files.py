"""Reading and writing checkpoints of others, and the tool for it: nothing is run, nothing is lost."""

import subprocess
import sys
import tarfile
from pathlib import Path

import convert_checkpoint
import numpy as np
import pytest
import timm
import torch
from golden_data import authors_state
from since import OTHER_CLASSES
from torch import nn

from timm_stylenorm.convert import SOURCES, read_checkpoint, read_state_dict, write_state_dict


@pytest.fixture(scope='module')
def plain():
    return timm.create_model('resnet18', num_classes=10).state_dict()


@pytest.fixture(scope='module')
def snr():
    return authors_state('net_snr_resnet18')


@pytest.mark.parametrize('nested', ['', 'state_dict', 'model', 'net', 'whatever'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.some(2)
def test_files_come_back_as_they_were_written(tmp_path, plain, nested, suffix):
    path = tmp_path / f'weights{suffix}'
    write_state_dict(path, plain)
    if nested and suffix == '.pth':
        state = torch.load(path, weights_only=True)
        torch.save({nested: state, 'optimizer': {'state': {}, 'param_groups': []}, 'epoch': 3}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.state_dict.keys() == plain.keys()
    assert all(torch.equal(value, plain[key]) for key, value in checkpoint.state_dict.items())
    assert checkpoint.beside == (('optimizer', 'epoch') if nested and suffix == '.pth' else ())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_part_can_be_chosen(tmp_path, plain):
    path = tmp_path / 'two.pth'
    torch.save({'generator': plain, 'discriminator': {'a': torch.ones(1)}}, path)
    assert read_state_dict(path, 'generator').keys() == plain.keys()
    with pytest.raises(ValueError, match=r"generator, discriminator: say which, 'generator' or 'discriminator'"):
        read_state_dict(path)
    with pytest.raises(ValueError, match="no state dict 'gen'"):
        read_state_dict(path, 'gen')


def test_files_that_are_damaged_or_hold_code_are_refused_by_name(tmp_path, plain):
    def refusal(name):
        with pytest.raises((ValueError, FileNotFoundError), match=name) as caught:
            read_state_dict(tmp_path / name)
        return str(caught.value)

    write_state_dict(tmp_path / 'whole.pth', plain)
    write_state_dict(tmp_path / 'whole.safetensors', plain)
    torch.save(plain, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    assert read_state_dict(tmp_path / 'old.pth').keys() == plain.keys()
    for whole in ('whole.pth', 'whole.safetensors', 'old.pth'):
        cut = f'cut_{whole}'
        (tmp_path / cut).write_bytes((tmp_path / whole).read_bytes()[:9999])
        assert 'damaged, cut short' in refusal(cut)
    for name, content in (('empty.pth', b''), ('page.pth', b'<!DOCTYPE html>'), ('text.safetensors', b'oops')):
        (tmp_path / name).write_bytes(content)
        assert 'damaged, cut short' in refusal(name)
    torch.save(nn.Linear(2, 2), tmp_path / 'module.pth')
    assert 'torch.nn.modules.linear.Linear' in refusal('module.pth')
    with tarfile.open(tmp_path / 'ancient.pth.tar', 'w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            archive.addfile(tarfile.TarInfo(name))
    assert 'tar format' in refusal('ancient.pth.tar')
    torch.save([1, 2], tmp_path / 'list.pth')
    assert 'no state dict, but list' in refusal('list.pth')
    assert "did you mean '" in refusal('wholee.pth')


@OTHER_CLASSES
def test_scalars_and_log_buffers_beside_the_weights_do_no_harm(tmp_path, plain, monkeypatch):
    buffer = pytest.importorskip('mmengine.logging').HistoryBuffer([1.0], [1])
    torch.save({'state_dict': plain, 'best': np.float64(0.5), 'loss': buffer}, tmp_path / 'scalar.pth')
    assert read_checkpoint(tmp_path / 'scalar.pth').beside == ('best', 'loss')
    monkeypatch.setitem(sys.modules, 'mmengine', None)  # not needed to read what it wrote
    assert read_state_dict(tmp_path / 'scalar.pth').keys() == plain.keys()


def test_nothing_is_overwritten_or_left_half_written(tmp_path, plain, monkeypatch):
    path = tmp_path / 'weights.pth'
    path.write_text('precious')
    with pytest.raises(FileExistsError, match=r'weights\.pth'):
        write_state_dict(path, plain)
    monkeypatch.setattr(Path, 'write_bytes', lambda path, content: path.write_text('half') and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_state_dict(path, plain, force=True)
    assert path.read_text() == 'precious'
    assert [p.name for p in tmp_path.iterdir()] == ['weights.pth']
    monkeypatch.undo()
    with path.open() as reader:  # whoever reads the old file goes on reading it
        write_state_dict(path, plain, force=True)
        assert reader.read() == 'precious'
    assert read_state_dict(path).keys() == plain.keys()
    with pytest.raises(ValueError, match='neither'):
        write_state_dict(tmp_path / 'weights.bin', plain)


def test_shared_and_transposed_tensors_can_be_written(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    state = {'a.weight': weight, 'b.weight': weight, 'c.weight': weight.T}
    write_state_dict(tmp_path / 'tied.safetensors', state)
    read = read_state_dict(tmp_path / 'tied.safetensors')
    assert all(torch.equal(read[key], value) for key, value in state.items())


def tool(capsys, *args):
    """What the tool prints, or the error it ends with."""
    try:
        convert_checkpoint.main([str(arg) for arg in args])
    except SystemExit as stop:
        return str(stop)
    return capsys.readouterr().out


def test_the_tool_converts_verifies_reports_and_exports(tmp_path, snr, capsys):
    source, ours, theirs = tmp_path / 'snr.pth', tmp_path / 'ours.pth', tmp_path / 'theirs.pth'
    torch.save({'state': {f'module.{key}': value for key, value in snr.items()}, 'ite': 3}, source)
    shown = tool(capsys, source, ours, '--verify', '--report', tmp_path / 'report.txt')
    assert 'snr -> timm: 140 keys mapped, 18 of them renamed; 6 dropped, 0 added, 0 left at init' in shown
    assert 'every key fits resnet18_snr' in shown
    assert "read 'state'; left in the file: ite" in shown
    assert 'module.conv1.weight -> conv1.weight' not in shown
    assert 'module.conv1.weight -> conv1.weight' in (tmp_path / 'report.txt').read_text()
    tool(capsys, ours, theirs, '--export', 'snr')
    assert list(read_state_dict(theirs)) == list(snr)
    assert '--force' in tool(capsys, source, ours)
    assert 'wrote' in tool(capsys, source, ours, '--force', '--to', 'mmseg', '--prefix', 'backbone.')
    assert all(key.startswith('backbone.') for key in read_state_dict(ours))


def test_the_tool_writes_the_plain_network_of_two_batch_norms(tmp_path, capsys):
    source, ours = tmp_path / 'advbn.pth', tmp_path / 'plain.safetensors'
    torch.save({'state_dict': authors_state('net_advbn_resnet18')}, source)
    shown = tool(capsys, source, ours, '--plain', '--verify')
    assert 'every key fits resnet18 (ResNet)' in shown
    assert not any('aux_bn' in key for key in read_state_dict(ours))
    assert tool(capsys, source, '--from', 'snr').endswith('The nearest is advbn.')


def test_the_tool_refuses_what_does_not_go_together(tmp_path, capsys):
    assert 'mmengine reads .pth' in tool(capsys, 'a.pth', 'b.safetensors', '--to', 'mmseg')
    assert '--export goes with none' in tool(capsys, 'a.pth', 'b.pth', '--export', 'snr', '--from', 'snr')
    assert '--verify builds timm models' in tool(capsys, 'a.pth', '--to', 'mmseg', '--verify')
    assert tool(capsys, tmp_path / 'nothing.pth').startswith('there is no checkpoint')


@pytest.mark.slow
def test_the_tool_starts_alone_and_names_its_sources(tmp_path):
    command = [sys.executable, convert_checkpoint.__file__, '--sources']
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert all(name in shown.stdout for name in SOURCES)
