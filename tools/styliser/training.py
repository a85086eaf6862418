"""Training of the AdaIN styliser's decoder: batches, losses, resuming, and output files."""

from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import ImageDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.utils import save_image
from tqdm import tqdm

from timm_stylenorm.checkpoints import reading, save_atomic
from timm_stylenorm.datafiles import drop_hidden
from timm_stylenorm.files import atomic_write, claimed
from timm_stylenorm.functional import adain
from timm_stylenorm.recipes import build_styliser, vgg
from timm_stylenorm.trust import trust_folder
from timm_stylenorm.workers import end_with_parent

DECAY = 5e-5  # decay of the learning rate: lr / (1 + DECAY * iteration)
SAMPLES = 5  # number of images in the picture
SCALING_BATCHES = 32  # batches over which activations are averaged once


class Batches(Dataset[Tensor]):
    """Item i is batch i of a training, (2B, 3, S, S): contents, then styles. It depends only on the seed and i."""

    def __init__(self, images: ImageDataset, args: Any, numbers: range) -> None:
        self.images, self.count, self.seed, self.numbers = images, 2 * args.batch_size, args.seed, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + self.numbers[i])  # torch uses 32 bits of it
            return torch.stack([self.images[j][0] for j in torch.randint(len(self.images), (self.count,)).tolist()])


def open_images(args: Any) -> ImageDataset:
    """The images as random crops.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no image.
        ValueError: the folder holds fewer than two images.
    """
    if not args.images.is_dir():
        raise FileNotFoundError(f'no image folder {str(args.images)!r}')
    steps = [transforms.Resize(2 * args.size), transforms.RandomCrop(args.size), transforms.ToTensor()]
    try:
        images = ImageDataset(str(args.images), transform=transforms.Compose(steps))
        if hasattr(images.reader, 'class_to_idx'):  # other kinds of data sets lack it
            drop_hidden(images.reader, str(args.images))
    except RuntimeError as error:  # raised by timm if there is no image
        raise FileNotFoundError(f'no image below {str(args.images)!r}: {error}') from error
    if len(images) < 2:
        raise ValueError(f'one image in {str(args.images)!r}: a style must come from another one')
    return images


def load(images: ImageDataset, args: Any, numbers: range) -> DataLoader:
    """A data loader of the batches with these numbers, in this order."""
    batches = Batches(images, args, numbers)
    return DataLoader(batches, batch_size=None, num_workers=args.workers, worker_init_fn=end_with_parent)


def open_encoder(args: Any, images: ImageDataset) -> nn.Sequential:
    """The encoder in OUT/vgg_normalised.pth, which is made if it does not exist."""
    file = args.out / 'vgg_normalised.pth'
    if not file.exists():
        if args.encoder_checkpoint:
            network = vgg.load_encoder(args.encoder_checkpoint)
        else:
            network = vgg.encoder()
            network.load_state_dict(vgg.from_vgg19(timm.create_model('vgg19', pretrained=True).state_dict()))
        batches = load(images, args, range(-SCALING_BATCHES, 0))
        vgg.normalise(network.to(args.device), (batch.to(args.device) for batch in batches))
        save_atomic(network.cpu().state_dict(), file)
    return vgg.load_encoder(file).to(args.device)


