"""`--style` and `--recipe`: what the words after them mean, and what is said of wrong ones."""

import pytest

from timm_stylenorm.errors import unknown
from timm_stylenorm.options import key_values, read_recipe, read_style, slug


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        ([], {}),
        (['p=0.05', "sites=('stage1', 'stage3')"], {'p': 0.05, 'sites': ('stage1', 'stage3')}),
        (['sites=layer1.*', 'mix=random'], {'sites': 'layer1.*', 'mix': 'random'}),
        (['a=b=c', 'empty='], {'a': 'b=c', 'empty': ''}),
        (['frozen=True', 'num_classes=None'], {'frozen': True, 'num_classes': None}),
    ],
)
def test_values_are_literals_where_they_can_be(words, expected):
    assert key_values(words) == expected


def test_one_style_is_a_dict_several_are_a_list():
    assert read_style([]) is None
    assert read_style([['mixstyle', 'alpha=0.3']]) == {'type': 'mixstyle', 'alpha': 0.3}
    assert read_style([['ibn_a'], ['padain', 'p=1']]) == [{'type': 'ibn_a'}, {'type': 'padain', 'p': 1}]


def test_a_recipe_is_a_dict():
    assert read_recipe(None) is None
    assert read_recipe(['advbn', 'steps=3', 'lower=trainable']) == {'type': 'advbn', 'steps': 3, 'lower': 'trainable'}


@pytest.mark.parametrize(
    ('read', 'error', 'text'),
    [
        (lambda: read_style([['padian']]), ValueError, "did you mean 'padain'"),
        (lambda: read_style([['padain', 'q=1']]), TypeError, "unknown argument of style method 'padain': 'q'"),
        (lambda: read_style([['padain', 'a.py']]), ValueError, "--style padain: expected KEY=VALUE, got 'a.py'"),
        (lambda: read_recipe(['advnb']), ValueError, "did you mean 'advbn'"),
        (lambda: read_recipe(['advbn', 'stpes=1']), TypeError, "did you mean 'steps'"),
        (lambda: read_recipe(['advbn', 'lower=melted']), ValueError, 'melted'),
    ],
)
def test_wrong_words_are_named(read, error, text):
    with pytest.raises(error) as caught:
        read()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ('style', 'recipe', 'expected'),
    [
        (None, None, ''),
        ('padain', None, 'padain'),
        ({'type': 'mixstyle', 'alpha': 0.3}, None, 'mixstyle-alpha0.3'),
        ([{'type': 'ibn_a'}, 'padain'], {'type': 'advbn', 'steps': 3}, 'ibn_a_padain_advbn-steps3'),
        ({'type': 'snr', 'sites': ('stage1', 'layer?.*')}, None, 'snr-sites-stage1-layer'),
    ],
)
def test_every_style_has_a_name_for_files(style, recipe, expected):
    assert slug(style, recipe) == expected


def test_up_to_twenty_known_names_are_shown_and_more_are_counted():
    names = [f'n{i}' for i in range(21)]
    assert unknown('thing', 'x', names[:20]).endswith(f'Known: {", ".join(sorted(names[:20]))}.')
    assert unknown('thing', 'x', names).endswith('21 are known.')
