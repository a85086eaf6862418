"""What the benchmarks ask of a method where it differs from its defaults; the published figures depend on it."""

Arguments = dict[str, list[str]]
_FROM_SCRATCH = ['steps=3', 'step=0.4', 'lower=trainable']  # half of the authors' ascent steps, twice as long
FASHION_MNIST: Arguments = {
    'snr': ['num_classes=10'],  # as the models themselves would say, but these draw the heads after the other weights
    # not the last stage, whose maps have one position for images of 28 pixels: instance norm leaves 0 of these
    'domainnorm': ["sites=['bn1','layer[123].*.bn?','layer[123].*.downsample.1']"],
    'advbn': _FROM_SCRATCH,
    'debiased': ['styliser=fourier'],
}
TOY_STREETS: Arguments = {
    'padain': ['p=0.05'],
    'snr': ['num_classes=19', 'dense=True'],
    'advbn': _FROM_SCRATCH,
    'debiased': ['styliser=pixel'],
}


def place_of(method: str) -> str:
    """The key of a model that takes a method: 'style' or 'recipe'."""
    from timm_stylenorm.recipes import RECIPES

    return 'recipe' if method in RECIPES else 'style'


def words(method: str, arguments: Arguments) -> list[str]:
    """What a method is on the command line: ['--style', 'padain', 'p=0.05']; nothing for what is no method."""
    if method in ('baseline', 'adabn'):
        return []
    return [f'--{place_of(method)}', method, *arguments.get(method, [])]
