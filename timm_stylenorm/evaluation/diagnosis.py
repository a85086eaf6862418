"""How much of the drop between two domains is style, and where in a network: measured before any training.

At one place of a network at a time, the feature maps of one domain are given the channel statistics of the other, and
nothing else changes; see `exchange`. The part of the target score that this regains is what a method that works on
statistics could regain there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from ..surgery.context import eval_mode
from ..surgery.listing import MethodAt, methods_at
from ..surgery.structure import levels_of
from .exchange import ChannelStatistics, matched, per_image
from .places import Look, Place, find_places, looking
from .probe import domain_probe
from .seen import Predict, Seen, Value, draws_of, ratio_of, value_of

WORTH, MOST, ALL = 20, 50, 90  # percent of the drop


@dataclass(frozen=True)
class PlaceReport:
    """What was found at a place; the score is accuracy or mIoU in percent, or without labels the entropy in nats.

    Attributes:
        site: 'stage1', or a module's name.
        module: The module's name.
        channels: Number of channels of its maps.
        domain_probe: Percentage of images whose domain a linear probe recognises from their channel statistics; chance
            is 50.
        matched: Points of the score on the target that matched statistics of the source regain.
        per_image: The same for the statistics of a random source image.
        harm: Points of the score on the source that matched statistics of the target cost.
        share: `matched` in percent of the drop; None where there is no drop.
        agreement: Percentage of predictions for the target that matched statistics leave unchanged.
        methods: The methods that act there.
        is_read: Whether this is the last stage of a classifier. The last layer reads the means of these channels, so
            matching them matches the classes, too.
    """

    site: str
    module: str
    channels: int
    domain_probe: float
    matched: Value
    per_image: Value
    harm: Value
    share: Value | None
    agreement: float
    methods: list[MethodAt]
    is_read: bool = False

    @property
    def is_worth(self) -> bool:
        """Whether enough of the drop comes back for a method that acts there to be worth a try."""
        return self.share is not None and self.share.value >= WORTH and self.matched.is_clear


@dataclass(frozen=True)
class Diagnosis:
    """All that `diagnose` finds.

    Attributes:
        measure: 'accuracy', 'mIoU' or 'entropy'.
        images: Numbers of images of source and target.
        source: The score on the source.
        target: The score on the target.
        drop: Points lost from source to target, or the nats by which the entropy rises.
        places: In the order of the network.
        provenance: What was measured, and with what.
    """

    measure: str
    images: tuple[int, int]
    source: Value
    target: Value
    drop: Value
    places: list[PlaceReport]
    provenance: dict[str, object] = field(default_factory=dict)

    @property
    def ranked(self) -> list[PlaceReport]:
        """The places, sorted by what matched statistics regain there, the most first."""
        return sorted(self.places, key=lambda place: -place.matched.value)

    @property
    def judged(self) -> PlaceReport:
        """The best place; the last stage of a classifier only if it regains nearly all of the drop."""
        first, *others = self.ranked
        is_less = first.is_read and first.share is not None and first.share.value < ALL
        return others[0] if is_less and others else first

    @property
    def verdict(self) -> str:
        """The conclusion, in sentences."""
        unit = 'nats of entropy' if self.measure == 'entropy' else f'points of {self.measure}'
        drop, first, best = f'{self.drop} {unit}', self.ranked[0], self.judged
        if best.share is None:
            return f'From source to target no more is lost than by chance ({drop}): there is nothing to regain.'
        told = ''
        if first is not best and first.share is not None:
            told = (
                f' After {first.site} it is {first.matched} ({first.share.value:.0f} %), but its channel means are '
                'what the classifier reads, and to match them matches classes, too.'
            )
        return f'Of {drop} that are lost, {_said(best, best.share.value)}{told}'

    def to_dict(self) -> dict[str, object]:
        """A dict for JSON, with the verdict and the ranking."""
        return {'verdict': self.verdict, 'ranking': [place.site for place in self.ranked], **asdict(self)}


def _said(best: PlaceReport, share: float) -> str:
    """What the verdict says about the best place."""
    back = (
        f'{best.matched} ({share:.0f} %) come back where maps at {best.site} get the channel statistics of the source.'
    )
    if not best.is_worth:
        return f'{back} Little of the drop is style, as channel statistics tell it: little can be regained.'
    much = 'Most' if share >= MOST else 'A part'
    return f'{back} {much} of the drop is style: methods that act at {best.site} are worth a try.'


def diagnose(
    model: nn.Module,
    source: Iterable[object],
    target: Iterable[object],
    *,
    sites: str | Sequence[str] | None = None,
    predict: Predict | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Diagnosis:
    """Find out at which sites channel statistics of the source regain the lost score on the target, and how much.

    The model is not changed. It runs once over the images of both domains, then 3 times for each place.

    Args:
        model: The network that has the sites: a classifier, or the backbone of a segmentor.
        source: Batches (images, labels), or images alone, of the domain on which the model is good. They are iterated
            over several times: pass in a list, or a data loader that does not shuffle.
        target: Batches of the other domain. If not all images have labels, the score is the entropy of predictions.
        sites: Name or names as `add_style` takes them; by default the input, the stem and the ends of the stages.
        predict: Returns, for a batch, the logits (K,) or (K, H, W) and the label, or None, of each image. By default
            the batch is (images, labels), and the model returns logits. Modules beside the model that it runs must be
            in evaluation mode.
        seed: Seed of the choice of images whose statistics are taken, and of the standard errors.
        progress: Called with the name of a place, the number of finished runs over a domain, and that of all runs.

    Raises:
        ValueError: An unknown site, a domain without images, or labels that do not fit the logits.
        ImportError: scikit-learn is not installed.
    """
    model = unwrap_model(model)
    places = find_places(model, [sites] if isinstance(sites, str) else sites)
    run = _Run(predict or _classify(model), progress, 2 + 3 * len(places))
    own, other = ChannelStatistics(), ChannelStatistics()
    with eval_mode(model), torch.no_grad():
        plain = run('as it is', source, places, own.look), run('as it is', target, places, other.look)
        scores = _Scores(*plain, seed)
        methods = methods_at(model, {place.name: place.path for place in places})
        last = [] if plain[0].dense else list(levels_of(model))[-1:]
        reports = []
        for place in sorted(places, key=lambda place: own.places.index(place.name)):
            name = place.name
            changed = (
                run(name, target, [place], matched(other, own)),
                run(name, target, [place], per_image(own, seed)),
                run(name, source, [place], matched(own, other)),
            )
            told = _told_apart(own.features(name), other.features(name))
            back, by_image, harm, share, agreement = scores.compare(*changed)
            reports.append(
                PlaceReport(
                    name, place.path, own.of(name)[0].shape[1], told, back, by_image, harm, share, agreement,
                    methods[name], name in last,
                )
            )  # fmt: skip
    images = len(plain[0].said), len(plain[1].said)
    return Diagnosis(scores.measure, images, scores.source, scores.target, scores.drop, reports, {'seed': seed})


def _classify(model: nn.Module) -> Predict:
    """The function that runs batches (images, labels), or images, through a classifier on its device."""
    like = next(model.parameters(), torch.zeros(()))

    def predict(batch: object) -> list[tuple[Tensor, Tensor | None]]:
        images, labels = batch if isinstance(batch, list | tuple) and len(batch) == 2 else (batch, None)
        if not isinstance(images, Tensor):
            told = f'{len(images)} items' if isinstance(images, list | tuple) else type(images).__name__
            raise ValueError(f'diagnose: a batch is images, or (images, labels), got {told}; give predict=')
        logits = model(images.to(like.device, like.dtype))
        return list(zip(logits, [None] * len(logits) if labels is None else labels, strict=True))

    return predict


def _told_apart(one: Tensor, two: Tensor) -> float:
    """How well a linear probe tells two domains apart by their features, in percent."""
    domains = torch.cat([torch.zeros(len(one)), torch.ones(len(two))])
    return 100 * domain_probe(torch.cat([one, two]).cpu().double().numpy(), domains.numpy())


class _Run:
    """Runs of the network over a domain."""

    def __init__(self, predict: Predict, progress: Callable[[str, int, int], None] | None, runs: int) -> None:
        self.predict, self.progress, self.runs, self.done = predict, progress, runs, 0

    def __call__(self, name: str, batches: Iterable[object], places: Sequence[Place], look: Look) -> Seen:
        seen = Seen()
        with looking(places, look):
            for batch in batches:
                seen.add(self.predict(batch))
        if not seen.said:
            raise ValueError('diagnose: no image in a domain, or its batches can be iterated over only once')
        self.done += 1
        if self.progress is not None:
            self.progress(name, self.done, self.runs)
        return seen


class _Scores:
    """Scores and their differences, with standard errors from resampling the images of both domains."""

    def __init__(self, source: Seen, target: Seen, seed: int) -> None:
        self.by_label = source.labelled and target.labelled
        self.plain, self.seen = target, (source, target)
        self.draws = draws_of(len(source.said), seed), draws_of(len(target.said), seed + 1)
        self.good = self._good(source, 0), self._good(target, 1)
        self.lost = self.good[0] - self.good[1]
        sign = 1 if self.by_label else -1
        self.source, self.target = (value_of(sign * good) for good in self.good)
        self.drop = value_of(self.lost)

    @property
    def measure(self) -> str:
        return ('mIoU' if self.plain.dense else 'accuracy') if self.by_label else 'entropy'

    def _good(self, seen: Seen, domain: int) -> Tensor:
        """A number for each draw that is higher if better: the score, or the negative entropy."""
        return seen.score(self.draws[domain]) if self.by_label else -seen.entropy(self.draws[domain])

    def compare(self, target: Seen, drawn: Seen, source: Seen) -> tuple[Value, Value, Value, Value | None, float]:
        """What is regained in the two ways, the harm, the share of the drop, and the agreement."""
        back = self._good(target, 1) - self.good[1]
        share = ratio_of(back, self.lost) if self.drop.is_clear else None
        by_image = value_of(self._good(drawn, 1) - self.good[1])
        harm = value_of(self.good[0] - self._good(source, 0))
        return value_of(back), by_image, harm, share, target.agreement(self.plain)
