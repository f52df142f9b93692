"""Projection heads g: h -> z (Chen et al. 2020, section 2.1 and appendix B.9; Chen et al. 2020b for three layers)."""

from torch import nn

from model.config import HeadConfig


def build_head(config: HeadConfig, features: int) -> nn.Sequential:
    """Create the MLP head: linear layers without bias, each followed by BatchNorm, ReLU between.

    Hidden layers are as wide as h. The last BatchNorm has a scale but no bias, as in the reference code.

    Args:
        config: depth and output length.
        features: length of h.

    Returns:
        A module (B, features) -> (B, config.dim).
    """
    layers: list[nn.Module] = []
    for _ in range(config.layers - 1):
        layers += [nn.Linear(features, features, bias=False), nn.BatchNorm1d(features), nn.ReLU(inplace=True)]
    last = nn.BatchNorm1d(config.dim)
    last.bias.requires_grad_(False)  # stays zero; BatchNorm kernels want the pair of scale and bias
    layers += [nn.Linear(features, config.dim, bias=False), last]
    return nn.Sequential(*layers)
