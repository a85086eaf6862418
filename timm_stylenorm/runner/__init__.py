"""What mmengine's Runner needs of both hosts; importing this registers its hooks and optimizer wrappers."""

from . import adabn, checkpoint, isw, optim, resume, styled

__all__ = ['adabn', 'checkpoint', 'isw', 'optim', 'resume', 'styled']
