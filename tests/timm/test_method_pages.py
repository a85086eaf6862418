"""Every method and recipe has a page with the table of paper, authors' code and this package."""

import re
from pathlib import Path

import pytest

from timm_stylenorm.methods import ROWS
from timm_stylenorm.recipes import RECIPES

FOLDER = Path(__file__).parents[2] / 'docs/methods'
PAGES = {path.name: path.read_text() for path in sorted(FOLDER.glob('*.md')) if path.name != 'README.md'}
WITHOUT = {'dual_bn': 'the norms of two recipes', 'shape_biased': 'debiased', 'texture_biased': 'debiased'}


@pytest.mark.parametrize('name', [name for name in {**ROWS, **RECIPES} if name not in WITHOUT])
def test_a_method_has_one_page_that_names_it_in_its_title(name):
    assert len([page for page, text in PAGES.items() if f'`{name}`' in text.partition('\n')[0]]) == 1


@pytest.mark.parametrize('page', PAGES)
def test_a_page_has_the_table_and_stands_in_the_index(page):
    title, _, text = PAGES[page].partition('\n')
    assert f'[{title.removeprefix("# ")}]({page})' in (FOLDER / 'README.md').read_text()
    assert "\n| | paper | authors' code | here |\n" in text
    rows = re.findall(r'^\|.*\|$', text, re.MULTILINE)
    assert {row.count('|') for row in rows} == {5}, 'a row of the table lacks a cell'
    assert re.search(r'arXiv:\d{4}\.\d{4,5}', text)


@pytest.mark.parametrize('page', PAGES)
def test_configs_that_a_page_names_exist(page):
    configs = Path(__file__).parents[2] / 'configs'
    for name in re.findall(r'`([\w-]+\.py)[ `]', PAGES[page]):
        assert list(configs.rglob(name)), name
