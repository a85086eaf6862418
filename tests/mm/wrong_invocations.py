"""Mistakes that users make at the command line, as a table, and the folder in which they make them."""

import json
import pickle

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

TINY = """
model = dict(type='StyleNormClassifier', model='resnet18', num_classes=4)
data = dict(type='FashionMNIST', root='fashion', split='test')
loader = dict(batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
              collate_fn=dict(type='default_collate'))
test_dataloader = dict(**loader, dataset=dict(**data))
test_evaluator = dict(type='TopK', topk=(1,))
test_cfg = dict(type='TestLoop')
train_dataloader = dict(**loader, dataset=dict(**data))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]
custom_imports = dict(imports=['timm_stylenorm.classification'])
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))
"""

CONFIGS = {
    'tiny.py': TINY,
    'syntax.py': 'model = (',
    'name.py': 'model = dict(type=resnet)',
    'base.py': "_base_ = 'absent.py'",
    'imports.py': TINY.replace("'timm_stylenorm.classification'", "'absent_module'"),
    'no_model.py': "work_dir = 'w'",
    'no_train.py': TINY.replace('train_dataloader', 'other'),
    'no_test.py': TINY.replace('test_dataloader', 'other'),
    'hook.py': TINY + "custom_hooks = [dict(type='AbsentHook')]\n",
    'notes.txt': 'hello',
}


class Code:
    """What no checkpoint may hold."""

    def __reduce__(self):
        return print, ('run',)


def fill(root):
    """Writes configs, checkpoints, images and data into a folder."""
    for name, text in CONFIGS.items():
        (root / name).write_text(text)
    weights = timm.create_model('resnet18', num_classes=4).state_dict()
    torch.save(weights, root / 'weights.pth')
    held = {
        'list': [1, 2],
        'str': 'weights',
        'number': 3,
        'nested': {'state_dict': [torch.zeros(3)]},
        'values': {'state_dict': {'net.conv1.weight': 'many'}},
        'keys': {1: torch.zeros(3)},
        'foreign': {'state_dict': {'a.weight': torch.zeros(3, 3)}},
    }
    for name, content in held.items():
        torch.save(content, root / f'{name}.pth')
    torch.save(Code(), root / 'code.pth')
    (root / 'pickle.pth').write_bytes(pickle.dumps(Code()))
    (root / 'cut.pth').write_bytes((root / 'weights.pth').read_bytes()[:20_000])
    (root / 'empty.pth').touch()
    (root / 'text.pth').write_text('version https://git-lfs.github.com/spec/v1')
    save_file({'a': torch.zeros(300)}, root / 'whole.safetensors')
    (root / 'cut.safetensors').write_bytes((root / 'whole.safetensors').read_bytes()[:-200])
    (root / 'text.safetensors').write_text('hello')
    for folder in ('folder', 'empty', 'gta5/images', 'gta5/labels', 'jpegs/images', 'jpegs/labels', 'city/gtFine'):
        (root / folder).mkdir(parents=True)
    (root / 'folder' / 'mine.txt').write_text('mine')
    (root / 'jpegs' / 'images' / '1.jpg').touch()
    for folder, count in (('images', 3), ('one', 1)):
        (root / folder).mkdir()
        for i in range(count):
            Image.fromarray(np.full((40, 40, 3), 40 * i, np.uint8)).save(root / folder / f'{i}.png')
    (root / 'broken').mkdir()
    (root / 'broken' / '0.png').write_bytes(b'no image')
    (root / 'vistas').mkdir()
    (root / 'vistas' / 'config.json').write_text('{')
    (root / 'mapping.json').write_text(json.dumps(['Bird']))
    (root / 'damaged').mkdir()
    (root / 'damaged' / 'toy_streets.json').write_text('{')
    fashion = root / 'fashion'
    fashion.mkdir()
    for prefix in ('train', 't10k'):
        for kind, array in (('images-idx3', np.zeros((8, 28, 28))), ('labels-idx1', np.arange(8) % 4)):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, '>u4').tobytes()
            (fashion / f'{prefix}-{kind}-ubyte').write_bytes(header + array.astype(np.uint8).tobytes())


