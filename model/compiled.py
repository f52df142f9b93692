"""What torch.compile made of the encoder."""


def graph_breaks() -> int:
    """Places where compiled code hands back to Python, counted since the process began."""
    from torch._dynamo.utils import counters

    return sum(counters["graph_break"].values())
