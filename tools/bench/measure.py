"""The measurements of tools/benchmark.py: layers, training steps, saved maps, graph breaks."""

import inspect
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import timm_stylenorm
from timm_stylenorm import layers
from timm_stylenorm.functional import backend
from timm_stylenorm.methods import METHODS, RECIPE_STYLES
from timm_stylenorm.recipes import LossTerm, Recipe, build_recipe

Step = Callable[[], None]
Cell = dict[str, float]
RECIPES = {
    'advbn': {'type': 'advbn'},
    'advbn, all trains': {'type': 'advbn', 'lower': 'trainable'},
    'debiased, pixel': {'type': 'debiased', 'styliser': 'pixel'},
}
FORMATS = {'NCHW': torch.contiguous_format, 'channels_last': torch.channels_last}


def can_count() -> bool:
    """Whether this torch has the operators whose passes are counted: it is 2.4 or newer."""
    return hasattr(torch.library, 'register_fake')


def layer_classes() -> dict[str, type[nn.Module]]:
    """Layer classes: those of all methods but recipes, by the method's name, then other layers by their own."""
    classes = {name: method.layer for name, method in METHODS.items()}
    idle = [RECIPE_STYLES['advbn'].layer]
    for name in layers.__all__:
        one = getattr(layers, name)
        takes_maps = 'num_features' in inspect.signature(one).parameters and not name.endswith(('1d', '3d'))
        if takes_maps and one not in [*classes.values(), *idle]:
            classes[name] = one
    return classes


def acting(layer: type[nn.Module]) -> dict[str, float]:
    """The arguments with which a layer acts in every call."""
    parameters = inspect.signature(layer).parameters
    return {k: v for k, v in {'p': 1.0, 'active': 0}.items() if k in parameters}


def make(name: str, channels: int, always: bool = True, branch_free: bool = False) -> nn.Module:
    """A layer in training mode; `always` makes it act in every call, `branch_free` is set if it has the argument."""
    torch.manual_seed(0)
    cls = layer_classes()[name]
    free = {'branch_free': True} if branch_free and 'branch_free' in inspect.signature(cls).parameters else {}
    return cls(channels, **(acting(cls) if always else {}), **free).train()


def forward_backward(layer: nn.Module, x: Tensor, g: Tensor) -> Step:
    """One call: y = layer(x), and gradients of x and the parameters for dL/dy = g and for the layer's loss."""
    wanted = [x.requires_grad_(), *layer.parameters()]

    def step() -> None:
        y = layer(x)
        aux = getattr(layer, 'aux', None)
        outputs, grads = ([y], [g]) if aux is None else ([y, aux], [g, torch.ones_like(aux)])
        torch.autograd.grad(outputs, wanted, grads, allow_unused=True)

    return step


