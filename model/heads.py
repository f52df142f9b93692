"""Projection heads g: h -> z (Chen et al. 2020, section 4.2 and appendix B.9; Chen et al. 2020b for three layers)."""

from torch import nn

from model.config import HeadConfig


def build_head(config: HeadConfig, features: int) -> nn.Sequential:
    """Create the head: linear layers, each followed by BatchNorm instead of a bias, ReLU between them.

    Hidden layers are as wide as h unless told otherwise. The last BatchNorm has a scale but no bias, as in the
    reference code.

    Args:
        config: kind, depth and output length.
        features: length of h.

    Returns:
        A module (B, features) -> (B, config.dim); the identity on h if the kind is none.
    """
    if config.kind == "none":
        return nn.Sequential()
    layers: list[nn.Module] = []
    length, hidden = features, config.hidden or features
    for _ in range(config.layers - 1 if config.kind == "mlp" else 0):
        layers.append(nn.Linear(length, hidden, bias=not config.batchnorm))
        if config.batchnorm:
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU(inplace=True))
        length = hidden
    layers.append(nn.Linear(length, config.dim, bias=not config.batchnorm))
    if config.batchnorm:
        last = nn.BatchNorm1d(config.dim)
        last.bias.requires_grad_(False)  # stays zero; BatchNorm kernels want the pair of scale and bias
        layers.append(last)
    return nn.Sequential(*layers)
