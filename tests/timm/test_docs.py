"""README and docs: tables are those of the code, links lead somewhere, examples run."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from timm_stylenorm.__main__ import BLOCKS, main, updated

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(ROOT.glob('docs/**/*.md'))]
BLOCK = re.compile(r'^```python( title=\S+)?\n(.*?)^```', re.M | re.S)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_code(page):
    text = page.read_text()
    assert text == updated(text), 'python -m timm_stylenorm --update README.md docs/*.md docs/methods/README.md'


def test_every_table_stands_in_some_page():
    texts = [page.read_text() for page in PAGES]
    assert all(any(f'<!-- {name} -->' in text for text in texts) for name in BLOCKS)


def test_tables_are_written_between_their_marks(tmp_path):
    file = tmp_path / 'page.md'
    file.write_text('before\n<!-- kinds -->\nold\n<!-- /kinds -->\nafter\n')
    main(['--update', str(file)])
    text = file.read_text()
    assert text.startswith('before\n<!-- kinds -->\n| what they do')
    assert text.endswith('|\n<!-- /kinds -->\nafter\n')
    assert 'old' not in text


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_pages_name_only_files_that_exist(page):
    text = page.read_text()
    for link in re.findall(r'\]\((?!http)([^)#\s]+)', text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r'(?<![\w/])(?:tools|timm_stylenorm|mmseg_stylenorm)/[\w/]+\.(?:py|sh)', text):
        assert (ROOT / path).exists(), path
    for config in re.findall(r'(?:quickstart|segmentation|classification)/[\w.-]+\.py', text):
        assert (ROOT / 'configs' / config).exists(), config


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_anchors_are_heads_of_the_page_that_they_lead_to(page):
    for link, anchor in re.findall(r'\]\(([^)#\s]*)#([\w-]+)\)', page.read_text()):
        other = page.parent / link if link else page
        heads = re.findall(r'^#+ (.*)$', other.read_text(), re.M)
        assert anchor in {re.sub(r'[^\w -]', '', head).lower().replace(' ', '-') for head in heads}, (link, anchor)


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text()) < 10_000


def examples(page):
    """The Python of a page that is no config, in one piece."""
    code = [code for title, code in BLOCK.findall((ROOT / page).read_text()) if not title and 'import ' in code]
    return '\n'.join(code)


@pytest.mark.parametrize('page', ['README.md', 'docs/usage.md', 'docs/training.md', 'docs/guides.md'])
@pytest.mark.slow
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (80, 60)).save('image.png')
    exec(compile(examples(page), page, 'exec'), {})
    if page.endswith('guides.md'):
        assert Path('mine.onnx').is_file()
        assert torch.load('mine.pth', weights_only=True)