def ratios(steps: dict[str, Step], rounds: int, bar: tqdm, clock: Callable[[], float] = time.process_time) -> list:
    """Time of each step but the first, as a ratio to the first step in the same round: (name, cell) pairs.

    All steps take turns in every round; an additional first round warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
            bar.update()
    base, *others = times
    cells = []
    for name in others:
        values = [t / b for t, b in zip(times[name][1:], times[base][1:], strict=True)]
        low, *_, high = quantiles(values, n=10, method='inclusive') if len(values) > 1 else values * 2
        cells.append((name, {'ratio': median(values), 'low': low, 'high': high}))
    return cells


def maps(shape: tuple[int, ...], memory_format: str, device: str = 'cpu') -> tuple[Tensor, Tensor]:
    """An input map and a gradient."""
    torch.manual_seed(0)
    x, g = (torch.randn(shape, device=device).contiguous(memory_format=FORMATS[memory_format]) for _ in range(2))
    return x * 2 + 1, g


def layer_ratios(names: list[str], shape: tuple[int, ...], memory_format: str, rounds: int, bar: tqdm) -> list:
    """Time ratios of layers to `nn.BatchNorm2d` in training mode, forward and backward."""
    x, g = maps(shape, memory_format)
    modules = {'BatchNorm2d': nn.BatchNorm2d(shape[1]), **{name: make(name, shape[1]) for name in names}}
    return ratios({name: forward_backward(module, x, g) for name, module in modules.items()}, rounds, bar)


def compiled_ratios(names: list[str], shape: tuple[int, ...], rounds: int, bar: tqdm) -> list:
    """Time ratios of layers compiled with inductor to the eager `nn.BatchNorm2d`; NCHW."""
    x, g = maps(shape, 'NCHW')
    torch.compiler.reset()
    modules = {'BatchNorm2d': nn.BatchNorm2d(shape[1])}
    modules |= {name: torch.compile(make(name, shape[1]), dynamic=False) for name in names}
    return ratios({name: forward_backward(module, x, g) for name, module in modules.items()}, rounds, bar)


def saved_maps(name: str, shape: tuple[int, ...], memory_format: str, dtype: torch.dtype = torch.float32) -> float:
    """Bytes that a forward pass keeps for the backward, in units of the input map; shared memory counts once."""
    x = maps(shape, memory_format)[0].to(dtype)
    layer = nn.BatchNorm2d(shape[1]) if name == 'BatchNorm2d' else make(name, shape[1])
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x.requires_grad_())
    del y
    return sum(size for place, size in kept.items() if place not in parameters) / x.untyped_storage().nbytes()


def graph_breaks(name: str, always: bool, branch_free: bool = False) -> int:
    """Number of graph breaks in one training call under `torch.compile`."""
    torch.compiler.reset()
    explain = torch._dynamo.explain  # noqa: SLF001 (torch.compiler has no public name for it)
    return len(explain(make(name, 16, always, branch_free))(torch.randn(4, 16, 8, 8)).break_reasons)


def training_step(model: nn.Module, images: Tensor, labels: Tensor, recipe: dict | None = None) -> Step:
    """A step with forward, backward and SGD with momentum, with the style layers' losses, or by a recipe."""
    procedure = build_recipe(recipe) if recipe else Recipe()
    procedure.prepare(model)
    trained = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9)

    def forward_loss(images: Tensor, parts: Sequence[LossTerm]) -> dict[str, Tensor]:
        logits = model(images)
        terms = [part.weight * F.cross_entropy(logits[part.rows], part.target) for part in parts]
        return {parts[0].label('loss'): sum(terms[1:], terms[0]), **timm_stylenorm.style_losses(model, labels)}

    def step() -> None:
        optimizer.zero_grad()
        losses = procedure.losses(model, images, labels, forward_loss)
        sum(losses.values()).backward()
        optimizer.step()

    return step


def step_ratios(names: list[str], arch: str, batch: int, size: int, rounds: int, bar: tqdm) -> list:
    """Time ratios of training steps with each method, acting in every call, or recipe, to the plain model's."""
    torch.manual_seed(0)
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch)
    steps = {'plain': training_step(timm.create_model(arch), images, labels)}
    for name in names:
        style = {'type': name, **acting(METHODS[name].layer)}
        steps[name] = training_step(timm_stylenorm.add_style(timm.create_model(arch), style), images, labels)
    for title, recipe in RECIPES.items():
        steps[title] = training_step(timm.create_model(arch), images, labels, recipe)
    return ratios(steps, rounds, bar)


def cuda_ratios(
    dtype: torch.dtype, names: list[str], shape: tuple[int, ...], memory_format: str, rounds: int, bar: tqdm
) -> list:
    """`layer_ratios` on a GPU by CUDA events, with the plain formula's ratio and the peak memory of one call."""
    x, g = (t.to(dtype) for t in maps(shape, memory_format, 'cuda'))
    modules = {'BatchNorm2d': nn.BatchNorm2d(shape[1]), **{name: make(name, shape[1]) for name in names}}
    steps = {name: forward_backward(module.cuda(), x, g) for name, module in modules.items()}
    origin = torch.cuda.Event(enable_timing=True)
    origin.record()

    def clock() -> float:
        now = torch.cuda.Event(enable_timing=True)
        now.record()
        now.synchronize()
        return origin.elapsed_time(now)

    cells = ratios(steps, rounds, bar, clock)
    with backend.force('plain'):
        plain = dict(ratios(steps, rounds, bar, clock))
    for name, cell in cells:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        steps[name]()
        cell['plain'] = plain[name]['ratio']
        cell['peak'] = (torch.cuda.max_memory_allocated() - before) / x.untyped_storage().nbytes()
    return cells
