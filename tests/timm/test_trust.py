"""Below torch 2.6, pickled checkpoints are read from trusted folders only; safetensors files always."""

import io
import os
import re
import tarfile

import pytest
import torch
from torch import nn

from timm_stylenorm import trust
from timm_stylenorm.checkpoints import read_state_dict, write_state_dict


@pytest.fixture
def old(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.5.1+cu121')
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    monkeypatch.setattr(trust, '_own', set())


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / 'weights'
    for name in ('net.pth', 'net.safetensors'):
        write_state_dict(folder / name, nn.Linear(2, 2).state_dict())
    return folder


def test_a_pickle_is_refused_with_the_cures_and_safetensors_are_read(old, files):
    with pytest.raises(ValueError, match=r'refused to load .*net\.pth: torch 2\.5\.1.*CVE-2025-32434') as told:
        read_state_dict(files / 'net.pth')
    for cure in ('.safetensors', 'torch >= 2.6', f'STYLENORM_TRUSTED={files}'):
        assert cure in str(told.value)
    assert read_state_dict(files / 'net.safetensors').keys() == {'weight', 'bias'}


@pytest.mark.parametrize('version', ['2.6.0', '2.6.0+cpu', '2.10.1', '3.0.0a0'])
def test_newer_versions_read_it(monkeypatch, files, version):
    monkeypatch.setattr(torch, '__version__', version)
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    assert read_state_dict(files / 'net.pth').keys() == {'weight', 'bias'}


def test_folders_that_are_named_are_trusted_and_no_others(old, files, tmp_path, monkeypatch):
    other = tmp_path / 'weights2'
    write_state_dict(other / 'net.pth', nn.Linear(2, 2).state_dict())
    monkeypatch.setenv(trust.VARIABLE, os.pathsep.join([str(tmp_path / 'absent'), str(files)]))
    assert read_state_dict(files / 'net.pth').keys() == {'weight', 'bias'}
    with pytest.raises(ValueError, match='refused to load'):
        read_state_dict(other / 'net.pth')
    (files / 'link.pth').symlink_to(other / 'net.pth')
    with pytest.raises(ValueError, match='refused to load'):
        read_state_dict(files / 'link.pth')
    trust.trust_folder(other)
    assert read_state_dict(other / 'net.pth').keys() == {'weight', 'bias'}


def test_formats_in_which_code_runs_are_refused_from_everywhere(old, files, monkeypatch):
    monkeypatch.setenv(trust.VARIABLE, '/')
    torch.jit.script(nn.Linear(2, 2)).save(files / 'script.pth')
    with tarfile.open(files / 'ancient.pth', 'w') as archive:
        archive.addfile(tarfile.TarInfo('storages'))
    for name, kind in (('script', 'a TorchScript archive'), ('ancient', 'the tar format')):
        with pytest.raises(ValueError, match=f'refused to load .*{name}.pth: it is .*{kind}'):
            read_state_dict(files / f'{name}.pth')


def test_archives_that_are_damaged_anywhere_are_called_so(old, files, monkeypatch):
    monkeypatch.setenv(trust.VARIABLE, '/')
    content, part = (files / 'net.pth').read_bytes(), files / 'part.pth'
    directory = content.index(b'PK\1\2')
    parts = [half for n in range(1, len(content), 31) for half in (content[:n], content[n:])]
    parts += [content[:n] + bytes([255 - content[n]]) + content[n + 1 :] for n in range(directory, len(content))]
    for kind in ('gz', 'bz2', 'xz'):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode=f'w:{kind}') as archive:
            archive.add(files / 'net.pth', 'net.pth')
        whole = packed.getvalue()
        parts += [whole[:n] for n in range(1, len(whole), 31)]
        parts += [whole[:n] + bytes([255 - whole[n]]) + whole[n + 1 :] for n in range(len(whole))]
    told = []
    for data in parts:
        part.write_bytes(data)
        try:
            trust.check_trusted(str(part), part)  # what it lets pass, torch's own reader tells, in `reading`
        except ValueError as error:
            told.append(str(error))
    assert all(re.match(r'(cannot read|refused to load) .*part\.pth', message) for message in told)
    assert any(re.search(r'cannot read .*part\.pth: damaged', message) for message in told)


def test_downloads_are_refused_before_anything_is_fetched(old, tmp_path, monkeypatch):
    def fetch(url, file, *args):
        torch.save({'weight': torch.ones(1)}, file)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    with pytest.raises(ValueError, match=r'refused to load https://example\.org/net-0123\.pth'):
        trust.load_url('https://example.org/net-0123.pth', str(tmp_path / 'hub'))
    assert not (tmp_path / 'hub').exists()
    monkeypatch.setenv(trust.VARIABLE, str(tmp_path))
    assert trust.load_url('https://example.org/net-0123.pth', str(tmp_path / 'hub'))['weight'] == 1


def test_timms_reader_asks_first(old, files, monkeypatch):
    read = trust.refusing(lambda path, **options: options)
    with pytest.raises(ValueError, match='refused to load'):
        read(str(files / 'net.pth'), map_location='cpu')
    monkeypatch.setenv(trust.VARIABLE, str(files))
    assert read(str(files / 'net.pth'), map_location='cpu') == {'map_location': 'cpu'}