BAD_FILES = {  # file -> what is said of it, by all tools that read checkpoints
    'nope.pth': 'there is no checkpoint',
    'folder': 'is a folder',
    'list.pth': 'holds no (weights|state dict)',
    'str.pth': 'holds no (weights|state dict)',
    'number.pth': 'holds no (weights|state dict)',
    'nested.pth': 'holds no weights|no state dict',
    'values.pth': 'values.pth',
    'keys.pth': 'keys.pth|tensors',
    'code.pth': 'could run code',
    'pickle.pth': 'damaged, cut short, or no checkpoint|could run code',
    'cut.pth': 'damaged, cut short, or no checkpoint',
    'empty.pth': 'damaged, cut short, or no checkpoint',
    'text.pth': 'damaged, cut short, or no checkpoint',
    'text.safetensors': 'damaged, cut short, or no checkpoint',
    'cut.safetensors': 'damaged, cut short, or no checkpoint',
    'foreign.pth': 'another architecture|no known source|does not fit',
}
OPTIONS = {  # of --cfg-options -> message
    'foo': 'expected KEY=VALUE',
    '=3': 'expected KEY=VALUE',
    'a=(1,2': r'a=\(1,2',
    'train_cfg.max_iters.deep=1': 'train_cfg.max_iters.deep=1',
    'param_scheduler.7.factor=2': 'param_scheduler.7.factor=2',
    'model.type=Absent': 'Absent is not in the',
    'model.model=resnet81': 'timm has no model',
    'model.style=padian': "did you mean 'padain'",
    'model.style.type=snr model.style.sites=stage9': "ResNet has no site 'stage9'",
    'model.style.type=snr model.style.ratio=2': "unknown argument of style method 'snr'",
    'model.styel=snr': "unexpected keyword argument 'styel'",
    'model.recipe=advbm': "did you mean 'advbn'",
    'optim_wrapper.optimizer.type=SGDD': "did you mean 'SGD'",
    'optim_wrapper.optimizer.lr=-1': 'learning rate',
    'train_dataloader.batch_size=0': 'batch_size',
    'train_dataloader.dataset.type=Absent': 'Absent is not in the',
    'train_dataloader.dataset.root=empty': "no 't10k-images-idx3-ubyte'.* in 'empty'",
    'train_dataloader.dataset.root=nowhere': "reads its data from 'nowhere', which does not exist",
}
ROWS = [  # command line -> message
    ('train', 'the following arguments are required'),
    ('train nope.py', "there is no file 'nope.py'"),
    ('train folder', 'is a folder'),
    ('train syntax.py', 'cannot read the config .*syntax.py'),
    ('train name.py', "name 'resnet' is not defined"),
    ('train base.py', 'absent.py'),
    ('train imports.py', 'absent_module'),
    ('train notes.txt', 'notes.txt'),
    ('train no_model.py', 'no_model.py has no model'),
    ('train no_train.py', 'no_train.py has no train_dataloader'),
    ('train hook.py', 'AbsentHook is not in the'),
    ('train tiny.py --seed -1', 'at least 0'),
    ('train tiny.py --seed 5000000000', 'at most 4294967295'),
    ('train tiny.py --launcher pytorch', 'torchrun'),
    ('train tiny.py --style padian', "did you mean 'padain'"),
    ('train tiny.py --style padain p', '--style padain: expected KEY=VALUE'),
    ('train tiny.py --style snr ratio=2', "unknown argument of style method 'snr'"),
    ('train tiny.py --recipe advbm', "did you mean 'advbn'"),
    ('train tiny.py --recipe debiased', 'no encoder of the AdaIN styliser'),
    ('train tiny.py --resume-from nope.pth', 'there is no checkpoint'),
    ('train tiny.py --resume-from weights.pth', 'cannot resume from'),
    ('train tiny.py --work-dir notes.txt', 'notes.txt'),
    ('train tiny.py --nope', 'unrecognized arguments'),
    *((f'train tiny.py --cfg-options {options}', message) for options, message in OPTIONS.items()),
    ('train tiny.py --cfg-options load_from=list.pth', 'list.pth'),
    ('train tiny.py --cfg-options load_from=cut.pth', 'cut.pth'),
    ('train tiny.py --cfg-options model.init_checkpoint=nested.pth', 'nested.pth'),
    ('test tiny.py', 'the following arguments are required'),
    *((f'test tiny.py {file}', message) for file, message in BAD_FILES.items()),
    ('test tiny.py weights.pth --data nope.py', 'nope.py'),
    ('test tiny.py weights.pth --data no_test.py', 'no_test.py has no test_dataloader'),
    ('test no_test.py weights.pth', 'no_test.py has no test_dataloader'),
    ('test tiny.py weights.pth --tta', '--tta needs'),
    ('adapt tiny.py list.pth --out new.pth', 'list.pth'),
    ('adapt tiny.py nope.pth --out new.pth', 'there is no checkpoint'),
    ('adapt tiny.py weights.pth --out list.pth', '--force'),
    ('adapt tiny.py weights.pth --out nowhere/x.pth', 'no folder'),
    ('adapt tiny.py weights.pth --batch-size 0', 'at least 1'),
    ('adapt tiny.py weights.pth --momentum -1', 'at least 0'),
    ('adapt tiny.py weights.pth --max-batches -3', 'at least 1'),
    ('adapt no_test.py weights.pth', 'no_test.py has no test_dataloader'),
    ('check bdd10k data', "did you mean 'bdd100k'"),
    ('check bdd100k nowhere', 'nowhere'),
    ('evaluate resnet5 --protocols imagenet --data .', "did you mean 'resnet"),
    ('evaluate tiny.py --protocols imagenet --data .', 'tiny.py needs its checkpoint'),
    ('evaluate resnet18 --protocols imagenet-c --data nowhere', 'no folder'),
    *((f'evaluate resnet18={file} --protocols imagenet --data .', said) for file, said in BAD_FILES.items()),
    ('pseudo-labels tiny.py weights.pth out', 'names no target images'),
    ('pseudo-labels no_train.py weights.pth out', 'names no target images'),
    ('pseudo-labels tiny.py weights.pth out --stride 0', 'at least 1'),
    ('pseudo-labels tiny.py weights.pth out --threshold 2', 'is a probability'),
    *((f'convert {file}', message) for file, message in BAD_FILES.items()),
    ('convert weights.pth out.txt', 'out.txt'),
    ('convert weights.pth list.pth', '--force'),
    ('convert weights.pth notes.txt/x.pth', 'notes.txt'),
    ('convert weights.pth --from nope', 'unknown source of checkpoints'),
    ('convert weights.pth --to nope', 'unknown target'),
    ('convert weights.pth --export nope', 'unknown source'),
    ('convert weights.pth --from torchvision --verify resnet81', "did you mean 'resnet"),
    ('convert foreign.pth --part nope', 'no state dict'),
    ('convert weights.pth --from torchvision --report nowhere/x.txt', 'nowhere/x.txt'),
    ('prepare gta5 nowhere', 'is not a folder'),
    ('prepare gta5 notes.txt', 'is not a folder'),
    ('prepare gta5 gta5', 'images holds nothing'),
    ('prepare gta5 jpegs', r'images holds \.jpg'),
    ('prepare gta5 gta5 --workers 0', 'at least 1'),
    ('prepare synthia nowhere', 'is not a folder'),
    ('prepare nthu nowhere', 'is not a folder'),
    ('prepare cityscapes nowhere', 'is not a folder'),
    ('prepare cityscapes city', 'is gtFine_trainvaltest.zip unpacked'),
    ('prepare mapillary nowhere', 'has neither'),
    ('prepare mapillary vistas', 'config.json is no JSON file'),
    ('prepare mapillary vistas --mapping mapping.json', 'mapping.json: expected'),
    ('prepare mapillary vistas --mapping notes.txt', 'notes.txt is no JSON file'),
    ('prepare mapillary vistas --mapping nope.json', 'nope.json: no such file, and the mappings by name are robustnet'),
    ('prepare toy-streets folder', 'was not written by this tool'),
    ('prepare toy-streets notes.txt', 'was not written by this tool'),
    ('prepare toy-streets damaged', 'toy_streets.json is no JSON file'),
    ('prepare toy-streets new --size 512', 'expected WIDTHxHEIGHT'),
    ('prepare toy-streets new --train 0', 'at least 1'),
    ('styliser nowhere', 'no image folder'),
    ('styliser empty', 'no image below'),
    ('styliser one', 'one image in'),
    ('styliser images --iters 0', 'at least 1'),
    ('styliser images --device nonsense', '--device nonsense'),
    ('styliser images --out new --encoder-checkpoint nope.pth', 'nope.pth'),
    ('styliser images --out new --encoder-checkpoint list.pth', 'list.pth'),
    ('styliser images --out notes.txt', 'notes.txt'),
    ('diagnose resnet18', 'the following arguments are required'),
    ('diagnose resnet81 images images', "did you mean 'resnet"),
    ('diagnose resnet18=weights.pth images nowhere', "no folder 'nowhere'"),
    ('diagnose resnet18=weights.pth empty images', 'no images in'),
    ('diagnose resnet18=weights.pth images images --sites stage9', "has no site 'stage9'"),
    ('diagnose resnet18=weights.pth images images --limit 0', 'at least 1'),
    ('diagnose tiny.py images images', 'tiny.py needs its checkpoint'),
    ('diagnose tiny.py=weights.pth clean dark', 'names no domains'),
    *((f'diagnose resnet18={file} images images', said) for file, said in BAD_FILES.items()),
    ('explain resnet18 --images nowhere', 'nowhere'),
    ('explain resnet81 --images images', "did you mean 'resnet"),
    ('explain resnet18=weights.pth --images images --layer stage9', "has no site 'stage9'"),
    ('explain resnet18=weights.pth --images images --cam gradcm', "did you mean 'gradcam'"),
    ('explain resnet18=weights.pth --images images --out nowhere/x.png', 'no folder'),
    ('style-statistics resnet18=weights.pth --domains images', 'expected two or more'),
    ('style-statistics resnet18=weights.pth --domains images nowhere', 'nowhere'),
    ('style-statistics resnet81 --domains a=images b=images', "did you mean 'resnet"),
    ('visualize nowhere', 'nowhere'),
    ('visualize empty', 'no image below'),
    ('visualize folder', 'no image below'),
    ('visualize images --methods padian', "did you mean 'padain'"),
    ('visualize images --methods padain:p', 'KEY=VALUE'),
    ('visualize images --model resnet81', "did you mean 'resnet"),
    ('visualize images --model resnet18 --checkpoint list.pth', 'list.pth'),
    ('visualize images --model resnet18 --checkpoint cut.pth', 'cut.pth'),
    ('visualize images --model resnet34 --checkpoint weights.pth', 'weights.pth.* does not fit'),
    ('visualize broken --model resnet18 --checkpoint weights.pth', 'cannot read the image'),
    ('visualize images --out nowhere/x.png', 'no folder'),
    ('visualize images --limit 0', 'at least 1'),
    ('advbn-images nowhere new', 'nowhere'),
    ('advbn-images images images/new --model resnet18 --checkpoint weights.pth', 'must lie beside each other'),
    ('advbn-images images folder --model resnet18 --checkpoint weights.pth', 'is not empty'),
    ('advbn-images images notes.txt --model resnet18 --checkpoint weights.pth', 'notes.txt'),
    ('advbn-images images new --advbn padain', '--advbn'),
    ('advbn-images images new --batch-size 0', 'at least 1'),
    ('methods snrr', "did you mean 'snr'.*`stylenorm methods` lists them"),
    ('methods snr bin', 'unrecognized arguments'),
    ('sites restnet18', "did you mean 'resnet18'"),
    ('sites nope.py', "there is no file 'nope.py'"),
    ('sites syntax.py', 'cannot read the config'),
    ('sites no_model.py', 'has no model'),
    ('configs absent', 'no config has'),
    ('demo --methods padian', "did you mean 'padain'"),
    ('demo --seeds -1', 'at least 0'),
    ('demo --iters 0', 'at least 1'),
    ('compare tiny.py --methods padian', "did you mean 'padain'"),
    ('compare tiny.py --methods baseline:p=1', 'the baseline takes no arguments'),
    ('compare tiny.py --methods padain:q=1', "argument of style method 'padain': 'q'"),
    ('compare tiny.py --seen dark --iters 0', 'at least 1'),
    ('compare nope.py', "there is no file 'nope.py'"),
    ('compare no_test.py', 'no_test.py has no test_dataloader'),
    ('compare no_train.py', 'no_train.py has no train_dataloader'),
    ('benchmark layers --layers padian', "did you mean 'padain'"),
    ('benchmark layers --shapes 3x4', 'expected NxCxHxW'),
    ('benchmark layers --rounds 0', 'at least 1'),
    ('benchmark layers --sections nope', 'invalid choice'),
    ('benchmark layers --quick --update notes.txt', 'has no lines'),
    ('benchmark layers --quick --update nope.md', 'nope.md: No such file'),
    ('benchmark methods --jobs 0', 'at least 1'),
    ('benchmark methods --methods padian', "did you mean 'padain'"),
    ('benchmark methods --seeds x', 'expected a number'),
    ('benchmark adaptation --jobs 0', 'at least 1'),
    ('benchmark adaptation --iters -4', 'at least 1'),
    ('benchmark fashion-mnist --methods padian', "did you mean 'padain'"),
    ('benchmark fashion-mnist --methods padain:p', 'KEY=VALUE'),
    ('benchmark fashion-mnist --methods padain --data nowhere', 'nowhere'),
    ('benchmark fashion-mnist --limit 0', 'at least 1'),
    ('trian tiny.py', "did you mean 'train'"),
    ('prepare', 'needs one more word'),
    ('prepare gta', "did you mean 'prepare gta5'"),
]
