"""timm's private parts: the registry that is written without its decorator, and what `launch` replaces for a while."""

import contextlib
import copy
import dataclasses
import re
import sys
import types

import pytest
import timm
import timm.optim
import timm.task
import torch
from since import older
from timm.models import DefaultCfg, _registry, generate_default_cfgs, get_arch_pretrained_cfgs, register_model
from torch import nn

import timm_stylenorm  # noqa: F401 (registers)
from timm_stylenorm import host, torch_host
from timm_stylenorm.patches import patched

TABLES = {
    name: table
    for name, table in vars(_registry).items()
    if isinstance(table, dict | set) and not name.startswith('__')
}


PATCHES = [pytest.param(patch, id=patch.what[0]) for patch in (*host.script_patches(), *host.safety_patches().values())]


@pytest.fixture
def throwaway(monkeypatch):
    """A module for entrypoints, which timm's registry has forgotten after the test."""
    kept = {name: copy.copy(table) for name, table in TABLES.items()}
    module = types.ModuleType('throwaway.models')
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module
    _registry._module_to_models['models'].difference_update(module.__all__)
    for name, table in TABLES.items():
        table.clear()
        table.update(kept[name])


def fields(entry):
    """All that an entry of the registry holds."""
    if isinstance(entry, DefaultCfg):
        return {**vars(entry), 'cfgs': {tag: fields(cfg) for tag, cfg in entry.cfgs.items()}}
    return vars(entry) if dataclasses.is_dataclass(entry) else getattr(entry, '__name__', entry)


def entries(name):
    """What each table of timm's registry says of an architecture, which is called NAME here."""
    found = {}
    for table, content in TABLES.items():
        keys = [key for key in content if key.partition('.')[0] == name]
        if isinstance(content, set):
            found[table] = sorted(keys)
            continue
        within = [key for key, value in content.items() if isinstance(value, set | dict) and name in value]
        found[table] = {key: fields(content[key]) for key in keys}, within
    return {table: re.sub(rf'\b{name}\b', 'NAME', repr(content)) for table, content in found.items()}


@pytest.mark.parametrize('base', ['resnet50', 'vgg16_bn', 'efficientnet_b0', 'seresnet18'])
def test_names_are_registered_as_timm_would_do_it(base, throwaway):
    name = f'{base}_public'
    cfgs = get_arch_pretrained_cfgs(base)
    throwaway.default_cfgs = generate_default_cfgs(
        {key.replace(base, name): dataclasses.replace(cfg, architecture=name) for key, cfg in cfgs.items()}
    )

    def entrypoint(pretrained=False, **kwargs):
        raise NotImplementedError

    entrypoint.__name__, entrypoint.__module__ = name, throwaway.__name__
    register_model(entrypoint)
    public, ours = entries(name), entries(f'{base}_padain')
    assert {*public} >= {'_model_entrypoints', '_model_default_cfgs', '_model_pretrained_cfgs', '_model_has_pretrained'}
    for table in public:
        assert public[table] == ours[table], table


@pytest.mark.parametrize('patch', PATCHES)
class TestScriptPatches:
    def test_timm_has_what_a_row_names(self, patch):
        assert patch.what
        for name in patch.what:
            assert callable(patch.current(name))

    def test_a_row_is_complete(self, patch):
        assert len(patch.why) > 30
        assert re.fullmatch(r'timm \d+\.\d+\.\d+', patch.since)
        assert re.fullmatch(r'timm \d+\.\d+\.\d+', patch.until)

    def test_it_is_in_place_for_a_while(self, patch):
        own = [patch.current(name) for name in patch.what]
        with contextlib.suppress(InterruptedError), patched({patch: lambda theirs: ('ours', theirs)}):
            assert [patch.current(name) for name in patch.what] == [('ours', theirs) for theirs in own]
            raise InterruptedError
        assert [patch.current(name) for name in patch.what] == own

    def test_all_names_of_one_object_get_one_replacement(self, patch):
        own = [patch.current(name) for name in patch.what]
        with patched({patch: lambda theirs: object()}):
            assert len({patch.current(name) for name in patch.what}) == len({*own})


def test_scripts_find_timms_functions_under_the_names_of_the_table():
    create_model, create_optimizer, create_scheduler, tasks = host.script_patches()
    assert {create_model.current(name) for name in create_model.what} == {timm.create_model}
    assert {create_optimizer.current(name) for name in create_optimizer.what} == {timm.optim.create_optimizer_v2}
    assert {create_scheduler.current(name) for name in create_scheduler.what} == {timm.scheduler.create_scheduler_v2}
    own = {name: getattr(timm.task, name) for name in timm.task.__all__ if name.endswith('Task')}
    own = {kind for kind in own.values() if kind is not timm.task.TrainingTask}
    assert {tasks.current(name) for name in tasks.what} == own
    assert len(tasks.what) == 2 * len(own) > 6


def test_the_model_that_was_compiled_is_found():
    model = nn.Linear(1, 1)
    assert torch_host.within_compiled(torch.compile(model)) is model
    assert torch_host.within_compiled(model) is None


def test_the_last_child_may_have_an_earlier_name_too():
    shared = nn.ReLU()
    assert torch_host.last_child(nn.Sequential(shared, nn.Linear(1, 1), shared)) == ('2', shared)


def test_a_hook_is_removed_from_a_copy():
    def hook(module, args, output):
        raise NotImplementedError

    model = nn.Linear(1, 1)
    model.register_forward_hook(hook)
    twin = copy.deepcopy(model)
    torch_host.remove_forward_hook(twin, hook)
    twin(torch.ones(1))
    with pytest.raises(NotImplementedError):
        model(torch.ones(1))


def test_the_recompile_limit_is_only_raised():
    config = torch._dynamo.config
    name = 'cache_size_limit' if older('torch', '2.6') else 'recompile_limit'
    before = getattr(config, name)
    with config.patch({name: before}):
        torch_host.raise_recompile_limit(before - 1)
        assert getattr(config, name) == before
        torch_host.raise_recompile_limit(before + 1)
        assert getattr(config, name) == before + 1
