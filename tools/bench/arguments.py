"""The benchmarks' arguments of methods, if they differ from the defaults; the published figures depend on them."""

Arguments = dict[str, list[str]]
_FROM_SCRATCH = ['steps=3', 'step=0.4', 'lower=trainable']  # half of the authors' ascent steps, twice as long
FASHION_MNIST: Arguments = {
    'snr': ['num_classes=10'],  # models would set it themselves, but would draw the heads after the other weights
    # without the last stage, whose maps have one position for 28-pixel images: instance norm would return 0
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
    """The config key of a model that a method belongs to: 'style' or 'recipe'."""
    from timm_stylenorm.recipes import RECIPES

    return 'recipe' if method in RECIPES else 'style'


def words(method: str, arguments: Arguments) -> list[str]:
    """A method on the command line: ['--style', 'padain', 'p=0.05']; [] for 'baseline' and 'adabn'."""
    if method in ('baseline', 'adabn'):
        return []
    return [f'--{place_of(method)}', method, *arguments.get(method, [])]