def losses(encoder: nn.Sequential, decoder: nn.Sequential, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Content loss at relu4_1, against the decoder's input, and style loss of means and deviations at four layers."""
    content, style = batch.chunk(2)
    with torch.no_grad():
        wanted = vgg.features(encoder, style)
        target = adain(encoder(content), wanted[-1])
    made = vgg.features(encoder, decoder(target))
    style_loss = sum(
        F.mse_loss(statistic(a), statistic(b))
        for a, b in zip(made, wanted, strict=True)
        for statistic in (lambda x: x.mean((2, 3)), lambda x: (x.var((2, 3)) + 1e-5).sqrt())
    )
    return F.mse_loss(made[-1], target), style_loss


def resume(args: Any, settings: dict[str, Any], decoder: nn.Module, optimizer: Any) -> int:
    """Loads the training state, if any; returns the iteration at which to continue.

    Raises:
        ValueError: OUT holds a training with other settings, or something else.
    """
    file = args.out / 'training.pth'
    if not file.exists():
        return 0
    trust_folder(args.out)
    with reading(str(file), file=file):
        state = torch.load(file, map_location='cpu', weights_only=True)
    if not isinstance(state, dict) or {'settings', 'decoder', 'optimizer', 'step'} - state.keys():
        raise ValueError(f'{file} holds no training of this tool; choose another --out')
    if state['settings'] != settings:
        changed = {k: (v, settings[k]) for k, v in state['settings'].items() if v != settings[k]}
        told = ', '.join(f'{k} {before!r} -> {now!r}' for k, (before, now) in changed.items())
        raise ValueError(f'{file} is of a training with other settings ({told}); choose another --out')
    decoder.load_state_dict(state['decoder'])
    optimizer.load_state_dict(state['optimizer'])
    return int(state['step'])


def train(args: Any, images: ImageDataset, encoder: nn.Sequential) -> nn.Sequential:
    """The decoder after `args.iters` iterations; OUT/training.pth always holds the newest complete state."""
    names = ('encoder_checkpoint', 'batch_size', 'size', 'lr', 'style_weight', 'seed')
    settings = {'images': str(args.images.resolve()), **{name: getattr(args, name) for name in names}}
    torch.manual_seed(args.seed)
    decoder = vgg.decoder().to(args.device)
    optimizer = torch.optim.Adam(decoder.parameters(), args.lr)
    begin = resume(args, settings, decoder, optimizer)
    bar = tqdm(load(images, args, range(begin, args.iters)), initial=begin, total=args.iters, mininterval=1)
    for step, batch in enumerate(bar, begin + 1):
        optimizer.param_groups[0]['lr'] = args.lr / (1 + DECAY * (step - 1))
        content, style = losses(encoder, decoder, batch.to(args.device))
        optimizer.zero_grad()
        (content + args.style_weight * style).backward()
        optimizer.step()
        if step % 10 == 0 or step == args.iters:
            bar.set_postfix(content=f'{content.item():.3f}', style=f'{style.item():.3f}')
        if step % args.save_every == 0 or step == args.iters:
            if not torch.isfinite(content + style):
                raise FloatingPointError(f'the loss is not finite after {step} iterations; try a lower --lr')
            state = {'decoder': decoder.state_dict(), 'optimizer': optimizer.state_dict()}
            save_atomic({'settings': settings, 'step': step, **state}, args.out / 'training.pth')
    return decoder


def draw(args: Any, images: ImageDataset) -> Path:
    """Draws OUT/samples.png with the styliser, which reads the written files; returns its path."""
    files = {'encoder': str(args.out / 'vgg_normalised.pth'), 'decoder': str(args.out / 'decoder.pth')}
    styliser = build_styliser({'type': 'adain', **files})
    steps = [transforms.Resize(args.size), transforms.CenterCrop(args.size), transforms.ToTensor()]
    images.transform = transforms.Compose(steps)
    chosen = [i * len(images) // SAMPLES for i in range(SAMPLES)]
    shown = torch.stack([images[i][0] for i in chosen])
    rows = [torch.ones_like(shown[0]), *shown]
    for content in shown:
        rows += [content, *styliser(content.expand_as(shown), shown)]
    with atomic_write(args.out / 'samples.png') as part:
        save_image(rows, part, nrow=SAMPLES + 1, format='png')
    return args.out / 'samples.png'


def device_of(name: str | None) -> str:
    """A torch device; by default the GPU if there is one.

    Raises:
        ValueError: there is no such device.
    """
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f'--device {name}: {str(error).partition(chr(10))[0]}') from error
    return name


def run(args: Any) -> Path:
    """Trains, and writes all files; returns the path of the picture."""
    args.device = device_of(args.device)
    images = open_images(args)
    with claimed(args.out, 'this tool', 'choose another --out'):
        if (args.out / 'decoder.pth').exists() and not (args.out / 'training.pth').exists():
            raise FileExistsError(f'{args.out} holds a decoder.pth that was not trained there; choose another --out')
        decoder = train(args, images, open_encoder(args, images))
        save_atomic(decoder.cpu().state_dict(), args.out / 'decoder.pth')
        return draw(args, images)
