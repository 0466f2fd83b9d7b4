"""An attributor's network together with its controls: other networks that see the same images in other ways."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_modules.networks.fusion import FusionNetwork
from lightning_modules.networks.recipes import Chosen, Recipe, recipe_for
from lightning_modules.networks.rules import FittedRule, build_rule
from lightning_modules.networks.source_network import RULE_NAMES, SourceNetwork, VectorHead

MAIN, FUSION = "main", "fusion"
_SEED_STEP = 1000  # between initialisations, so that those of neighbouring experiment seeds differ

Outputs = dict[str, tuple[Tensor, Tensor]]
"""Logits (N, K) and features (N, d) by network."""


def build_network(
    shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    name: str,
    stem: str = "imagenet",
    weights: str = "none",
    input_size: int | None = None,
) -> SourceNetwork | VectorHead | FittedRule:
    """The network for inputs of a shape, (C, H, W) or (d,); the other arguments are those of `SourceNetwork`.

    Raises:
        ValueError: Vectors with pretrained weights or an input size.
    """
    if len(shape) == 3:
        return SourceNetwork(name, num_classes, stem, weights, input_size, seed, shape[0], min(shape[1:]))
    if weights != "none" or input_size is not None:
        found = f"found weights {weights} and input_size {input_size} for vectors of shape {shape}"
        raise ValueError(f"{found}; expected none of them")
    if name in RULE_NAMES:
        return build_rule(name, shape[0], num_classes)
    return VectorHead(name, shape[0], num_classes, seed)


class ControlledNetworks(nn.Module):
    """The main network on its representation, and for each control several initialisations of one network.

    They share no parameter, so that under an optimiser that treats each parameter alone (AdamW without clipping by a
    global norm) no network notices that others are trained beside it.

    Args:
        chosen: Name and stem of the ``main`` network and of the ``control`` networks (`choose_networks`).
        representations: What the main network sees; of several, each has a branch (`FusionNetwork`).
        controls: What each control sees.
        shapes: Shape of one input, (C, H, W) or (d,), by representation.
        weights: Pretrained weights, see `SourceNetwork`; of the controls too, where they have the same network.
        load_weights: False where a checkpoint fills the networks; `weights` then decides the recipes alone.

    Attributes:
        seen: Representations that each network sees: one, or several of a fusion.
        recipes: How each network is trained.
        rules: Those that are fitted in place of it (`FittedRule`); one of each control, whatever the number of seeds.
        compared: Networks of one kind by what they see, so that their accuracies compare; empty without controls.

    Raises:
        ValueError: Images for some networks and vectors for others.
    """

    def __init__(
        self,
        chosen: Chosen,
        representations: Sequence[str],
        controls: Sequence[str],
        shapes: Mapping[str, tuple[int, ...]],
        num_classes: int,
        control_seeds: int = 1,
        seed: int = 0,
        weights: str = "none",
        input_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__()
        several = len(representations) > 1
        if not several and len({len(shapes[name]) for name in (*representations, *controls)}) > 1:
            seen = ", ".join(f"{name} {shapes[name]}" for name in (*representations, *controls))
            raise ValueError(
                f"found representations of shapes {seen}; expected images from all, or vectors from all; "
                "choose other controls, or none: --model.init_args.controls '[]'"
            )
        own = chosen.get(MAIN, chosen["control"])
        same = own == chosen["control"] and (not several or len(set(chosen.values())) == 1)
        self.seen: dict[str, tuple[str, ...]] = {MAIN: tuple(representations)}
        self.recipes = {MAIN: recipe_for(own[0], weights)}
        main = FUSION if several else representations[0]
        self.compared: dict[str, list[str]] = {main: [MAIN]} if controls and control_seeds and same else {}

        def build(part: str, seen: str, own_seed: int) -> Any:
            pretrained = weights if load_weights and (same or part != "control") else "none"
            return build_network(shapes[seen], num_classes, own_seed, *chosen[part], pretrained, input_size)

        if several:
            branches = {name: build(f"{MAIN}/{name}", name, seed + place) for place, name in enumerate(representations)}
            self.networks = nn.ModuleDict({MAIN: FusionNetwork(branches)})
            own_recipes = {f"{MAIN}/{name}": recipe_for(chosen[f"{MAIN}/{name}"][0], weights) for name in branches}
            first = next((name for name in representations if len(shapes[name]) == 3), representations[0])
            self.recipes = {**own_recipes, MAIN: own_recipes[f"{MAIN}/{first}"]}
        else:
            self.networks = nn.ModuleDict({MAIN: build(MAIN, representations[0], seed)})
        for shown in controls:
            for repeat in range(min(control_seeds, 1) if chosen["control"][0] in RULE_NAMES else control_seeds):
                name = f"{shown}_{repeat}"
                self.networks[name] = build("control", shown, seed + _SEED_STEP * (repeat + 1))
                self.seen[name] = (shown,)
                self.recipes[name] = recipe_for(chosen["control"][0], weights if same else "none")
                self.compared.setdefault(shown, []).append(name)
        self.rules = {name: found for name, found in self.networks.items() if isinstance(found, FittedRule)}
        if self.learning:  # where nothing is trained, Lightning and DDP want something that looks like a parameter
            for rule in self.rules.values():
                rule.requires_grad_(False)

    @property
    def learning(self) -> dict[str, nn.Module]:
        """The networks that are trained by gradients; empty where rules alone decide."""
        return {name: network for name, network in self.networks.items() if name not in self.rules}

    @property
    def inputs(self) -> set[str]:
        """Representations that the networks see."""
        return self.inputs_of(self.seen)

    def inputs_of(self, names: Iterable[str]) -> set[str]:
        """Representations that these networks see."""
        return {shown for name in names for shown in self.seen[name]}

    def set_input_statistics(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Standardise the input of every trained network with the mean and deviation of its representation."""
        for name, network in self.learning.items():
            network.set_input_statistics(*(statistics[each] for each in self.seen[name]))  # type: ignore[operator]

    def fit_rules(self, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Fit every rule, on inputs by representation and labels of all training images; these are read once."""
        if len(self.rules) > 1:
            batches = list(batches)
        for name, rule in self.rules.items():
            (shown,) = self.seen[name]
            rule.fit((inputs[shown], labels) for inputs, labels in batches)

    def forward(self, inputs: Mapping[str, Tensor], names: Sequence[str] | None = None) -> Outputs:
        """Outputs of the named networks, by default of all, for inputs (N, C, H, W) or (N, d) by representation."""
        chosen = self.seen if names is None else names
        return {name: self.networks[name](*(inputs[each] for each in self.seen[name])) for name in chosen}

    def losses(self, outputs: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of each network, with the label smoothing of its recipe; of a fusion the branches' sum."""
        found = {}
        for name, (logits, features) in outputs.items():
            network, recipe = self.networks[name], self.recipes[name]
            if isinstance(network, FusionNetwork):
                smoothing = [self.recipes[f"{name}/{branch}"].label_smoothing for branch in network.names]
                found[name] = network.losses(features, labels, smoothing)
            else:
                found[name] = cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        return found

    @property
    def fusion(self) -> FusionNetwork | None:
        """The main network, if it fuses several representations."""
        main = self.networks[MAIN]
        return main if isinstance(main, FusionNetwork) else None

    def trained(self) -> list[tuple[nn.Module, Recipe]]:
        """Every network that is trained, or branch of one, with its recipe."""
        parts: list[tuple[nn.Module, Recipe]] = []
        for name, network in self.learning.items():
            if isinstance(network, FusionNetwork):
                parts += [(each, self.recipes[f"{name}/{branch}"]) for branch, each in network.branches.items()]
            else:
                parts.append((network, self.recipes[name]))
        return parts

    def energy(self, logits: Tensor, features: Tensor) -> Tensor:
        """Log sum exp (N,) of the main network's own logits; of a fusion, of the sum of those of its branches.

        Of a rule, which has no last layer, of its `logits` (N, K). Features (N, d) of an image and its mirror image are
        their mean, and so are the logits of a linear last layer.
        """
        main = self.networks[MAIN]
        if isinstance(main, FittedRule):
            return logits.logsumexp(dim=1)
        own: Tensor = main.classify(features)  # type: ignore[operator]
        return own.logsumexp(dim=1)

    def answers(
        self,
        inputs: Mapping[str, Tensor],
        names: Sequence[str] | None = None,
        mirrored: Mapping[str, Tensor] | None = None,
    ) -> Outputs:
        """What `forward` gives; with inputs of the `mirrored` images means of probabilities and features over both.

        Logits are then the logarithm of the mean probabilities.
        """
        outputs = self.forward(inputs, names)
        if mirrored is None:
            return outputs
        others = self.forward(mirrored, names)
        both = {}
        for name, (logits, features) in outputs.items():
            other_logits, other_features = others[name]
            summed = torch.logaddexp(logits.log_softmax(dim=1), other_logits.log_softmax(dim=1))
            both[name] = (summed - math.log(2), (features + other_features) / 2)
        return both


def channel_statistics(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of (N, C, H, W), or coordinate of (N, d), in double precision."""
    values = inputs.double().transpose(0, 1).flatten(1)
    return values.mean(dim=1), values.std(dim=1)
