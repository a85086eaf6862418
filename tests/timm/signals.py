"""Networks of signals (N, C, L) and of clips (N, C, T, H, W), small ones."""

import torch
from torch import nn
from torchvision.models import video


class Block(nn.Module):
    """The residual block of ResNet-18, over one axis."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv1d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm1d(after)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv1d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm1d(after)
        shortcut = [nn.Conv1d(before, after, 1, stride, bias=False), nn.BatchNorm1d(after)]
        self.downsample = nn.Sequential(*shortcut) if (before, stride) != (after, 1) else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


class ResNet1d(nn.Module):
    """A ResNet of signals of one channel, with a batch norm of vectors in its head."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 16, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm1d(16)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool1d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 24, 2))
        self.layer3 = nn.Sequential(Block(24, 32, 2))
        self.layer4 = nn.Sequential(Block(32, 48, 2))
        self.fc = nn.Linear(48, 32)
        self.neck = nn.BatchNorm1d(32)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(-1)
        return self.head(self.neck(self.fc(x)))


def _video(name):
    return lambda: getattr(video, name)(num_classes=4)


# name -> how it is built, and the shape of its input without the batch
NETWORKS = {
    'resnet1d': (ResNet1d, (1, 128)),
    'r3d_18': (_video('r3d_18'), (3, 4, 16, 16)),
    'mc3_18': (_video('mc3_18'), (3, 4, 16, 16)),
    'r2plus1d_18': (_video('r2plus1d_18'), (3, 4, 16, 16)),
}


def inputs(name, n=2):
    return torch.randn(n, *NETWORKS[name][1])
